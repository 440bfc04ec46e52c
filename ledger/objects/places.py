"""Where objects lie: a local directory, durably, or any other file system that fsspec knows.

A key is a relative path that the caller made, never one that came from outside.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast
from uuid import uuid4

from ledger.errors import StoreUnavailable, UsageError
from ledger.hooks.uris import local_path, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TEMPORARY = "tmp"


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
        temporary = f"{self._root}/{_TEMPORARY}/{uuid4().hex}"
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
        temporary = f"{self._root}/{_TEMPORARY}/{uuid4().hex}"
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
