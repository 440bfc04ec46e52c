"""A git repository at one commit, with what DVC keeps beside it. Nothing is checked out, and no branch is moved.

A working tree on this machine is read where it is; any other repository is cloned to a temporary directory that goes
with the process. Everything raises ``DataUnavailable``, and no message holds what a server has said: that may hold a
key.
"""

from __future__ import annotations

import stat
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import DataUnavailable, LedgerError, PluginUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PIECE: Final = 8 << 20


@dataclass(frozen=True)
class File:
    """A file at a commit."""

    name: str
    """Relative to the data set; ``.`` for the one file that is all of it."""
    path: str
    executable: bool
    tracked: Any
    """DVC's entry, with its hash; None for a file that git itself holds."""
    storage: Any
    """Where DVC may have its content."""


class Repository:
    """A repository at one commit."""

    def __init__(self, location: str, rev: str | None) -> None:
        """Open it at ``location``, a path or URL, and find the commit that ``rev`` means now.

        None, for a URL, is the newest commit of its default branch.
        """
        from dvc.api import DVCFileSystem
        from dvc.scm import RevError

        self.location = location
        try:
            self.fs = DVCFileSystem(location, rev=rev, subrepos=True)
            self._found = self.fs.repo.scm.resolve_commit(self.fs.repo.get_rev())
        except RevError:
            raise DataUnavailable(
                f"the repository {location} has no commit, branch or tag {rev}",
                mend="check it with `git log`, and that it was fetched; a repository without commits needs one first",
            ) from None
        except Exception as error:  # noqa: BLE001 - git's libraries have many ways to say that there is no repository
            raise DataUnavailable(
                f"there is no git repository with commits at {location} ({type(error).__name__})",
                mend="check the address and your rights with `git ls-remote`; commit the .dvc files",
            ) from None

    @property
    def commit(self) -> str:
        """The id of the commit."""
        return str(self._found.hexsha)

    @property
    def facts(self) -> dict[str, Any]:
        """Who committed it, when, with what message."""
        return {
            "message": self._found.message.strip(),
            "author": f"{self._found.author_name} <{self._found.author_email}>",
            "committed": datetime.fromtimestamp(self._found.commit_time, UTC).isoformat(),
        }

    def files(self, path: str) -> list[File]:
        """Every file at or below ``path``, but for DVC's own."""
        with self._failures(path):
            try:
                single = self.fs.info(f"/{path}")["type"] == "file"
            except FileNotFoundError:
                raise DataUnavailable(
                    f"neither git nor DVC tracks {path} at {self.commit[:12]} in {self.location}",
                    mend="check the path, which begins at the root of the repository; "
                    "if it is new, `dvc add` and commit it",
                ) from None
            found = self.fs.find(f"/{path}", detail=True)
            return [_file("." if single else where[len(path) + 2 :], where, info) for where, info in found.items()]

    def outputs(self, path: str) -> dict[str, str | None]:
        """The MD5 that the commit has for each of DVC's outputs at, above or below ``path``; by path.

        None for one of a pipeline that was never run.
        """
        found: dict[str, str | None] = {}
        with self._failures(path):
            for repo in {id(repo): repo for repo in self._repositories(path)}.values():
                for output in repo.index.outs:
                    where = output.fs_path.lstrip("/")
                    if f"{where}/".startswith(f"{path}/") or f"{path}/".startswith(f"{where}/"):
                        found[where] = output.hash_info.value
        return found

    def pieces(self, file: File) -> Iterator[bytes]:
        """The bytes of a file, from DVC's cache or a remote."""
        with self._failures(file.path), self.fs.open(f"/{file.path}", "rb") as stream:
            while piece := stream.read(_PIECE):
                yield piece

    def missing(self, files: Sequence[File]) -> list[str]:
        """Paths of those whose content is in no cache and in no remote; nothing is read."""
        wanted = {file.path: file for file in files if file.tracked is not None}
        for kind in ("cache", "remote", "data"):
            places: dict[Any, dict[str, str]] = {}
            for path, file in wanted.items():
                with self._failures(path):
                    if kept := getattr(file.storage, kind):
                        filesystem, place = kept.get(file.tracked)
                        places.setdefault(filesystem, {})[path] = place
            for filesystem, named in places.items():
                with self._failures(f"what lies in a {kind}"):
                    there = filesystem.exists(list(named.values()))
                wanted = {
                    path: file for path, file in wanted.items() if not dict(zip(named, there, strict=True)).get(path)
                }
        return sorted(wanted)

    def _repositories(self, path: str) -> Iterator[Any]:
        """DVC's own, one at the root and perhaps others below: those that a path has to do with."""
        if hasattr(self.fs.repo, "dvc_dir"):
            yield self.fs.repo
        yield from (
            info["repo"] for info in self.fs.find(f"/{path}", detail=True).values() if hasattr(info["repo"], "dvc_dir")
        )

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - each kind of remote has exceptions of its own
            raise self._why(what, error) from None

    def _why(self, what: str, error: BaseException) -> LedgerError:
        causes = list(_causes(error))
        where = f"of the repository {self.location} at {self.commit[:12]}"
        if any(type(cause).__name__ == "RemoteMissingDepsError" for cause in causes):
            return PluginUnavailable(
                f"{what} {where} lies in a remote for which DVC is not equipped",
                mend="install DVC with the extra for it, for example pip install 'dvc[s3]'",
            )
        if any(isinstance(cause, PermissionError) or type(cause).__name__ == "AuthError" for cause in causes):
            return DataUnavailable(
                f"the remote that has {what} {where} refuses access",
                mend="check the keys that DVC uses: `dvc remote list`, `dvc fetch`",
            )
        if any(isinstance(cause, FileNotFoundError) for cause in causes):
            return DataUnavailable(
                f"missing {what} {where}: it is in no cache and in no remote",
                mend="`dvc push` it where it still is, and check that `dvc fetch` finds it",
            )
        kinds = ", ".join(dict.fromkeys(type(cause).__name__ for cause in causes))
        return DataUnavailable(f"{what} {where} cannot be read ({kinds})", mend="`dvc fetch` may tell more")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _file(name: str, where: str, info: dict[str, Any]) -> File:
    path = where.lstrip("/")
    held = info.get("fs_info")
    if held:
        if stat.S_ISLNK(held["mode"]):
            raise DataUnavailable(f"{path} is a symbolic link", mend="replace it by what it points to, and commit that")
        return File(name, path, bool(info["isexec"]), None, None)
    tracked = info["dvc_info"]["entry"]
    return File(
        name, path, bool(info["dvc_info"]["isexec"]), tracked, info["repo"].index.data["repo"].storage_map[tracked.key]
    )
