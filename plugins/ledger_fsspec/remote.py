"""A shelf on any file system behind fsspec: S3, Google Cloud Storage, Azure, and whatever else there is."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ledger.hooks.uris import scheme, without_credentials
from ledger_fsspec.services import OBJECT_STORES, connect, files_below, tried
from ledger_fsspec.shelves import temporary_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


class RemoteShelf:
    """What the service has taken counts as durable."""

    threads = 8
    """Such places answer late, and many at a time."""
    lag = 120.0

    def __init__(self, url: str) -> None:
        self._fs, root = connect(url, "checkpoints cannot go to")
        self.uri = without_credentials(url).rstrip("/")
        self._root = root.rstrip("/")
        self._whole = scheme(url) in OBJECT_STORES

    def read(self, path: str) -> bytes:
        """See ``Shelf``."""
        content: bytes = tried(self._fs.cat_file, self._at(path))
        return content

    def write(self, path: str, parts: Sequence[Any]) -> None:
        """See ``Shelf``."""
        content = b"".join(parts)
        if self._whole:
            tried(self._fs.pipe_file, self._at(path), content)
        else:
            self._by_way(path, content)

    def create(self, path: str, parts: Sequence[Any]) -> bool:
        """See ``Shelf``; on file systems that cannot create exclusively it looks first, which is not the same."""
        content = b"".join(parts)
        if not self._whole:
            if self.size(path) is not None:
                return False
            self._by_way(path, content)
            return True
        try:
            tried(self._fs.pipe_file, self._at(path), content, mode="create")
        except OSError:
            # Services say this in many ways. And the first of two tries may have got through, its answer lost.
            try:
                return self.read(path) == content
            except FileNotFoundError:
                pass
            raise
        return True

    def settle(self, paths: Iterable[str]) -> None:
        """See ``Shelf``."""

    def size(self, path: str) -> int | None:
        """See ``Shelf``."""
        try:
            about = tried(self._fs.info, self._at(path))
        except FileNotFoundError:
            return None
        return int(about["size"]) if about["type"] == "file" else None

    def sizes(self, path: str, *, without: Collection[str] = ()) -> dict[str, int]:
        """See ``Shelf``."""
        try:
            listed = tried(self._fs.ls, self._at(path), detail=True) if without else []
            tops = [about for about in listed if self._relative(about) not in without]
            folders = [about["name"] for about in tops if about["type"] == "directory"] if without else [self._at(path)]
            found = [about for about in tops if about["type"] == "file"]
        except FileNotFoundError:
            return {}
        for folder in folders:
            with suppress(FileNotFoundError):  # this one, and not the others
                found += tried(files_below, self._fs, folder, flat=self._whole)
        sizes = {self._relative(about): int(about["size"]) for about in found if about["type"] == "file"}
        # An empty folder is sometimes listed as a file of its own name.
        return {name: size for name, size in sizes.items() if not path or name.startswith(f"{path}/")}

    def remove(self, paths: Sequence[str]) -> None:
        """See ``Shelf``."""
        for path in paths:
            with suppress(FileNotFoundError):
                tried(self._fs.rm_file, self._at(path))

    def _by_way(self, path: str, content: bytes) -> None:
        """Where half a file could be seen: under another name first."""
        temporary = self._at(temporary_name())
        try:
            tried(self._fs.makedirs, self._fs._parent(temporary), exist_ok=True)
            tried(self._fs.pipe_file, temporary, content)
            tried(self._fs.makedirs, self._fs._parent(self._at(path)), exist_ok=True)
            tried(self._fs.mv, temporary, self._at(path))
        except BaseException:
            with suppress(OSError):
                self._fs.rm_file(temporary)
            raise

    def _relative(self, about: dict[str, Any]) -> str:
        name: str = about["name"].strip("/")
        root = self._root.strip("/")
        return name.removeprefix(root).strip("/")

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root or self._fs.root_marker
