"""The rows of a log as they stand in the database, neither decoded nor believed: what a check of them begins with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ledger.codec import metadata_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.codec import Recorded


class Row(NamedTuple):
    """One row of ``event``. In a damaged database any column may hold a value of any type."""

    global_position: int
    event_id: str
    stream: str
    position: int
    type: str
    schema_version: int
    payload: str
    packed: bytes | None
    metadata: str
    recorded_at: str
    previous_digest: str
    digest: str


Raw = tuple[Any, ...]
"""The values of a ``Row``, without the name: making those names costs more than hashing the row."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a log reaches, at one moment."""

    first: int
    """The lowest global position: 1, also in an empty log."""
    size: int
    """The highest global position, 0 in an empty log; what is appended later is not part of this extent."""
    heads: dict[str, tuple[int, str, int | None]]
    """Version, digest and highest attempt of each stream, by the index of the log."""
    names: dict[str, str]
    """``run-<n>`` of each stream that was given such a name."""


class Scan(Protocol):
    """Raw reading of one log."""

    url: str | None
    """What another process opens to scan the same log; None where no other process can."""

    def extent(self) -> Extent:
        """How far the log reaches now."""

    def rows(self, first: int, last: int) -> Sequence[Raw]:
        """Rows with the global positions ``first`` … ``last``, in order."""

    def stream(self, stream: str, after: int, limit: int) -> Sequence[Raw]:
        """The next rows of a stream with a position above ``after``, in order of position."""

    def digests(self, first: int, last: int) -> Sequence[str]:
        """The column ``digest`` of ``rows``."""

    def find(self, event_id: str) -> int | None:
        """Global position of the event with this id."""

    def places(self) -> Sequence[Raw]:
        """Id of each journal, position of the log in it, and the digest of both (see ``store.places``)."""

    def damage(self) -> str | None:
        """What the database finds wrong with its own tables and indexes; None for nothing, or where it cannot tell."""


class MemoryScan:
    """A ``Scan`` of events that lie in memory."""

    def __init__(self, log: Sequence[Recorded], extent: Extent) -> None:
        self.url: str | None = None
        self._log = log
        self._extent = extent

    def extent(self) -> Extent:
        """See ``Scan``."""
        return self._extent

    def rows(self, first: int, last: int) -> Sequence[Raw]:
        """See ``Scan``."""
        return [_row(event) for event in self._log[first - 1 : last]]

    def stream(self, stream: str, after: int, limit: int) -> Sequence[Raw]:
        """See ``Scan``."""
        events = [event for event in self._log if event.stream == stream and event.position > after]
        return [_row(event) for event in events[:limit]]

    def digests(self, first: int, last: int) -> Sequence[str]:
        """See ``Scan``."""
        return [event.digest for event in self._log[first - 1 : last]]

    def find(self, event_id: str) -> int | None:
        """See ``Scan``."""
        return next((event.global_position for event in self._log if event.event_id == event_id), None)

    def places(self) -> Sequence[Raw]:
        """See ``Scan``. None of them are rows here."""
        return []

    def damage(self) -> str | None:
        """See ``Scan``."""
        return None


def _row(event: Recorded) -> Raw:
    return Row(
        global_position=event.global_position,
        event_id=event.event_id,
        stream=event.stream,
        position=event.position,
        type=event.type,
        schema_version=event.schema_version,
        payload=event.payload.decode(),
        packed=None,
        metadata=metadata_json(event.metadata).decode(),
        recorded_at=event.recorded_at,
        previous_digest=event.previous_digest,
        digest=event.digest,
    )
