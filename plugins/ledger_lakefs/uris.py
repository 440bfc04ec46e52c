"""``lakefs://REPOSITORY/REF/PATH``: what the user asks for, and where in a commit it lies. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote

from ledger.errors import UsageError

_SCHEME: Final = "lakefs://"
_REPOSITORY: Final = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")
_REF: Final = re.compile(r"\w[\w.-]*(@|[~^\d]*)")
_NAME: Final = re.compile(r"\w[\w.-]*")
_FORM: Final = "write lakefs://REPOSITORY/REF/PATH, where REF is a branch, tag, commit or an expression such as main~1"


@dataclass(frozen=True)
class Place:
    """A file, or a directory with a final slash, at one commit of a repository."""

    repository: str
    commit: str
    path: str
    """Relative to the repository; empty for all of it."""

    @property
    def is_directory(self) -> bool:
        """Whether it names everything below ``path``."""
        return not self.path or self.path.endswith("/")

    def __str__(self) -> str:
        return f"{_SCHEME}{self.repository}/{self.commit}/{self.path}"

    @classmethod
    def parse(cls, recorded: str) -> Place:
        """The place that ``str`` wrote. Raises ``UsageError`` for anything else."""
        repository, _, rest = recorded.removeprefix(_SCHEME).partition("/")
        commit, slash, path = rest.partition("/")
        if not recorded.startswith(_SCHEME) or not slash or not _REPOSITORY.fullmatch(repository):
            raise UsageError("the record does not name a place in lakeFS", mend="start a new run on the data")
        return cls(repository, commit, path)


@dataclass(frozen=True)
class Asked:
    """A URI, read."""

    repository: str
    ref: str
    path: str
    """Relative to the repository, decoded; with a final slash only where the user wrote one."""
    message: str | None = None
    """Commit what is uncommitted on the branch with this message, before it is pinned."""
    keep: bool = True
    """Whether content that is read to be digested is kept on disk for the ``fetch`` that follows."""

    @property
    def may_be_branch(self) -> bool:
        """Whether ``ref`` is a name, and not an expression, which always means something committed."""
        return _NAME.fullmatch(self.ref) is not None

    @classmethod
    def parse(cls, uri: str) -> Asked:
        """Read ``uri``. Raises ``UsageError``, which never repeats what may be a password."""
        address, _, query = uri.partition("?")
        repository, _, rest = address[len(_SCHEME) :].partition("/")
        ref, _, path = rest.partition("/")
        if "@" in repository or ":" in repository:
            raise UsageError(
                "a lakefs: URI names no host and no key",
                mend=f"{_FORM}; the endpoint and the key are taken from the environment or ~/.lakectl.yaml",
            )
        if not address.lower().startswith(_SCHEME) or not _REPOSITORY.fullmatch(repository):
            raise UsageError(f"{address} names no lakeFS repository", mend=_FORM)
        if not _REF.fullmatch(ref):
            raise UsageError(f"{address} names no branch, tag or commit", mend=_FORM)
        message, keep = _options(address, query)
        try:
            return cls(repository, ref, unquote(path, errors="strict"), message, keep)
        except UnicodeDecodeError as error:
            raise UsageError(f"{address} is not UTF-8 when decoded: {error.reason}", mend=_FORM) from error


def _options(address: str, query: str) -> tuple[str | None, bool]:
    message, keep = None, True
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "commit" and value.strip():
            message = value
        elif key == "keep" and value in ("yes", "no"):
            keep = value == "yes"
        else:
            raise UsageError(
                f"{address}: the option {key} is not understood",
                mend="the options are ?commit=MESSAGE and ?keep=no; a question mark in a name is written %3F",
            )
    return message, keep
