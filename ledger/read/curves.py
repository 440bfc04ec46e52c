"""The metrics of a run, looked into only when somebody asks, and no further than asked. Pure.

A run may have millions of points, and most questions about it need none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ledger.codec import columns
from ledger.read.series import Series
from ledger.store.projections.measured import measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ledger.codec import Columns, Recorded
    from ledger.store.projections.measured import Measured

Rank = int | None


class Figures(NamedTuple):
    """What the effective history of the leading rank comes to."""

    metrics: Mapping[str, Measured]
    """Of each metric that has a value in it."""
    reached: float | None
    """The highest step with a value."""


class Curves(Protocol):
    """Where the metrics of one run are."""

    def add(self, recorded: Recorded) -> None:
        """A fold came by this ``metrics.logged``."""

    def batches(self) -> Iterable[Recorded]:
        """All ``metrics.logged`` of the run so far, in the order of the log."""

    def figures(self) -> Figures | None:
        """What they come to, where that is known without looking into them."""


class Kept:
    """The metrics that a fold came by, as they were recorded."""

    def __init__(self) -> None:
        self._batches: list[Recorded] = []

    def add(self, recorded: Recorded) -> None:
        """See ``Curves.add``."""
        self._batches.append(recorded)

    def batches(self) -> Iterable[Recorded]:
        """See ``Curves.batches``."""
        return self._batches

    def figures(self) -> None:
        """See ``Curves.figures``."""


class Batch(NamedTuple):
    """One ``metrics.logged``, not yet looked into."""

    rank: Rank
    attempt: int
    payload: bytes


def gather(batches: Iterable[Batch], metric: str | None = None) -> dict[Rank, dict[str, Series]]:
    """The series of ``metric``, or of every metric, by rank and name, with what later attempts took back.

    A rank that logged anything is there, with this metric or without it.
    """
    found: dict[Rank, dict[str, _Points]] = {}
    for batch in batches:
        points = found.setdefault(batch.rank, {})
        logged = columns(batch.payload)
        for name in logged.values if metric is None else logged.values.keys() & {metric}:
            points.setdefault(name, _Points()).add(logged, name, batch.attempt)
    return {rank: {name: column.series(name) for name, column in points.items()} for rank, points in found.items()}


def figure(batches: Iterable[Batch], limit: Callable[[int], float]) -> Figures:
    """What the batches come to; ``limit`` gives the last step of an attempt that counts."""
    rank: Rank = None
    metrics: dict[str, Measured] = {}
    reached: float | None = None
    for number, batch in enumerate(batches):
        if number == 0 or lead(batch.rank) < lead(rank):
            rank, metrics, reached = batch.rank, {}, None
        if batch.rank == rank:
            logged = columns(batch.payload)
            for name, (measured, step) in measure(logged.step, logged.values, limit(batch.attempt)).items():
                metrics[name] = metrics[name].then(measured) if name in metrics else measured
                reached = step if reached is None else max(reached, step)
    return Figures(metrics, reached)


def lead(rank: Rank) -> int:
    """Sorts the leading rank first: a process without a rank, else the lowest."""
    return -1 if rank is None else rank


@dataclass
class _Points:
    """A metric's points as they come, all attempts together."""

    step: list[float] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    attempt: list[int] = field(default_factory=list)

    def add(self, logged: Columns, name: str, attempt: int) -> None:
        """Add one metric of a batch: whole columns at once, since a batch may be long."""
        before = len(self.value)
        values = logged.values[name]
        given = [value is not None for value in values] if None in values else None
        for column, more in ((self.step, logged.step), (self.time, logged.time), (self.value, values)):
            column += more if given is None else compress(more, given)  # type: ignore[arg-type]
        self.attempt += [attempt] * (len(self.value) - before)

    def series(self, name: str) -> Series:
        """The points as a series."""
        return Series(name, tuple(self.step), tuple(self.time), tuple(self.value), tuple(self.attempt))
