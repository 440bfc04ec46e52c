"""``dvc://PATH@REV`` and ``dvc+https://HOST/REPOSITORY//PATH@REV``: what is asked for, and what is on record. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from ledger.errors import UsageError
from ledger.hooks.uris import local_path, without_credentials

if TYPE_CHECKING:
    from pathlib import Path

_FORM: Final = (
    "write dvc://PATH@REV for the git repository of the working directory, or "
    "dvc+https://HOST/REPOSITORY.git//PATH@REV (dvc+ssh:, dvc+file:) for another one"
)
_HOST: Final = r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d+)?"
_ADDRESS: Final = re.compile(rf"(https?://|ssh://(\w[\w.-]*@)?)(?!-){_HOST}/.+")
_SLASHED: Final = re.compile(r"[^/@\[]*:(?!\d*/)[^@/]*/[^@]*@")
"""A password with a slash in it, which no URL may hold."""
_REV: Final = re.compile(r"[^\s-]\S*")


@dataclass(frozen=True)
class Place:
    """A file or directory of a git repository."""

    repository: str
    """URL of the repository; empty for that of the working directory."""
    path: str
    """Relative to the root of the repository, without a final slash."""
    rev: str | None
    """A commit, branch, tag or expression; None for the newest commit, if nothing is uncommitted."""

    @property
    def directory(self) -> Path | None:
        """Where the repository lies, if that is on this machine and on record."""
        return local_path(self.repository) if self.repository.startswith("file:") else None

    def __str__(self) -> str:
        return f"dvc+{self.repository}//{quote(self.path, safe='/ ')}@{self.rev}"

    @classmethod
    def parse(cls, uri: str) -> Place:
        """Read ``uri``. Raises ``UsageError``, which never repeats what may be a password."""
        scheme, mark, rest = uri.partition("://")
        kind = scheme.lower().removeprefix("dvc").removeprefix("+")
        if kind in ("http", "https", "ssh") and _holds_secret(kind, rest):
            raise UsageError(
                "a dvc: URI holds no password and no token", mend=f"{_FORM}; git asks its credential helper for them"
            )
        if not mark:
            raise UsageError("a dvc: URI has two slashes after its scheme", mend=_FORM)
        if kind not in ("", "http", "https", "ssh", "file"):
            raise UsageError(f"{without_credentials(uri)} names no data in a git repository", mend=_FORM)
        if "?" in rest:
            raise UsageError(
                f"{without_credentials(uri)}: there are no options", mend="a question mark in a name is written %3F"
            )
        repository = ""
        if kind:
            address, _, rest = rest.partition("//")
            repository = _repository(f"{kind}://{address}", uri)
        path, mark, rev = rest.rpartition("@")
        if mark and not _REV.fullmatch(rev):
            raise UsageError(f"{uri} names no revision", mend=f"{_FORM}; an @ in a name is written %40")
        return cls(repository, _path(path if mark else rest, uri), rev if mark else None)


def _holds_secret(kind: str, rest: str) -> bool:
    user, mark, _ = rest.partition("/")[0].rpartition("@")
    return (bool(mark) and (kind != "ssh" or ":" in user)) or bool(_SLASHED.match(rest))


def _repository(address: str, uri: str) -> str:
    path = local_path(address)
    if path is not None:
        return path.as_uri()
    if not _ADDRESS.fullmatch(address):
        raise UsageError(f"{uri} names no git repository", mend=_FORM)
    return address


def _path(text: str, uri: str) -> str:
    try:
        path = unquote(text, errors="strict").rstrip("/")
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri} is not UTF-8 when decoded: {error.reason}", mend=_FORM) from error
    if not path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise UsageError(f"{uri} names no path below the root of a repository", mend=_FORM)
    return path
