"""From a directory to pieces on a shelf: each file is read once, several pieces are worked on at a time."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from ledger import Entry, Manifest
from ledger.errors import DataUnavailable, UsageError
from ledger.hooks.ahead import ahead
from ledger.objects.walk import file_mode, walk
from ledger_fsspec.encoding import Base
from ledger_fsspec.index import Index
from ledger_fsspec.objects import Kept, keep
from ledger_fsspec.pieces import lengths

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

    from ledger.objects.walk import Name
    from ledger_fsspec.shelves import Shelf

_EMPTY: Final = hashlib.sha256().hexdigest()


def store_directory(shelf: Shelf, directory: Path, base: Index | None, base_key: str, written: list[str]) -> Index:
    """Put the content of all files on the shelf and read it back; the index that is still to be published.

    ``written`` gets the names of objects that were not there before, also where this fails. Raises
    ``DataUnavailable`` for a file that cannot be read or changes meanwhile.
    """
    names = sorted(walk(directory, follow=True), key=lambda name: name.path)
    if all(name.mode == "directory" for name in names):
        raise UsageError(f"{directory} holds no files", mend="save the state before storing the checkpoint")
    entries = [Entry(name.path, _EMPTY, 0, name.mode) for name in names if name.mode == "directory"]
    files: dict[str, list[tuple[str, int]]] = {name.path: [] for name in names if name.mode != "directory"}
    pieces = (piece for name in names if name.mode != "directory" for piece in _pieces(name, entries, base, base_key))
    objects: dict[str, int] = {}
    bases: set[str] = set()
    created = 0

    def kept(piece: tuple[str, bytearray, Base | None]) -> tuple[str, int, Kept]:
        path, raw, before = piece
        found = keep(shelf, raw, before)
        if found.created:
            written.append(found.name)
        return path, len(raw), found

    with ThreadPoolExecutor(shelf.threads) as pool:
        for path, length, found in ahead(pool, kept, pieces, shelf.threads + 1):
            files[path].append((found.name, length))
            objects |= found.needs
            bases |= found.bases
            created += found.created
    rows = {path: tuple(pieces) for path, pieces in files.items()}
    return Index.of(Manifest.of(entries), rows, objects, tuple(sorted(bases)), created)


def _pieces(
    name: Name, entries: list[Entry], base: Index | None, base_key: str
) -> Iterator[tuple[str, bytearray, Base | None]]:
    """The pieces of a file, each with that at the same place in the base; at the end, the file's entry."""
    actual = hashlib.sha256()
    before = base.files.get(name.path, ()) if base else ()
    try:
        with open(name.place, "rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            sizes = lengths(stream, status.st_size)
            stream.seek(0)
            for number, size in enumerate(sizes):
                raw = _read(stream, size)
                actual.update(raw)
                same = base is not None and number < len(before) and before[number][1] == size
                yield name.path, raw, Base(before[number][0], base.manifest.digest, base_key) if same and base else None
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise DataUnavailable(f"cannot read {name.place}: {error.strerror}") from error
    if (status.st_size, status.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changed(name.place)
    entries.append(Entry(name.path, actual.hexdigest(), status.st_size, file_mode(status)))


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
