"""What lists and searches ask about runs, folded from their facts. Pure: events in, changes out.

A store keeps the result beside the log, brings it up to date in the transaction of every append, and may throw it
away and fold it again. Facts that this version does not know, and those of plugins, are no part of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from ledger.events import (
    CheckpointDeleted,
    CheckpointWritten,
    ConfigResolved,
    DataCommitted,
    ReplayCompared,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    RunStarted,
    TrainingResumed,
)
from ledger.store.projections.intake import Logged, Told
from ledger.store.projections.measured import Measured, measure_one
from ledger.store.projections.summary import CommittedData, KeptCheckpoint, RunSummary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ledger.events import Event
    from ledger.store.projections.summary import Status, Value

_ENDS: Final[dict[type[Event], Status]] = {
    RunCompleted: "completed",
    RunFailed: "failed",
    RunInterrupted: "interrupted",
}


@dataclass(slots=True)
class Changes:
    """What some events of one run change in what is kept about it."""

    summary: RunSummary
    """Afterwards."""
    began: bool = False
    """Whether nothing was kept about the run before."""
    metrics: dict[str, Measured] = field(default_factory=dict)
    """Of the points in these events alone."""
    anew: bool = False
    """Whether ``metrics`` take the place of all that were kept, instead of adding to them."""
    taken_back: bool = False
    """Whether points that were counted no longer count: :func:`measured_again` must look at the log."""
    config: dict[str, Value] | None = None
    """All values, by dotted path, where these events resolve a configuration."""
    data: dict[str, CommittedData] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    """New ones."""
    deleted: list[tuple[str, str]] = field(default_factory=list)
    """URI and digest of deleted checkpoints that earlier events wrote, if anything did."""
    checkpoints: list[KeptCheckpoint] = field(default_factory=list)


def fold(stream: str, kept: RunSummary | None, facts: Iterable[Told | Logged], *, after: int = 0) -> Changes | None:
    """What ``facts``, the next of one stream in order, change; None where they are not a run's.

    ``kept`` is what the facts before them came to, and is changed. ``after`` is added to their global positions.
    """
    changes = Changes(kept) if kept else None
    for fact in facts:
        if isinstance(fact, Logged):
            if changes:
                _log(changes, fact)
        elif changes:
            _apply(changes, fact, after)
        elif isinstance(fact.event, RunStarted):
            changes = _begun(stream, fact, fact.event, after)
    return changes


def measured_again(summary: RunSummary, facts: Iterable[Told | Logged]) -> dict[str, Measured]:
    """The metrics of a run from its whole stream, all that was taken back left out; sets ``summary`` right."""
    replayed = Changes(summary)
    summary.reached, summary.headline = None, None
    attempt = 1
    for fact in facts:
        if isinstance(fact, Logged):
            if fact.rank == summary.rank:
                _count(replayed, fact, fact.attempt or attempt)
        elif isinstance(fact.event, TrainingResumed):
            attempt = fact.event.attempt
    return replayed.metrics


def flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """The values of a configuration by dotted path; what is neither number nor text as JSON."""
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{path}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, float(value)
        else:
            yield path, value if isinstance(value, str) else orjson.dumps(value).decode()


def prominence(metric: str) -> tuple[int, str]:
    """Sorts the metric to show first: a loss, rather of validation than of training."""
    loss = metric.lower().endswith("loss")
    return (1 if "train" in metric.lower() else 0) if loss else 2, metric


def _begun(stream: str, fact: Told, event: RunStarted, after: int) -> Changes:
    tags = tuple(dict.fromkeys(event.tags))
    summary = RunSummary(
        stream=stream,
        opened=after + fact.global_position,
        name=event.name,
        kind=event.kind,
        started_at=fact.recorded_at,
        host=event.process.host,
        pid=event.process.pid,
        process_started=event.process.started,
        project=event.project,
        user=event.user,
        replay_of=event.replay_of,
        segment=event.segment,
        tags=tags,
    )
    return Changes(summary, began=True, tags=list(tags))


def _apply(changes: Changes, fact: Told, after: int) -> None:
    summary = changes.summary
    match fact.event:
        case TrainingResumed() as event:
            _resume(changes, event)
        case RunCompleted() | RunFailed() | RunInterrupted() as event:
            _end(summary, fact, event)
        case ReplayCompared(segment=None) as event:  # what holds of a part says nothing of the run
            summary.verdict = event.verdict
        case RunAnnotated() as event:
            new = [tag for tag in dict.fromkeys(event.tags) if tag not in summary.tags]
            summary.tags += tuple(new)
            changes.tags += new
        case ConfigResolved() as event:
            changes.config = dict(flattened(event.config))
        case DataCommitted() as event:
            changes.data[event.name] = CommittedData(event.name, event.uri, event.commit, event.digest)
        case CheckpointWritten() as event:
            files = tuple((file.path, file.digest) for file in event.files)
            position = after + fact.global_position
            changes.checkpoints.append(KeptCheckpoint(position, event.uri, event.digest, False, files))
        case CheckpointDeleted() as event:
            gone = (event.uri, event.digest)
            changes.deleted.append(gone)
            changes.checkpoints = [
                kept._replace(deleted=True) if (kept.uri, kept.digest) == gone else kept for kept in changes.checkpoints
            ]
        case _:  # from the future
            pass


def _resume(changes: Changes, event: TrainingResumed) -> None:
    summary = changes.summary
    start = -math.inf if event.step is None else event.step
    if summary.reached is not None and (summary.reached > start or event.attempt in summary.resumed):
        changes.taken_back = True
    summary.resumed = {**summary.resumed, event.attempt: event.step}
    summary.attempts = event.attempt
    summary.host, summary.pid, summary.process_started = (
        event.process.host,
        event.process.pid,
        event.process.started,
    )
    summary.status, summary.ended_at, summary.ended_step = "running", None, None


def _end(summary: RunSummary, fact: Told, event: RunCompleted | RunFailed | RunInterrupted) -> None:
    attempt = fact.attempt or summary.attempts
    earlier = attempt != summary.attempts and (attempt == 1 or attempt in summary.resumed)
    # Several ranks may report the failure that ended them: the first is the cause.
    if summary.ended_at is None and not earlier:
        summary.status, summary.ended_at, summary.ended_step = _ENDS[type(event)], fact.recorded_at, event.step


def _log(changes: Changes, fact: Logged) -> None:
    summary = changes.summary
    if summary.rank is None or fact.rank < summary.rank:
        changes.anew = changes.anew or summary.rank is not None
        changes.metrics.clear()
        summary.rank, summary.reached, summary.headline = fact.rank, None, None
    # What was taken back is counted again from the log, these points with it.
    if fact.rank == summary.rank and not changes.taken_back:
        _count(changes, fact, fact.attempt or summary.attempts)


def _count(changes: Changes, fact: Logged, attempt: int) -> None:
    summary, limit = changes.summary, changes.summary.limit(attempt)
    for name, points in fact.metrics.items():
        found = measure_one(points.steps, points.values, limit)
        if found:
            measured, reached = found
            before = changes.metrics.get(name)
            changes.metrics[name] = before.then(measured) if before else measured
            summary.reached = reached if summary.reached is None else max(summary.reached, reached)
            if summary.headline is None or prominence(name) < prominence(summary.headline):
                summary.headline = name
