"""What the checkpoint store asks of the place it writes to: a local directory, or a file system behind
fsspec.

Paths are relative to the root, with forward slashes, and were checked by the caller.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from ledger.errors import PluginUnavailable
from ledger.hooks.uris import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterable


class Shelf(Protocol):
    """Failures are ``OSError``."""

    uri: str
    """Without credentials and without a final slash."""

    def open(self, path: str) -> BinaryIO:
        """A stream to read from; ``FileNotFoundError`` where there is no file."""

    def write(self, path: str, chunks: Iterable[bytes], *, executable: bool = False) -> None:
        """A new file, durable when this returns."""

    def make(self, path: str) -> None:
        """A directory, where there are such things."""

    def move(self, source: str, dest: str, files: Iterable[str]) -> None:
        """Make the directory ``source``, which holds ``files``, visible as ``dest``: the last file comes
        last.

        Raises ``OSError`` where ``dest`` exists already, on file systems that can tell.
        """

    def set_aside(self, path: str, aside: str) -> None:
        """Make room at ``path`` for a ``move``; what lies there is kept as ``aside`` or left in place."""

    def remove(self, path: str, files: Iterable[str]) -> None:
        """Remove ``files`` below ``path`` in this order, then whatever directories that left empty."""

    def clear(self, path: str) -> None:
        """Remove ``path`` and all below it."""

    def sizes(self, path: str) -> dict[str, int]:
        """Size of every file at or below ``path``, by its path; empty where there is nothing."""


class LocalShelf:
    """A directory of plain files that people can use as they are."""

    def __init__(self, root: Path) -> None:
        self.uri = root.as_uri().rstrip("/")
        self._root = root

    def open(self, path: str) -> BinaryIO:
        """See ``Shelf``."""
        return (self._root / path).open("rb", buffering=0)

    def write(self, path: str, chunks: Iterable[bytes], *, executable: bool = False) -> None:
        """See ``Shelf``; the directories are synced by ``move``."""
        final = self._root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o777 if executable else 0o666  # less the user's umask
        with open(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb", buffering=0) as stream:
            for chunk in chunks:
                stream.write(chunk)
            os.fsync(stream.fileno())

    def make(self, path: str) -> None:
        """See ``Shelf``."""
        (self._root / path).mkdir(parents=True, exist_ok=True)

    def move(self, source: str, dest: str, files: Iterable[str]) -> None:
        """See ``Shelf``; one atomic rename, which refuses a directory that is not empty."""
        final = self._root / dest
        final.parent.mkdir(parents=True, exist_ok=True)
        for directory, _, _ in os.walk(self._root / source):
            _sync(Path(directory))
        (self._root / source).rename(final)
        for parent in final.parents:
            _sync(parent)
            if parent == self._root:
                break

    def set_aside(self, path: str, aside: str) -> None:
        """See ``Shelf``; kept, for it may be somebody's."""
        if (self._root / path).exists():
            (self._root / path).rename(self._root / aside)

    def remove(self, path: str, files: Iterable[str]) -> None:
        """See ``Shelf``."""
        top = self._root / path
        for number, file in enumerate(files):
            (top / file).unlink(missing_ok=True)
            if number == 0 and top.is_dir():
                _sync(top)
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)

    def clear(self, path: str) -> None:
        """See ``Shelf``."""
        shutil.rmtree(self._root / path, ignore_errors=True)

    def sizes(self, path: str) -> dict[str, int]:
        """See ``Shelf``."""
        found = {}
        for directory, _, names in os.walk(self._root / path):
            for name in names:
                file = os.path.join(directory, name)
                with suppress(FileNotFoundError):
                    found[os.path.relpath(file, self._root)] = os.stat(file).st_size
        return found


class RemoteShelf:
    """Any fsspec file system. Few of them rename directories at once: the manifest, moved last, decides."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._fs: Any
        try:
            self._fs, root = url_to_fs(url if "://" in url else url.replace(":", "://", 1))
        except ImportError as error:
            raise PluginUnavailable(
                f"checkpoints cannot go to {without_credentials(url)}: {error}", mend="install that library"
            ) from error
        self.uri = without_credentials(url).rstrip("/")
        self._root = root.rstrip("/")

    def open(self, path: str) -> BinaryIO:
        """See ``Shelf``."""
        return cast("BinaryIO", self._fs.open(self._at(path), "rb"))

    def write(self, path: str, chunks: Iterable[bytes], *, executable: bool = False) -> None:
        """See ``Shelf``; what the service has taken counts as durable."""
        self._fs.makedirs(self._fs._parent(self._at(path)), exist_ok=True)
        with self._fs.open(self._at(path), "wb") as stream:
            for chunk in chunks:
                stream.write(chunk)

    def make(self, path: str) -> None:
        """See ``Shelf``; the manifest alone remembers empty directories."""

    def move(self, source: str, dest: str, files: Iterable[str]) -> None:
        """See ``Shelf``."""
        moved = list(files)
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._at(f"{dest}/{moved[-1]}"))
        for file in moved:
            final = self._at(f"{dest}/{file}")
            self._fs.makedirs(self._fs._parent(final), exist_ok=True)
            self._fs.mv(self._at(f"{source}/{file}"), final)
        self.clear(source)

    def set_aside(self, path: str, aside: str) -> None:
        """See ``Shelf``; left in place, to be overwritten: moving it would mean copying it."""

    def remove(self, path: str, files: Iterable[str]) -> None:
        """See ``Shelf``."""
        for file in files:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._at(f"{path}/{file}"))
        if not self.sizes(path):
            self.clear(path)

    def clear(self, path: str) -> None:
        """See ``Shelf``."""
        with suppress(FileNotFoundError):
            self._fs.rm(self._at(path), recursive=True)

    def sizes(self, path: str) -> dict[str, int]:
        """See ``Shelf``."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._at(path), detail=True)
        except FileNotFoundError:
            return {}
        return {name[len(self._root) + 1 :]: int(about["size"]) for name, about in found.items()}

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root or self._fs.root_marker


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
