"""Pinned files as an fsspec file system: read-only, and nothing but what was pinned can be read through it."""

from __future__ import annotations

import os
import pkgutil
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from ledger.hooks.listing import SINGLE, File, Listing

if TYPE_CHECKING:
    from collections.abc import Sequence


class PinnedFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """Paths are those of the place, without its scheme. It holds no key: where it is unpickled, one is found again.

    A file that nothing fixes is looked at after each read, and refused where it has changed.
    """

    protocol = "pinned"
    root_marker = ""
    cachable = False  # a key may be replaced while the process lives

    def __init__(self, kind: str, path: str, files: Sequence[tuple[str, int, str, str]], **options: Any) -> None:
        """``kind`` is ``MODULE:CLASS`` of the listing; ``files`` are the fields of each ``File`` of it."""
        super().__init__(kind, path, files, **options)
        self.root = self._strip_protocol(path)
        self._kind, self._path = kind, path
        self._opened: tuple[int, Listing] | None = None
        self._files: dict[str, File] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._below: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._show({"name": "", "size": 0, "type": "directory"})
        for fields in files:
            self._add(File(*fields))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Names directly below a directory, or the one of a file."""
        told = self.info(path)
        found = self._below.get(told["name"], []) if told["type"] == "directory" else [told]
        return [*found] if detail else [each["name"] for each in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size, type and, of a file, its checksum."""
        place = self._strip_protocol(path)
        if place not in self._told:
            raise FileNotFoundError(f"{path} is not among what was pinned of {self._path}")
        return self._told[place]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file, or some of them; negative positions count from its end."""
        file = self._pinned(path)
        first, last, _step = slice(start, end).indices(file.bytes)
        if (first, last) != (0, file.bytes):
            return self._read(file, first, last)
        content = b"".join(piece for _, pieces in self._listing.contents([file]) for piece in pieces)
        self._refuse_change(file)
        return content

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> AbstractBufferedFile:
        if mode != "rb":
            raise PermissionError(f"{self._path} is pinned: it can only be read")
        file = self._pinned(path)
        self._refuse_change(file)
        return _Reader(self, path, file=file, size=file.bytes, block_size=block_size or "default", **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, str):
            path = path.partition("://")[2] or path  # of any scheme: no name that was pinned holds two slashes
        return super()._strip_protocol(path)

    @property
    def _listing(self) -> Listing:
        # A forked worker must not speak over its parent's connections.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), _kind(self._kind)(self._path))
        return self._opened[1]

    def _add(self, file: File) -> None:
        place = self._place(file.name)
        if not file.is_directory:
            self._files[place] = file
        kind = "directory" if file.is_directory else "file"
        self._show({"name": place, "size": file.bytes, "type": kind, "checksum": file.checksum})

    def _show(self, told: dict[str, Any]) -> None:
        """Tell of a name, and of the directories that it lies in."""
        place = told["name"]
        if place in self._told:
            return
        self._told[place] = told
        if place:
            parent = self._parent(place)
            self._show({"name": parent, "size": 0, "type": "directory"})
            self._below[parent].append(told)

    def _place(self, name: str) -> str:
        return self.root if name == SINGLE else f"{self.root}/{name}".rstrip("/")

    def _pinned(self, path: str) -> File:
        place = self._strip_protocol(path)
        if place not in self._files:
            raise FileNotFoundError(f"{path} is not among the files that were pinned of {self._path}")
        return self._files[place]

    def _read(self, file: File, start: int, end: int) -> bytes:
        piece = self._listing.piece_of(file, start, end) if start < end else b""
        self._refuse_change(file)
        return piece

    def _refuse_change(self, file: File) -> None:
        if not self._listing.fixed(file) and not self._listing.unchanged(file):
            raise self._listing.changed(f"{self._place(file.name)} is no longer what was pinned")


def _kind(name: str) -> type[Listing]:
    """The listing of that name, which may come from a file, and so must not be just anything that can be called."""
    kind = pkgutil.resolve_name(name)
    if not (isinstance(kind, type) and issubclass(kind, Listing)):
        raise TypeError(f"{name} is no Listing")
    return kind


class _Reader(AbstractBufferedFile):  # type: ignore[misc]
    """A file being read, a block ahead."""

    def __init__(self, fs: PinnedFileSystem, path: str, *, file: File, **options: Any) -> None:
        self._file = file
        super().__init__(fs, path, "rb", **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        fs: Any = self.fs
        return bytes(fs._read(self._file, start, min(end, self._file.bytes)))
