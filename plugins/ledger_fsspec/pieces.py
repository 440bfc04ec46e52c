"""Where a file is cut into pieces, so that what two files have in common is the same piece in both.

A cut is a hint and never a matter of trust: whatever a header claims, the pieces in order are the file.
safetensors are cut between tensors, zip files (what ``torch.save`` writes) between members, and all others at
fixed places.
"""

from __future__ import annotations

import io
import struct
import zipfile
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LARGEST: Final = 1 << 24
"""Bytes of a piece at most: what a writer or reader holds in memory of one, and sends again if a link fails."""
_SMALL: Final = 1 << 16
"""Neighbours smaller than this share a piece: an object each would cost more than it could ever save."""
_SHARED: Final = 1 << 20
_LONGEST_HEADER: Final = 100_000_000
"""The limit that safetensors itself sets."""
_MOST_CUTS: Final = 100_000
_ZIP: Final = b"PK\x03\x04"
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")


def lengths(stream: BinaryIO, size: int) -> list[int]:
    """Lengths of the pieces of a file of ``size`` bytes, in order; the stream must be able to seek."""
    cuts = {cut for cut in _cuts(stream, size) if 0 < cut < size}
    if len(cuts) > _MOST_CUTS:
        cuts = set()
    edges = [0, *sorted(cuts), size]
    return list(_joined(end - start for start, end in pairwise(edges)))


def _joined(segments: Iterable[int]) -> Iterator[int]:
    """Small neighbours together, large segments in parts."""
    shared = 0
    for length in segments:
        if shared and (length >= _SMALL or shared + length > _SHARED):
            yield shared
            shared = 0
        if length < _SMALL:
            shared += length
            continue
        yield from [LARGEST] * (length // LARGEST)
        if length % LARGEST:
            yield length % LARGEST
    if shared:
        yield shared


def _cuts(stream: BinaryIO, size: int) -> list[int]:
    stream.seek(0)
    start = stream.read(9)
    if start.startswith(_ZIP):
        return _zip_cuts(stream)
    if len(start) == 9 and start[8:] == b"{":
        return _safetensors_cuts(stream, int.from_bytes(start[:8], "little"), size)
    return []


def _safetensors_cuts(stream: BinaryIO, header: int, size: int) -> list[int]:
    """Where tensors begin. The format: https://huggingface.co/docs/safetensors#format."""
    if header > min(_LONGEST_HEADER, size - 8):
        return []
    stream.seek(8)
    try:
        tensors = orjson.loads(stream.read(header))
        return [8 + header + int(about["data_offsets"][0]) for name, about in tensors.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return []  # it only looked like one


def _zip_cuts(stream: BinaryIO) -> list[int]:
    """Where the content of members begins and ends, of those that are stored as they are."""
    try:
        with zipfile.ZipFile(io.BufferedReader(_Kept(stream))) as archive:
            members = [m for m in archive.infolist() if m.compress_type == zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error):
        return []
    cuts = []
    for member in members[:_MOST_CUTS]:
        stream.seek(max(0, member.header_offset))
        fixed = stream.read(_LOCAL_HEADER.size)
        if len(fixed) < _LOCAL_HEADER.size:
            return []
        magic, name, extra = _LOCAL_HEADER.unpack(fixed)
        if magic == _ZIP:
            start = member.header_offset + _LOCAL_HEADER.size + name + extra
            cuts += [start, start + member.file_size]
    return cuts


class _Kept(io.RawIOBase):
    """The stream, not closed by who reads through this."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
