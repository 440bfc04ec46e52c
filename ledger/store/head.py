"""Where a stream stands, and what it becomes when drafts are appended: the rules that every store shares."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from ledger.codec import GENESIS, Recorded, chain_digest, metadata_json
from ledger.errors import ConcurrentAppend, Conflict, FencedAttempt
from ledger.store.base import ANY, NO_STREAM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.codec import Codec, Draft, Metadata


class Entry(NamedTuple):
    """What is looked at of an event that is not recorded yet, or not read whole."""

    global_position: int
    type: str
    schema_version: int
    payload: bytes
    metadata: Metadata
    recorded_at: str


class Link(NamedTuple):
    """A draft with its place in the stream: all of an event but its global position."""

    stream: str
    position: int
    draft: Draft
    metadata: bytes
    recorded_at: str
    previous_digest: str
    digest: str

    def entry(self, global_position: int) -> Entry:
        """What the projections look at."""
        draft = self.draft
        return Entry(global_position, draft.type, draft.schema_version, draft.payload, draft.metadata, self.recorded_at)

    def recorded(self, global_position: int, codec: Codec) -> Recorded:
        """The event, once the log has given it a global position."""
        return Recorded(
            global_position=global_position,
            event_id=self.draft.event_id,
            stream=self.stream,
            position=self.position,
            type=self.draft.type,
            schema_version=self.draft.schema_version,
            payload=self.draft.payload,
            metadata=self.draft.metadata,
            recorded_at=self.recorded_at,
            previous_digest=self.previous_digest,
            digest=self.digest,
            codec=codec,
        )


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a stream."""

    stream: str
    version: int = NO_STREAM
    digest: str = GENESIS
    attempt: int | None = None
    """The highest attempt that the stream has seen."""
    recorded_at: str = ""

    def require(self, expected_version: int) -> None:
        """Raise ``ConcurrentAppend`` unless the stream is where the writer expects it."""
        if expected_version not in (ANY, self.version):
            raise ConcurrentAppend(self.stream, expected_version, self.version)

    def extend(self, drafts: Iterable[Draft], now: str) -> tuple[list[Link], Head]:
        """The drafts chained to this head, and the head after them.

        ``now`` is what the clock says; a clock that was set back does not turn the stream's order around.
        Raises ``FencedAttempt`` for a draft of an attempt older than one before it.
        """
        links: list[Link] = []
        recorded_at = max(now, self.recorded_at)
        position, digest, attempt = self.version, self.digest, self.attempt
        for draft in drafts:
            attempt = self._admit(draft.metadata.attempt, attempt)
            position += 1
            metadata = metadata_json(draft.metadata)
            previous, digest = (
                digest,
                chain_digest(
                    digest,
                    stream=self.stream,
                    position=position,
                    event_id=draft.event_id,
                    type=draft.type,
                    schema_version=draft.schema_version,
                    payload=draft.payload,
                    metadata=metadata,
                    recorded_at=recorded_at,
                ),
            )
            links.append(Link(self.stream, position, draft, metadata, recorded_at, previous, digest))
        return links, Head(self.stream, position, digest, attempt, recorded_at if links else self.recorded_at)

    def _admit(self, attempt: int | None, highest: int | None) -> int | None:
        """The highest attempt seen once one of ``attempt`` is in."""
        if attempt is None or highest is None:
            return highest if attempt is None else attempt
        if attempt < highest:
            raise FencedAttempt(self.stream, attempt, highest)
        return attempt


def admit_holder(stream: str, attempt: int, holding: int | None) -> None:
    """Raise ``FencedAttempt`` where a newer attempt holds the stream's lease."""
    if holding is not None and holding > attempt:
        raise FencedAttempt(stream, attempt, holding)


def utc_now() -> str:
    """The time: UTC, ISO 8601, always with microseconds and a final Z, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def foreign_event(event_id: str, holder: str, stream: str) -> Conflict:
    """The error for an event_id that is taken by another stream."""
    return Conflict(
        f"event {event_id} cannot be appended to {stream}: it is stored in {holder} already",
        mend="give the fact an event_id of its own in every stream that records it",
    )
