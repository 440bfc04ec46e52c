"""Where objects lie: a local directory, durably, or any other file system that fsspec knows.

A key is a relative path that the caller made, never one that came from outside.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol, cast
from uuid import uuid4

from ledger.errors import StoreUnavailable, UsageError
from ledger.hooks.uris import local_path, without_credentials

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

TEMPORARY: Final = "tmp"
"""Folder of what is being written, and of claims."""
_CLAIM: Final = ".claim"
_AT_A_TIME: Final = 100
_TIMES: Final = ("mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems of fsspec call the time of the last change."""


@dataclass(frozen=True, slots=True)
class Lying:
    """What lies in a place."""

    key: str
    bytes: int
    since: float | None
    """When it was written or last claimed, in Unix seconds; None where the place cannot tell."""


class Place(Protocol):
    """A flat set of immutable byte strings by key. Failures are ``OSError``."""

    label: str
    """For messages; without credentials."""

    def size(self, key: str) -> int | None:
        """Size in bytes, None where there is nothing."""

    def open(self, key: str) -> BinaryIO:
        """A stream to read from. Raises ``FileNotFoundError``."""

    def write(self, key: str, chunks: Iterable[bytes]) -> None:
        """Store ``chunks``: whole or, where they raise, not at all. Durable only after ``settle``."""

    def settle(self, keys: Iterable[str]) -> None:
        """Make the names of what was written durable."""

    def claim(self, keys: Collection[str]) -> None:
        """Let what is there of ``keys`` count as written now: whoever looks afterwards, and finds it, may use it."""

    def lying(self) -> Iterator[Lying]:
        """All that is there, half-written files included."""

    def remove(self, keys: Iterable[str], before: float) -> Iterator[str]:
        """Remove what was neither written nor claimed since ``before``, in Unix seconds; the keys that are gone."""


def open_place(url: str) -> Place:
    """The place that a local path or any fsspec URL names.

    Raises ``UsageError`` for a scheme that fsspec does not know, ``StoreUnavailable`` where its library is
    missing.
    """
    path = local_path(url)
    return LocalPlace(path) if path is not None else RemotePlace(url)


class LocalPlace:
    """A directory. fsspec is passed by: it has no fsync, and costs twice the time per file."""

    def __init__(self, root: Path) -> None:
        self.label = str(root)
        self._root = str(root)

    def size(self, key: str) -> int | None:
        """See ``Place``."""
        try:
            return os.stat(f"{self._root}/{key}").st_size
        except FileNotFoundError:
            return None

    def open(self, key: str) -> BinaryIO:
        """See ``Place``."""
        return open(f"{self._root}/{key}", "rb", buffering=0)

    def write(self, key: str, chunks: Iterable[bytes]) -> None:
        """See ``Place``. The content is on the disk before its name is; the name may be a moment later."""
        temporary = f"{self._root}/{TEMPORARY}/{uuid4().hex}"
        final = f"{self._root}/{key}"
        os.makedirs(os.path.dirname(temporary), exist_ok=True)
        try:
            with open(temporary, "xb") as stream:
                for chunk in chunks:
                    stream.write(chunk)
                stream.flush()
                os.fchmod(stream.fileno(), 0o444)  # nobody edits an object by accident
                os.fsync(stream.fileno())
            os.makedirs(os.path.dirname(final), exist_ok=True)
            os.replace(temporary, final)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def settle(self, keys: Iterable[str]) -> None:
        """See ``Place``."""
        for directory in {self._root, *(os.path.dirname(f"{self._root}/{key}") for key in keys)}:
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def claim(self, keys: Collection[str]) -> None:
        """See ``Place``."""
        for key in keys:
            with suppress(FileNotFoundError, PermissionError):  # nothing to claim; another user's
                os.utime(f"{self._root}/{key}")

    def lying(self) -> Iterator[Lying]:
        """See ``Place``."""
        for directory, _, names in os.walk(self._root):
            for name in names:
                path = os.path.join(directory, name)
                with suppress(FileNotFoundError):
                    status = os.stat(path)
                    yield Lying(os.path.relpath(path, self._root), status.st_size, status.st_mtime)

    def remove(self, keys: Iterable[str], before: float) -> Iterator[str]:
        """See ``Place``. A file is taken out of sight first: what was claimed until then is put back."""
        os.makedirs(f"{self._root}/{TEMPORARY}", exist_ok=True)
        for key in keys:
            path, aside = f"{self._root}/{key}", f"{self._root}/{TEMPORARY}/{uuid4().hex}"
            try:
                if os.stat(path).st_mtime > before:
                    continue
                os.rename(path, aside)
            except FileNotFoundError:
                continue
            if os.stat(aside).st_mtime > before:
                os.rename(aside, path)
            else:
                os.unlink(aside)
                yield key


class RemotePlace:
    """Any fsspec file system: what ``write`` has closed counts as durable, as the service promises."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.label = without_credentials(url)
        known = url if "://" in url else url.replace(":", "://", 1)
        try:
            self._fs: Any
            self._fs, root = url_to_fs(known)
        except ValueError as error:
            raise UsageError(
                f"{self.label} is no place for objects: {error}", mend="give a path or an fsspec URL"
            ) from error
        except ImportError as error:
            raise StoreUnavailable(f"{self.label} cannot be opened: {error}", mend="install that library") from error
        self._root = root.rstrip("/")

    def size(self, key: str) -> int | None:
        """See ``Place``."""
        try:
            return int(self._fs.size(f"{self._root}/{key}"))
        except FileNotFoundError:
            return None

    def open(self, key: str) -> BinaryIO:
        """See ``Place``."""
        return cast("BinaryIO", self._fs.open(f"{self._root}/{key}", "rb"))

    def write(self, key: str, chunks: Iterable[bytes]) -> None:
        """See ``Place``."""
        temporary = f"{self._root}/{TEMPORARY}/{uuid4().hex}"
        final = f"{self._root}/{key}"
        try:
            self._fs.makedirs(self._fs._parent(temporary), exist_ok=True)
            with self._fs.open(temporary, "wb") as stream:
                for chunk in chunks:
                    stream.write(chunk)
            self._fs.makedirs(self._fs._parent(final), exist_ok=True)
            self._fs.mv(temporary, final)
        except BaseException:
            with suppress(OSError):
                self._fs.rm_file(temporary)
            raise

    def settle(self, keys: Iterable[str]) -> None:
        """See ``Place``."""

    def claim(self, keys: Collection[str]) -> None:
        """See ``Place``. A file that names them: the time of a remote file cannot be set without writing it anew."""
        claim = f"{self._root}/{TEMPORARY}/{uuid4().hex}{_CLAIM}"
        self._fs.makedirs(self._fs._parent(claim), exist_ok=True)
        self._fs.pipe_file(claim, "\n".join(keys).encode())

    def lying(self) -> Iterator[Lying]:
        """See ``Place``."""
        found = self._found("")
        claimed = self._claimed(found)
        for path, about in found.items():
            key, since = path[len(self._root) + 1 :], _modified(about)
            yield Lying(key, int(about["size"]), None if since is None else max(since, claimed.get(key, since)))

    def remove(self, keys: Iterable[str], before: float) -> Iterator[str]:
        """See ``Place``. Claims are read anew for every hundred files: one that comes in between comes too late."""
        every = iter(keys)
        while some := list(islice(every, _AT_A_TIME)):
            claimed = self._claimed(self._found(TEMPORARY))
            for key in some:
                if claimed.get(key, before) <= before:
                    with suppress(FileNotFoundError):
                        self._fs.rm_file(f"{self._root}/{key}")
                        yield key

    def _found(self, folder: str) -> dict[str, Any]:
        self._fs.invalidate_cache()
        try:
            return cast("dict[str, Any]", self._fs.find(f"{self._root}/{folder}".rstrip("/"), detail=True))
        except FileNotFoundError:
            return {}

    def _claimed(self, found: Mapping[str, Any]) -> dict[str, float]:
        """When each key was claimed last."""
        claimed: dict[str, float] = {}
        for path, about in found.items():
            since = _modified(about)
            if path.endswith(_CLAIM) and since is not None:
                for key in self._fs.cat_file(path).decode().splitlines():
                    claimed[key] = max(since, claimed.get(key, since))
        return claimed


def _modified(about: Mapping[str, Any]) -> float | None:
    """Time of the last change of a file, of what fsspec tells about it, in Unix seconds."""
    told = next((about[name] for name in _TIMES if about.get(name)), None)
    if isinstance(told, str):
        told = datetime.fromisoformat(told)
    if isinstance(told, datetime):
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    return None if told is None else float(told)
