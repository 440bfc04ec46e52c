"""Between facts and bytes: canonical JSON, the digest chain, and the rows of the log.

Canonical JSON here is UTF-8 without white space, keys sorted by code point, floats in their shortest form
that reads back to the same 64 bits. The payload is kept byte for byte, so that a digest never depends on a
later encoder.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
import uuid_utils.compat as uuids

from ledger.errors import UsageError
from ledger.upcast import upcast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ledger.events import Event, UnknownEvent

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


@dataclass
class Recorded:
    """An event in the log. Not to be changed; a frozen dataclass would take three times as long to make."""

    global_position: int
    """Order of commit over all streams, gapless from 1."""
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

    ``global_position`` stays outside, so that a stream keeps its digests when it moves to another database.
    """
    row = canonical_row(
        stream=stream,
        position=position,
        event_id=event_id,
        type=type,
        schema_version=schema_version,
        payload=payload,
        metadata=metadata,
        recorded_at=recorded_at,
    )
    return hashlib.sha256(previous.encode() + row).hexdigest()


def canonical_row(
    *,
    stream: str,
    position: int,
    event_id: str,
    type: str,
    schema_version: int,
    payload: bytes,
    metadata: bytes,
    recorded_at: str,
) -> bytes:
    """What is digested of an event: canonical JSON. ``payload`` and ``metadata`` enter as the bytes that are stored."""
    return canonical_json(
        {
            "event_id": event_id,
            "metadata": orjson.Fragment(metadata),
            "payload": orjson.Fragment(payload),
            "position": position,
            "recorded_at": recorded_at,
            "schema_version": schema_version,
            "stream": stream,
            "type": type,
        }
    )


class Columns(NamedTuple):
    """What ``metrics.logged`` holds: columns of equal length."""

    step: list[float]
    time: list[float]
    values: dict[str, list[float | None]]
    """None where a row does not give that metric."""


METRICS: Final = "metrics.logged"
"""The one type whose payloads are long."""
_BEYOND_JSON: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def columns(payload: bytes) -> Columns:
    """The columns of a ``metrics.logged`` payload.

    Believed, not validated value by value: a run may have millions, and each was checked when it was recorded.
    """
    logged = Columns(**orjson.loads(payload))
    keys = len(Columns._fields) + len(logged.values)
    if payload.count(b'"') > 2 * keys:  # there are texts beside the keys: counting them is cheaper than looking
        everything: tuple[list[Any], ...] = (logged.step, logged.time, *logged.values.values())
        for column in everything:
            if str in set(map(type, column)):
                column[:] = [_BEYOND_JSON.get(value, value) for value in column]
    return logged


class Codec:
    """Turns events into drafts and rows back into events; knows the core's types and those of the plugins."""

    def __init__(self, plugin_events: Callable[[], Iterable[type[Event]]] = tuple) -> None:
        """``plugin_events`` gives the plugins' types, once the first event is to be encoded or decoded."""
        self._plugin_events = plugin_events
        self._types: Mapping[str, type[Event]] | None = None

    def draft(self, event: Event, metadata: Metadata, *, event_id: str | None = None) -> Draft:
        """Encode ``event`` for appending; a given ``event_id`` makes a repeated append the same append.

        Raises ``UsageError`` for a value that JSON with 64-bit integers cannot hold, and where plugins register a
        type twice.
        """
        self._known()  # a clash stops the first fact of a run, not its last
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
        known = self._known().get(type)
        if known is None or schema_version > known.schema_version:
            return _unknown(type, schema_version, payload)
        if schema_version < known.schema_version:
            return known.model_validate_json(canonical_json(upcast(type, schema_version, orjson.loads(payload))))
        return _metrics_logged(payload) if type == METRICS else known.model_validate_json(payload)

    def _known(self) -> Mapping[str, type[Event]]:
        if self._types is None:
            # Imported here, as below: to list and to verify runs takes no event, and these take long to import.
            from ledger.events import CORE_EVENTS

            types: dict[str, type[Event]] = {}
            for event in (*CORE_EVENTS, *self._plugin_events()):
                if types.setdefault(event.type, event) is not event:
                    raise UsageError(
                        f"event type {event.type!r} is registered twice",
                        mend="a plugin's types go under its own prefix, such as myplugin.happened",
                    )
            self._types = types
        return self._types


def _unknown(type: str, schema_version: int, payload: bytes) -> UnknownEvent:
    from ledger.events import UnknownEvent

    return UnknownEvent(type=type, schema_version=schema_version, payload=orjson.loads(payload))


def _metrics_logged(payload: bytes) -> Event:
    from ledger.events import MetricsLogged

    step, time, values = columns(payload)
    return MetricsLogged.model_construct(
        step=tuple(step), time=tuple(time), values={name: tuple(column) for name, column in values.items()}
    )
