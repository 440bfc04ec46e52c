"""Long payloads at rest: one Zstandard frame (RFC 8878) around the canonical JSON, exact on the way back.

A batch of metrics is mostly digits that repeat from row to row, and shrinks to less than half. A short payload stays
text, which whoever opens the database with another tool can read.
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard

from ledger.errors import IntegrityError

_LONG: Final = 1024
_LIMIT: Final = 1 << 30
"""No payload is longer: what claims to be is no payload, and must not be unpacked into memory."""
_own: Final = threading.local()


def pack(payload: bytes) -> tuple[str, bytes | None]:
    """The columns ``payload`` and ``packed`` for these bytes."""
    if len(payload) < _LONG:
        return payload.decode(), None
    if not hasattr(_own, "packer"):  # an instance is not safe to share between threads
        _own.packer = zstandard.ZstdCompressor(level=1)  # on digits it packs tighter than level 3, in half the time
    packed: bytes = _own.packer.compress(payload)
    return "", packed


def unpack(payload: str, packed: bytes | None) -> bytes:
    """The bytes behind the columns. Raises ``IntegrityError`` where they were damaged."""
    if packed is None:
        return payload.encode()
    if not hasattr(_own, "unpacker"):
        _own.unpacker = zstandard.ZstdDecompressor()
    try:
        if not 0 <= zstandard.frame_content_size(packed) <= _LIMIT:
            raise IntegrityError("a packed payload does not tell its length")
        content: bytes = _own.unpacker.decompress(packed)
    except zstandard.ZstdError as error:
        raise IntegrityError(
            f"a packed payload cannot be read: {error}", mend="`ledger verify` names the event"
        ) from error
    return content
