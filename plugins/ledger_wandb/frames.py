"""The outer form of a ``.wandb`` file: W&B's seven bytes, then records as in LevelDB's log format.

A file is blocks of 32 KiB. A record lies in one chunk or, where it meets the end of a block, in several; each chunk has
a CRC-32 of its type and content, so that a write which was cut off is found. Format version 0, that of wandb up to 0.31
(``core/pkg/leveldb/record.go`` there).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

START: Final = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
_BLOCK: Final = 32 * 1024
_CHUNK: Final = struct.Struct("<IHB")
"""Checksum, length, type."""
_FULL: Final = 1
_FIRST: Final = 2
_MIDDLE: Final = 3
_LAST: Final = 4
_KINDS: Final = {(False, False): _FULL, (False, True): _FIRST, (True, True): _MIDDLE, (True, False): _LAST}
"""By whether a part came before and whether one follows."""


def framed(record: bytes, offset: int) -> bytes:
    """The bytes of one record in a file that is ``offset`` long so far."""
    out = bytearray()
    begun = False
    while True:
        room = _room(offset + len(out))
        if room < 0:
            out += bytes(room + _CHUNK.size)
            continue
        part, record = record[:room], record[room:]
        kind = _KINDS[begun, bool(record)]
        out += _CHUNK.pack(_checksum(kind, part), len(part), kind) + part
        begun = True
        if not record:
            return bytes(out)


def records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each whole record with the offset behind it, up to the first that was cut off.

    Raises ``ValueError`` where the file is not one of W&B's, of this version.
    """
    if file.read(len(START)) != START:
        raise ValueError("it does not begin as a .wandb file of format version 0 does")
    offset, record = len(START), b""
    while (found := _chunk(file, offset)) is not None:
        offset, kind, part = found
        record = part if kind in (_FULL, _FIRST) else record + part
        if kind in (_FULL, _LAST):
            yield offset, record


def _chunk(file: BinaryIO, offset: int) -> tuple[int, int, bytes] | None:
    """The next chunk: the offset behind it, its type and its content; None where no whole one follows."""
    room = _room(offset)
    if room < 0:
        skipped = room + _CHUNK.size
        file.read(skipped)
        offset += skipped
    head = file.read(_CHUNK.size)
    if len(head) < _CHUNK.size:
        return None
    checksum, length, kind = _CHUNK.unpack(head)
    part = file.read(length)
    if len(part) < length or not _FULL <= kind <= _LAST or _checksum(kind, part) != checksum:
        return None
    return offset + _CHUNK.size + length, kind, part


def _room(offset: int) -> int:
    """Bytes of content that a chunk at this offset can have; negative where not even its head has room."""
    return _BLOCK - offset % _BLOCK - _CHUNK.size


def _checksum(kind: int, part: bytes) -> int:
    return zlib.crc32(part, zlib.crc32(bytes((kind,))))
