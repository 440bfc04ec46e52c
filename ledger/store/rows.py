"""Between events and the rows of the table ``event``."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from ledger.codec import Metadata, Recorded
from ledger.store.packing import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.codec import Codec
    from ledger.store.head import Link


def row(link: Link) -> tuple[Any, ...]:
    """All columns of an event but the first, the global position, which only its append gives it."""
    draft = link.draft
    payload, packed = pack(draft.payload)
    return (
        draft.event_id,
        link.stream,
        link.position,
        draft.type,
        draft.schema_version,
        payload,
        link.metadata.decode(),
        link.recorded_at,
        link.previous_digest,
        link.digest,
        packed,
    )


def recorded(columns: Sequence[Any], codec: Codec) -> Recorded:
    """The event in a row. Raises ``IntegrityError`` for one that was damaged."""
    number, event_id, stream, position, kind, version, payload, metadata, at, previous, digest, packed = columns
    return Recorded(
        global_position=number,
        event_id=event_id,
        stream=stream,
        position=position,
        type=kind,
        schema_version=version,
        payload=unpack(payload, packed),
        metadata=read_metadata(metadata),
        recorded_at=at,
        previous_digest=previous,
        digest=digest,
        codec=codec,
    )


@lru_cache(maxsize=256)
def read_metadata(text: str) -> Metadata:
    """Who wrote an event. Cached, since all events of a process carry the same."""
    return Metadata(**orjson.loads(text))
