"""All runs at a glance: filtered, sorted, and no more of each than is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.errors import UsageError
from ledger.read.names import Reading
from ledger.store.projections.query import FIELDS, And, Comparison, RunQuery
from ledger.store.projections.summary import RunSummary

if TYPE_CHECKING:
    from collections.abc import Collection

    from ledger.store.projections.query import Condition, Order, Projections, Quantity

__all__ = ["Catalogue", "RunSummary", "consult"]


@dataclass(frozen=True)
class Catalogue:
    """A list of runs."""

    runs: list[RunSummary]
    columns: tuple[str, ...] = ()
    """Metrics and configured values that it was filtered or sorted by; each run has theirs in ``asked``."""
    notes: tuple[str, ...] = ()
    """What a reader should know about how the filter was understood."""


def consult(
    projections: Projections,
    living: frozenset[str],
    *,
    where: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    tag: str | None = None,
    all_metrics: bool = False,
) -> Catalogue:
    """The runs for which ``where`` is true, by ``sort`` (a ``-`` before it turns the order around), at most ``limit``.

    Without ``sort`` they come in the order in which they started, and ``limit`` keeps the latest. ``living`` are the
    streams whose writers live. Raises ``UsageError`` for an expression that is none, or names what no run has.
    """
    conditions: list[Condition] = [Comparison(FIELDS["tag"], "=", tag)] if tag is not None else []
    asked: dict[str, Quantity] = {}
    notes: list[str] = []
    order: Order | None = None
    if limit is not None and limit < 1:
        raise UsageError(f"a list of at most {limit} runs is no list", mend="ask for 1 or more")
    if where is not None:
        reading = Reading(where, projections.find)
        conditions.append(reading.condition())
        asked |= reading.asked
        notes += reading.notes
    if sort is not None:
        reading = Reading(sort.removeprefix("-"), projections.find)
        order = reading.order(descending=sort.startswith("-"))
        asked |= reading.asked
        notes += reading.notes
    found = projections.runs(
        RunQuery(And(tuple(conditions)) if conditions else None, order, limit, living, tuple(asked.values()))
    )
    if all_metrics:
        _add_metrics(projections, found)
    return Catalogue(found, tuple(asked), tuple(dict.fromkeys(notes)))


def _add_metrics(projections: Projections, runs: Collection[RunSummary]) -> None:
    measured = projections.metrics([run.stream for run in runs])
    for run in runs:
        run.metrics = {name: metric.last for name, metric in measured[run.stream].items()}
