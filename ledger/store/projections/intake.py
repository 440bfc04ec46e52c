"""What the projections take in of events: facts decoded, metrics of consecutive events drawn together. Pure.

It asks for nothing that is kept, so that a store can do it, the longer part of the work, before it takes its lock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.codec import Codec, columns
from ledger.events import (
    CheckpointDeleted,
    CheckpointWritten,
    ConfigResolved,
    DataCommitted,
    MetricsLogged,
    ReplayCompared,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    RunStarted,
    TrainingResumed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ledger.codec import Columns, Recorded
    from ledger.events import Event, UnknownEvent
    from ledger.store.head import Entry

MEASURING: Final = frozenset((TrainingResumed.type, MetricsLogged.type))
"""Types of the events that metrics are measured from."""
TYPES: Final = MEASURING | {
    event.type
    for event in (
        RunStarted,
        ConfigResolved,
        DataCommitted,
        CheckpointWritten,
        CheckpointDeleted,
        RunCompleted,
        RunFailed,
        RunInterrupted,
        ReplayCompared,
        RunAnnotated,
    )
}
"""Types of all events that anything is taken from."""
ALONE: Final = -1
"""The rank of a process that has none: it comes before all others."""
_CODEC: Final = Codec()
_TOGETHER: Final = 10_000
"""Rows that are drawn together: more would only take memory."""
_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


class Told(NamedTuple):
    """A fact other than metrics."""

    global_position: int
    recorded_at: str
    attempt: int | None
    event: Event | UnknownEvent


@dataclass(slots=True)
class Points:
    """Columns of equal length, one row for each value of a metric."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Logged:
    """Metrics that one writer logged."""

    rank: int
    attempt: int | None
    metrics: dict[str, Points] = field(default_factory=dict)
    rows: int = 0

    def add(self, batch: Columns) -> None:
        """Rows that follow."""
        self.rows += len(batch.step)
        for name, column in batch.values.items():
            points = self.metrics.get(name)
            if points is None:
                points = self.metrics[name] = Points()
            given = [value is not None for value in column] if None in column else None
            points.steps += batch.step if given is None else compress(batch.step, given)
            points.values += column if given is None else compress(column, given)  # type: ignore[arg-type]


def take_in(entries: Iterable[Recorded | Entry]) -> Iterator[Told | Logged]:
    """What is in these events, which follow one another in a stream."""
    logged: Logged | None = None
    for entry in entries:
        if entry.type == MetricsLogged.type and entry.schema_version <= MetricsLogged.schema_version:
            rank, attempt = entry.metadata.rank, entry.metadata.attempt
            rank = ALONE if rank is None else rank
            if logged and ((logged.rank, logged.attempt) != (rank, attempt) or logged.rows >= _TOGETHER):
                yield logged
                logged = None
            logged = logged or Logged(rank, attempt)
            _add(logged, entry)
        elif entry.type in TYPES and (event := _decoded(entry)) is not None:
            if logged:
                yield logged
                logged = None
            yield Told(entry.global_position, entry.recorded_at, entry.metadata.attempt, event)
    if logged:
        yield logged


def _add(logged: Logged, entry: Recorded | Entry) -> None:
    try:
        logged.add(columns(_text(entry.payload)))
    except (ValueError, TypeError, AttributeError):
        # The log keeps even what nobody can read; a view of it is no place to refuse a fact.
        return


def _decoded(entry: Recorded | Entry) -> Event | UnknownEvent | None:
    try:
        return _CODEC.decode(entry.type, entry.schema_version, _text(entry.payload))
    except ValueError:  # as above
        return None


def _text(payload: bytes) -> bytes:
    """The payload without NUL, which JSON can hold and the text columns of PostgreSQL cannot."""
    return _NUL.sub(rb"\1\\ufffd", payload) if b"\\u0000" in payload else payload
