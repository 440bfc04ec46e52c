"""A piece of a checkpoint ↔ the bytes of the object that keeps it: smaller, and exactly the same when read.

Neighbouring numbers of a tensor share sign and exponent and differ in the mantissa. So bytes of equal weight are
put together (byte planes, as in Blosc's shuffle filter) before zstd sees them, and a plane that is noise stays
as it is. The size of a number is not asked for but found, on a sample. Where a base is given, what is kept is
the exclusive or with it, if a sample says that this is smaller.

An object is ``LCO1``, the length of its header (4 bytes, little-endian), the header (JSON), the planes, and the
CRC-32 of all that (4 bytes): packed bytes have bits that nobody reads, and a change of those is damage, too.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import zstandard

from ledger_fsspec.pieces import LARGEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ledger_fsspec.lent import Raw

    Bytes = NDArray[np.uint8]

_MAGIC: Final = b"LCO1"
_PACKERS: Final[tuple[dict[str, int], ...]] = ({"hash_log": 6, "min_match": 7}, {})
"""Two ways of zstd's level 1. The first hardly looks for repetitions, of which numbers have none: three times as fast
on planes of exponents, and a tenth smaller. The second is for text and tables. Higher levels gain nothing on either.
"""
_STRIDES: Final = (1, 2, 4, 8)
_SAMPLE: Final = 1 << 16
_PROBES: Final = 4
"""Places over which the sample is spread."""
_WORTH: Final = 0.98
"""A plane that does not get smaller than this share stays as it is."""
_NEARLY: Final = 1.01
"""More planes cost more time: they have to be worth it."""


_NAME: Final = re.compile(r"[0-9a-f]{64}(-[0-9a-f]{64})?")


class Damaged(Exception):
    """These bytes are no object, or not that of the piece."""


@dataclass(frozen=True)
class Base:
    """What a piece may be kept as the difference to."""

    name: str
    """Of the object."""
    checkpoint: str
    """Digest of the checkpoint that it was taken from."""
    key: str


@dataclass(frozen=True)
class Header:
    """What an object says of itself."""

    bytes: int
    """Of the piece."""
    stride: int
    """Size of a number."""
    planes: tuple[tuple[int, bool], ...]
    """Of each plane the length here, and whether it is compressed; then of the rest that fills no number."""
    base: Base | None


def is_name(name: object) -> bool:
    """Whether this can be the name of an object: only such a one ever becomes a path."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def encode(raw: Raw, base: tuple[Base, bytearray] | None) -> tuple[Header, list[Any]]:
    """The object that keeps ``raw``, as its header and buffers to write one after the other."""
    whole: Bytes = np.frombuffer(raw, np.uint8)
    sample = _sample(whole)
    stride, cost = _best_stride(sample)
    used = None
    if base is not None:
        other: Bytes = np.frombuffer(base[1], np.uint8)
        difference_stride, difference_cost = _best_stride(sample ^ _sample(other))
        if difference_cost < cost:
            used, stride, whole = base[0], difference_stride, whole ^ other
    planes = [_packed(plane) for plane in _split(whole, stride)]
    header = Header(len(raw), stride, tuple((len(content), packed) for content, packed in planes), used)
    text = orjson.dumps(asdict(header))
    parts = [_MAGIC, len(text).to_bytes(4, "little"), text, *(content for content, _ in planes)]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return header, [*parts, checksum.to_bytes(4, "little")]


def parse(content: bytes) -> tuple[Header, memoryview]:
    """The header of an object, and the planes. Raises ``Damaged``."""
    whole = memoryview(content)[:-4]
    if content[:4] != _MAGIC or content[-4:] != zlib.crc32(whole).to_bytes(4, "little"):
        raise Damaged("its checksum is another")
    end = 8 + int.from_bytes(whole[4:8], "little")
    try:
        fields = orjson.loads(whole[8:end])
        base = Base(**fields["base"]) if fields["base"] else None
        planes = tuple((int(length), bool(packed)) for length, packed in fields["planes"])
        header = Header(int(fields["bytes"]), int(fields["stride"]), planes, base)
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"its header cannot be read: {error}") from error
    sound = 0 < header.bytes <= LARGEST and header.stride in _STRIDES and len(planes) == header.stride + 1
    sound = sound and (base is None or is_name(base.name))
    if not sound or end + sum(length for length, _ in planes) != len(whole):
        raise Damaged("its header does not fit its length")
    return header, whole[end:]


def decode(header: Header, payload: memoryview, base: bytearray | None) -> bytearray:
    """The piece. ``base`` is the raw content of the header's base. Raises ``Damaged``."""
    count, rest = divmod(header.bytes, header.stride)
    content = bytearray(header.bytes)
    whole: Bytes = np.frombuffer(content, np.uint8)
    matrix = whole[: count * header.stride].reshape(count, header.stride)
    at = 0
    for number, (length, packed) in enumerate(header.planes):
        wanted = count if number < header.stride else rest
        plane = np.frombuffer(_unpacked(payload[at : at + length], packed, wanted), np.uint8)
        if number < header.stride:
            matrix[:, number] = plane
        else:
            whole[count * header.stride :] = plane
        at += length
    if header.base is not None:
        if base is None or len(base) != header.bytes:
            raise Damaged("its base has another length")
        whole ^= np.frombuffer(base, np.uint8)
    return content


def _split(whole: Bytes, stride: int) -> list[Bytes]:
    """The planes, then what is left over."""
    count = len(whole) // stride
    matrix = whole[: count * stride].reshape(count, stride)
    return [*(np.ascontiguousarray(matrix[:, number]) for number in range(stride)), whole[count * stride :]]


def _packed(plane: Bytes) -> tuple[Any, bool]:
    cost, packer = _cost(_sample(plane))
    if cost < _WORTH or len(plane) <= _SAMPLE:
        packed = _compressor(packer).compress(plane.data)
        if len(packed) < _WORTH * len(plane):
            return packed, True
    return plane.data, False


def _unpacked(content: memoryview, packed: bool, length: int) -> bytes | memoryview:
    if packed:
        try:
            params = zstandard.get_frame_parameters(content)
            if params.content_size != length:
                raise Damaged("a plane has another length")
            content = memoryview(zstandard.ZstdDecompressor().decompress(content, max_output_size=length))
        except zstandard.ZstdError as error:
            raise Damaged(f"a plane cannot be unpacked: {error}") from error
    if len(content) != length:
        raise Damaged("a plane has another length")
    return content


def _sample(whole: Bytes) -> Bytes:
    """A little from several places, each at a multiple of every stride."""
    if len(whole) <= _SAMPLE:
        return whole
    part = _SAMPLE // _PROBES
    starts = [(len(whole) - part) * probe // (_PROBES - 1) // 8 * 8 for probe in range(_PROBES)]
    return np.concatenate([whole[start : start + part] for start in starts])


def _best_stride(sample: Bytes) -> tuple[int, float]:
    """The smallest stride that makes the sample about as small as any, and what it is then."""
    costs = {stride: sum(_cost(plane)[0] * len(plane) for plane in _split(sample, stride)) for stride in _STRIDES}
    best = min(stride for stride in _STRIDES if costs[stride] <= _NEARLY * min(costs.values()))
    return best, costs[best]


def _cost(plane: Bytes) -> tuple[float, int]:
    """What is left of a plane, as a share, and by which packer."""
    if not len(plane):
        return 0.0, 0
    sizes = [len(_compressor(packer).compress(plane.data)) for packer in range(len(_PACKERS))]
    return min(1.0, min(sizes) / len(plane)), sizes.index(min(sizes))


def _compressor(packer: int) -> zstandard.ZstdCompressor:
    params = zstandard.ZstdCompressionParameters.from_level(1, **_PACKERS[packer])
    return zstandard.ZstdCompressor(compression_params=params)
