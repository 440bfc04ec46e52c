"""Between facts and bytes: canonical JSON, the digest chain, and the rows of the log.

Canonical JSON here is UTF-8 without white space, keys sorted by code point, floats in their shortest form
that reads back to the same 64 bits. The payload is kept byte for byte, so that a digest never depends on a
later encoder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

import orjson
import uuid_utils.compat as uuids

from ledger.errors import UsageError
from ledger.events import CORE_EVENTS, Event, UnknownEvent

if TYPE_CHECKING:
    from collections.abc import Iterable

GENESIS: Final = "0" * 64
"""``previous_digest`` of the first event of every stream."""


def canonical_json(value: Any) -> bytes:
    """``value`` as canonical JSON; it must hold nothing that JSON lacks."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def canonical_digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def new_id() -> str:
    """A fresh UUIDv7 (RFC 9562, section 5.7): unique, and sortable by the time it was made."""
    return str(uuids.uuid7())


@dataclass(frozen=True, slots=True)
class Metadata:
    """Who wrote an event. ``attempt`` is None for facts that no training process wrote (a note, a verdict)."""

    writer: str
    """The plugin or part of Ledger that wrote it."""
    host: str
    pid: int
    version: str
    """Ledger's own version."""
    rank: int | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """An event on its way into the log, already encoded, with the identity that makes appending it idempotent."""

    event_id: str
    type: str
    schema_version: int
    payload: bytes
    metadata: Metadata


@dataclass(frozen=True)
class Recorded:
    """An event in the log."""

    global_position: int
    """Order of commit over all streams, from 1, ascending, not necessarily gapless."""
    event_id: str
    stream: str
    position: int
    """Gapless from 0 within the stream."""
    type: str
    schema_version: int
    payload: bytes
    metadata: Metadata
    recorded_at: str
    """UTC, ISO 8601 with microseconds and a final Z."""
    previous_digest: str
    digest: str
    codec: Codec = field(repr=False, compare=False)

    @cached_property
    def event(self) -> Event | UnknownEvent:
        """The fact itself, decoded on first use."""
        return self.codec.decode(self.type, self.schema_version, self.payload)


@lru_cache(maxsize=256)
def metadata_json(metadata: Metadata) -> bytes:
    """Metadata as it is stored and digested: canonical JSON. Cached: all events of a process share it."""
    # As a dict: orjson sorts the keys of dicts only, and writes a dataclass in the order of its fields.
    return canonical_json(asdict(metadata))


def chain_digest(
    previous: str,
    *,
    stream: str,
    position: int,
    event_id: str,
    type: str,
    schema_version: int,
    payload: bytes,
    metadata: bytes,
    recorded_at: str,
) -> str:
    """Digest of an event: SHA-256 over the previous digest's 64 hexadecimal characters and the canonical row.

    ``payload`` and ``metadata`` enter as the bytes that are stored. ``global_position`` stays outside, so
    that a stream keeps its digests when it moves to another database.
    """
    row = {
        "event_id": event_id,
        "metadata": orjson.Fragment(metadata),
        "payload": orjson.Fragment(payload),
        "position": position,
        "recorded_at": recorded_at,
        "schema_version": schema_version,
        "stream": stream,
        "type": type,
    }
    return hashlib.sha256(previous.encode() + canonical_json(row)).hexdigest()


class Codec:
    """Turns events into drafts and rows back into events; knows the core's types and those of the plugins."""

    def __init__(self, plugin_events: Iterable[type[Event]] = ()) -> None:
        self._types: dict[str, type[Event]] = {}
        for event in (*CORE_EVENTS, *plugin_events):
            if self._types.setdefault(event.type, event) is not event:
                raise UsageError(
                    f"event type {event.type!r} is registered twice",
                    mend="a plugin's types go under its own prefix, such as myplugin.happened",
                )

    def draft(self, event: Event, metadata: Metadata, *, event_id: str | None = None) -> Draft:
        """Encode ``event`` for appending; a given ``event_id`` makes a repeated append the same append.

        Raises ``UsageError`` for a value that JSON with 64-bit integers cannot hold.
        """
        # Through JSON once more: pydantic knows how to write NaN, orjson how to sort keys at every depth.
        # Read with json: orjson would turn an integer beyond 64 bits into a float, and a seed may be that
        # large.
        try:
            payload = canonical_json(json.loads(event.model_dump_json()))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{event.type} cannot be recorded: {error}",
                mend="give integers beyond 64 bits, bytes and text that is not Unicode as strings that are",
            ) from error
        return Draft(event_id or new_id(), event.type, event.schema_version, payload, metadata)

    def decode(self, type: str, schema_version: int, payload: bytes) -> Event | UnknownEvent:
        """The fact that a row holds; ``UnknownEvent`` for a type or version from the future."""
        known = self._types.get(type)
        if known is None or schema_version > known.schema_version:
            return UnknownEvent(type=type, schema_version=schema_version, payload=orjson.loads(payload))
        return known.model_validate_json(payload)
