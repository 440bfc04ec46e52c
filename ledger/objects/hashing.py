"""What files and directories contain, as digests: reads what it has to and remembers the rest."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from ledger.errors import DataUnavailable
from ledger.objects.manifest import SINGLE_FILE, Entry, Manifest
from ledger.objects.statcache import StatCache, identity, racy
from ledger.objects.walk import Name, file_mode, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

EMPTY: Final = hashlib.sha256().hexdigest()


class Hasher:
    """SHA-256 of files and trees.

    ``cache`` is a file, made when it is missing, that remembers digests by absolute path, size, times and
    inode; several processes may share it. Without one every byte is read every time. ``clock`` gives Unix
    seconds.
    """

    def __init__(self, cache: Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._clock = clock

    def file(self, path: Path) -> Entry:
        """Digest, size and mode of one regular file, as the entry ``.``; links are followed.

        Raises ``DataUnavailable`` where it cannot be read or changes while it is read.
        """
        with StatCache(self._cache) as cache:
            return self._entry(SINGLE_FILE, os.path.abspath(path), cache)

    def files(self, root: Path, names: Iterable[str]) -> list[Entry]:
        """Entries of the regular files with these relative ``names`` below ``root``, in order.

        Links are followed. Raises like ``file``; much faster than one call of it for each.
        """
        top = os.path.abspath(root)
        with StatCache(self._cache) as cache:
            return [self._entry(name, os.path.join(top, name), cache) for name in names]

    def tree(self, root: Path, *, exclude: Collection[str] = (), follow: bool = False) -> Manifest:
        """Manifest of a directory or of a single file: every name, every byte.

        ``exclude`` holds relative paths whose subtrees are left out. Links that leave the root are followed;
        those that stay inside are kept as links unless ``follow``. Raises ``DataUnavailable`` naming the path
        that cannot be read, is not a file, directory or link, or changes while it is read.
        """
        if not os.path.isdir(root):
            return Manifest.of([self.file(root)])
        with StatCache(self._cache) as cache:
            return Manifest.of(
                [self._named(name, cache) for name in walk(root, exclude=exclude, follow=follow)],
            )

    def _named(self, name: Name, cache: StatCache) -> Entry:
        if name.mode == "directory":
            return Entry(name.path, EMPTY, 0, "directory")
        if name.target is not None:
            content = name.target.encode()
            return Entry(name.path, hashlib.sha256(content).hexdigest(), len(content), "link")
        return self._entry(name.path, name.place, cache)

    def _entry(self, path: str, place: str, cache: StatCache) -> Entry:
        try:
            status = os.stat(place)
            if not stat.S_ISREG(status.st_mode):
                raise DataUnavailable(f"{place} is not a regular file")
            digest = cache.get(place, status)
            if digest is None:
                digest, status = self._read(place, cache)
        except OSError as error:
            raise DataUnavailable(f"cannot read {place}: {error.strerror}") from error
        return Entry(path, digest, status.st_size, file_mode(status))

    def _read(self, place: str, cache: StatCache) -> tuple[str, os.stat_result]:
        with open(place, "rb", buffering=0) as stream:
            started = self._clock()
            before = os.fstat(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            length = stream.tell()
        after = os.stat(place)
        if identity(before) != identity(after) or length != after.st_size:
            raise DataUnavailable(
                f"{place} changed while it was read", mend="try again when nothing writes to it any more"
            )
        if not racy(after, started):
            cache.put(place, after, digest)
        return digest, after
