"""The digest chain of every stream, recomputed from raw rows.

A row is taken apart again in one way only: of the columns that enter a digest as text between quotes none may hold a
quote, metadata must be one JSON object, and the rest is then fixed from both ends. So no bytes can be moved from one
column into its neighbour under the same digest.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from ledger.codec import GENESIS, canonical_row
from ledger.errors import IntegrityError
from ledger.store.packing import unpack
from ledger.store.scan import Row

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ledger.store.scan import Raw


class End(NamedTuple):
    """Where a stream was left."""

    position: int = -1
    digest: str = GENESIS
    attempt: int = 0
    """The highest attempt so far; 0 where no event had one."""


BEGINNING: Final = End()


@dataclass
class Chains:
    """A walk along the log, or along a part of it, from row to row.

    ``opens`` are the first rows of streams whose earlier end is not known here: who has walked the part before has to
    compare them with it. ``kept`` are the rows of the types asked for.
    """

    wanted: Collection[str] = ()
    ends: dict[str, tuple[int, str, int]] = field(default_factory=dict)
    """Values of an ``End`` by stream."""
    opens: dict[str, Row] = field(default_factory=dict)
    kept: list[Row] = field(default_factory=list)
    _attempts: dict[str, int] = field(default_factory=dict)
    """Attempt by metadata as they are stored: few processes write many rows."""

    def follow(self, rows: Sequence[Raw]) -> list[bytes]:
        """Leaf hashes of the rows up to the first that is not what was recorded, or not where it was recorded."""
        leaves: list[bytes] = []
        with suppress(IntegrityError, TypeError, ValueError):  # a value of another type, or bytes that are no text
            self._follow(rows, leaves)
        return leaves

    def _follow(self, rows: Sequence[Raw], leaves: list[bytes]) -> None:
        # Three hundred thousand times a second: hence the row formatted at once, which `authentic` does by the book.
        attempts, ends, wanted = self._attempts, self.ends, self.wanted
        for row in rows:
            (_, event_id, stream, position, kind, version, payload, packed, metadata, at, previous, digest) = row
            end = ends.get(stream)
            if end is None:
                self.opens[stream] = Row._make(row)
                reached = 0
            elif end[0] + 1 != position or end[1] != previous:
                return
            else:
                reached = end[2]
            attempt = attempts.get(metadata)
            if attempt is None:
                attempt = attempts[metadata] = attempt_of(metadata)
            text = payload if packed is None else content(payload, packed)
            hashed = sha256(
                f'{previous}{{"event_id":"{event_id}","metadata":{metadata},"payload":{text},"position":{position},'
                f'"recorded_at":"{at}","schema_version":{version},"stream":"{stream}","type":"{kind}"}}'.encode()
            ).digest()
            plain = not ('"' in event_id or '"' in at or '"' in stream or '"' in kind)
            if (hashed.hex() != digest or not plain) and not authentic(Row._make(row)):
                return
            ends[stream] = (position, digest, attempt if attempt > reached else reached)
            if kind in wanted:
                self.kept.append(Row._make(row))
            leaves.append(sha256(b"\x00" + hashed).digest())


def authentic(row: Row) -> bool:
    """Whether a row has the digest that it states."""
    try:
        attempt_of(row.metadata)
        return sha256(row.previous_digest.encode() + digested(row)).hexdigest() == row.digest
    except (AttributeError, IntegrityError, TypeError, ValueError):
        return False


def digested(row: Row) -> bytes:
    """What was digested of a row, after the previous digest. Raises ``IntegrityError`` for a damaged payload."""
    return canonical_row(
        stream=row.stream,
        position=row.position,
        event_id=row.event_id,
        type=row.type,
        schema_version=row.schema_version,
        payload=content(row.payload, row.packed).encode(),
        metadata=row.metadata.encode(),
        recorded_at=row.recorded_at,
    )


def content(payload: str, packed: bytes | None) -> str:
    """The payload of a row, unpacked. Raises ``IntegrityError``, also where a row has two."""
    if packed is not None and payload:
        raise IntegrityError("a row holds two payloads")
    return unpack(payload, packed).decode()


def attempt_of(metadata: str) -> int:
    """The attempt that metadata name, 0 for none. Raises ``ValueError`` for what is no metadata."""
    read = orjson.loads(metadata)
    attempt = read.get("attempt") if isinstance(read, dict) else "none"
    if attempt is not None and type(attempt) is not int:
        raise ValueError("metadata are not what Ledger writes")
    return attempt or 0
