"""From files to pieces on a shelf: each file is read once, several pieces are worked on at a time.

What is in memory is stored from there.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, cast

from ledger import Entry, Hasher, Manifest
from ledger.errors import DataUnavailable, UsageError
from ledger.files import digest_of
from ledger.hooks.ahead import ahead
from ledger.objects.walk import file_mode, walk
from ledger_fsspec.encoding import Base
from ledger_fsspec.index import Index
from ledger_fsspec.lent import LentFile
from ledger_fsspec.objects import Kept, keep
from ledger_fsspec.pieces import lengths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO
    from pathlib import Path
    from typing import BinaryIO

    from ledger.files import Lent
    from ledger.objects.walk import Name
    from ledger_fsspec.lent import Raw
    from ledger_fsspec.shelves import Shelf

_EMPTY: Final = hashlib.sha256().hexdigest()


def store_directory(
    shelf: Shelf, directory: Path, lent: Lent, base: Index | None, base_key: str, written: list[str]
) -> Index:
    """Put the content of all files on the shelf and read it back; the index that is still to be published.

    ``written`` gets the names of objects that were not there before, also where this fails. Raises
    ``DataUnavailable`` for a file that cannot be read or changes meanwhile.
    """
    names = _names(directory, lent)
    if not lent and all(name.mode == "directory" for name in names):
        raise UsageError(f"{directory} holds no files", mend="save the state before storing the checkpoint")
    entries = [Entry(name.path, _EMPTY, 0, name.mode) for name in names if name.mode == "directory"]
    on_disk = {name.path: partial(_on_disk, name) for name in names if name.mode != "directory"}
    in_memory = {path: partial(_in_memory, path, buffers) for path, buffers in lent.items()}
    given = dict(sorted({**on_disk, **in_memory}.items()))

    def pieces() -> Iterator[tuple[str, Raw, Base | None]]:
        for path, content in given.items():
            before = base.files.get(path, ()) if base else ()
            for number, raw in enumerate(content(entries)):
                same = number < len(before) and before[number][1] == len(raw)
                yield path, raw, Base(before[number][0], base.manifest.digest, base_key) if same and base else None

    files: dict[str, list[tuple[str, int]]] = {path: [] for path in given}
    objects: dict[str, int] = {}
    bases: set[str] = set()
    created = 0

    def kept(piece: tuple[str, Raw, Base | None]) -> tuple[str, int, Kept]:
        path, raw, before = piece
        found = keep(shelf, raw, before)
        if found.created:
            written.append(found.name)
        return path, len(raw), found

    with ThreadPoolExecutor(shelf.threads) as pool:
        for path, length, found in ahead(pool, kept, pieces(), shelf.threads + 1):
            files[path].append((found.name, length))
            objects |= found.needs
            bases |= found.bases
            created += found.created
    rows = {path: tuple(pieces) for path, pieces in files.items()}
    return Index.of(Manifest.of(entries), rows, objects, tuple(sorted(bases)), created)


def manifest_of(directory: Path, lent: Lent) -> Manifest:
    """What ``store_directory`` would store."""
    entries = [entry for entry in Hasher().tree(directory, follow=True).entries if entry.path not in _folders(lent)]
    for path, buffers in lent.items():
        entries.append(Entry(path, digest_of(buffers), sum(buffer.nbytes for buffer in buffers)))
    return Manifest.of(entries)


def _names(directory: Path, lent: Lent) -> list[Name]:
    names = sorted(walk(directory, follow=True), key=lambda name: name.path)
    return [name for name in names if name.path not in _folders(lent)]


def _folders(lent: Lent) -> frozenset[str]:
    """Those that what is lent lies in: none of them is an empty directory."""
    return frozenset(str(folder) for path in lent for folder in PurePosixPath(path).parents)


def _on_disk(name: Name, entries: list[Entry]) -> Iterator[Raw]:
    """The pieces of a file; at the end, its entry."""
    actual = hashlib.sha256()
    try:
        with open(name.place, "rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            sizes = lengths(stream, status.st_size)
            stream.seek(0)
            for size in sizes:
                raw = _read(stream, size)
                actual.update(raw)
                yield raw
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise DataUnavailable(f"cannot read {name.place}: {error.strerror}") from error
    if (status.st_size, status.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changed(name.place)
    entries.append(Entry(name.path, actual.hexdigest(), status.st_size, file_mode(status)))


def _in_memory(path: str, buffers: Sequence[memoryview], entries: list[Entry]) -> Iterator[Raw]:
    """The same of a file that is lent."""
    actual = hashlib.sha256()
    stream = LentFile(buffers)
    sizes = lengths(cast("BinaryIO", stream), stream.size)
    stream.seek(0)
    for size in sizes:
        raw = stream.take(size)
        actual.update(raw)
        yield raw
    entries.append(Entry(path, actual.hexdigest(), stream.size))


def _read(stream: FileIO, size: int) -> bytearray:
    raw = bytearray(size)
    view = memoryview(raw)
    while view:
        count = stream.readinto(view)
        if not count:
            raise _changed(str(stream.name))
        view = view[count:]
    return raw


def _changed(place: str) -> DataUnavailable:
    return DataUnavailable(f"{place} changed while it was stored", mend="store it when nothing writes to it any more")
