"""A commit as an fsspec file system: read-only, and nothing but that commit can be read through it.

It holds no key: where it is unpickled, in a worker of a data loader, the key is found as everywhere else. The file
system of the package ``lakefs-spec`` does not serve here: it carries the key in its arguments, asks the server
twice for every ``read``, refuses ``read(-1)``, gives up at the first 503, and can write.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from ledger_lakefs.access import find_access
from ledger_lakefs.lake import Lake, Object
from ledger_lakefs.server import NotThere, Server
from ledger_lakefs.uris import Place


class CommitFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """Paths are ``REPOSITORY/COMMIT/PATH``, as ``DataSource.open`` gives them."""

    protocol = "lakefs"
    root_marker = ""
    cachable = False  # a key may be replaced while the process lives

    def __init__(self, repository: str, commit: str, **options: Any) -> None:
        super().__init__(repository, commit, **options)
        self._root = f"{repository}/{commit}"
        self._whole = Place(repository, commit, "")
        self._opened: tuple[int, Lake] | None = None

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Names directly below a directory, or the one of a file."""
        path, inside = self._strip_protocol(path).rstrip("/"), self._inside(path)
        found = self._lake.directory(self._at(f"{inside}/" if inside else ""))
        names = [self._told(f"{path}/{name}", each) for name, each in found if name]
        if not names:
            names = [self._told(path, self._object(path))]
        return names if detail else [each["name"] for each in names]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size, type and checksum."""
        path = self._strip_protocol(path)
        try:
            return self._told(path, self._object(path))
        except FileNotFoundError:
            inside = self._inside(path)
            if next(self._lake.directory(self._at(f"{inside}/" if inside else "")), None) is None:
                raise
            return self._told(path, None)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file, or some of them; negative positions count from its end."""
        found = self._object(self._strip_protocol(path))
        first, last, _step = slice(start, end).indices(found.bytes)
        whole = self._at(found.path)
        if (first, last) == (0, found.bytes):
            return b"".join(self._lake.chunks(whole, found))
        return self._lake.read(whole, found, first, last) if first < last else b""

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> AbstractBufferedFile:
        if mode != "rb":
            self._refuse()
        found = self._object(path)
        return _File(self, path, found=found, size=found.bytes, block_size=block_size, **options)

    @property
    def _lake(self) -> Lake:
        # A forked worker must not speak over its parent's connections.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), Lake(Server(find_access(os.environ))))
        return self._opened[1]

    def _at(self, inside: str) -> Place:
        return Place(self._whole.repository, self._whole.commit, inside)

    def _inside(self, path: str) -> str:
        path = self._strip_protocol(path).rstrip("/")
        if path != self._root and not path.startswith(f"{self._root}/"):
            raise FileNotFoundError(f"{path} is not in {self._root}")
        return path[len(self._root) + 1 :]

    def _object(self, path: str) -> Object:
        inside = self._inside(path)
        if not inside:
            raise FileNotFoundError(f"{path} is a directory")
        try:
            return next(self._lake.objects(self._at(inside)))
        except NotThere as error:
            raise FileNotFoundError(str(error)) from error

    def _told(self, path: str, found: Object | None) -> dict[str, Any]:
        if found is None:
            return {"name": path, "size": 0, "type": "directory"}
        return {"name": path, "size": found.bytes, "type": "file", "checksum": found.checksum}

    def _refuse(self) -> NoReturn:
        raise PermissionError(f"{self._root} is a commit: it can only be read")


class _File(AbstractBufferedFile):  # type: ignore[misc]
    """A file being read, a block ahead."""

    def __init__(self, fs: CommitFileSystem, path: str, *, found: Object, **options: Any) -> None:
        self._found = found
        super().__init__(fs, path, "rb", **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        fs: Any = self.fs
        return bytes(fs._lake.read(fs._at(self._found.path), self._found, start, end)) if start < end else b""
