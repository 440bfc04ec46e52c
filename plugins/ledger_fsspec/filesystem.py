"""Pinned files as an fsspec file system: read-only, and nothing but what was pinned can be read through it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fsspec.archive import AbstractArchiveFileSystem
from fsspec.spec import AbstractBufferedFile

from ledger.errors import DataUnavailable
from ledger_fsspec.files import SINGLE, File, Files

if TYPE_CHECKING:
    from collections.abc import Sequence


class PinnedFileSystem(AbstractArchiveFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """Paths are those of the URL, without its scheme. It holds no key: where it is unpickled, one is found again.

    A file of which the service keeps no versions is looked at after each read, and refused where it has changed.
    """

    protocol = "pinned"
    root_marker = ""
    cachable = False  # a key may be replaced while the process lives

    def __init__(self, url: str, files: Sequence[tuple[str, int, str, str]], **options: Any) -> None:
        super().__init__(url, files, **options)
        self.root = url.partition("://")[2].rstrip("/")
        self._url = url
        self._files: dict[str, File] = {self._place(fields[0]): File(*fields) for fields in files}
        self._opened: tuple[int, Files] | None = None
        folders = self._all_dirnames(self._files)
        self.dir_cache: dict[str, dict[str, Any]] = {
            path: {"name": path, "size": 0, "type": "directory"} for path in folders
        } | {path: {"name": path, "size": file.bytes, "type": "file"} for path, file in self._files.items()}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file, or some of them; negative positions count from its end."""
        file = self._pinned(path)
        first, last, _step = slice(start, end).indices(file.bytes)
        if (first, last) != (0, file.bytes):
            return self._read(file, first, last)
        content = b"".join(self._source.content(file))
        self._refuse_change(file)
        return content

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> AbstractBufferedFile:
        if mode != "rb":
            raise PermissionError(f"{self._url} is pinned: it can only be read")
        file = self._pinned(path)
        self._refuse_change(file)
        return _Reader(self, path, file=file, size=file.bytes, block_size=block_size or "default", **options)

    def _get_dirs(self) -> None:
        """What fsspec calls before it looks into ``dir_cache``, which is whole from the beginning."""

    @property
    def _source(self) -> Files:
        # A forked worker must not speak over its parent's connections.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), Files(self._url))
        return self._opened[1]

    def _place(self, name: str) -> str:
        return self.root if name == SINGLE else f"{self.root}/{name}"

    def _pinned(self, path: str) -> File:
        file = self._files.get(self._strip_protocol(path))
        if file is None:
            raise FileNotFoundError(f"{path} is not among what was pinned of {self._url}")
        return file

    def _read(self, file: File, start: int, end: int) -> bytes:
        piece = self._source.read(file, start, end)
        self._refuse_change(file)
        return piece

    def _refuse_change(self, file: File) -> None:
        if not file.version and not self._source.unchanged(file):
            raise DataUnavailable(
                f"{self._place(file.name)} is no longer what was pinned",
                mend="put the pinned content back, or start a new run",
            )


class _Reader(AbstractBufferedFile):  # type: ignore[misc]
    """A file being read, a block ahead."""

    def __init__(self, fs: PinnedFileSystem, path: str, *, file: File, **options: Any) -> None:
        self._file = file
        super().__init__(fs, path, "rb", **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        fs: Any = self.fs
        return bytes(fs._read(self._file, start, min(end, self._file.bytes)))
