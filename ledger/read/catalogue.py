"""All runs at a glance, folded from the few facts that a list shows; metrics of running runs are left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ledger.events import (
    CheckpointWritten,
    DataCommitted,
    ReplayCompared,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    RunStarted,
    TrainingResumed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.codec import Recorded
    from ledger.events import Process
    from ledger.read.state import Status

TYPES: Final = (
    RunStarted.type,
    TrainingResumed.type,
    RunCompleted.type,
    RunFailed.type,
    RunInterrupted.type,
    ReplayCompared.type,
    RunAnnotated.type,
)
"""What :func:`summarise` needs; checkpoints and data commits are read too where the caller asks for lineage."""

LINEAGE_TYPES: Final = (*TYPES, DataCommitted.type, CheckpointWritten.type)


@dataclass
class RunSummary:
    """One line of `ledger ls`."""

    id: str
    name: str
    kind: str
    status: Status
    started_at: str
    process: Process
    """Of the latest attempt."""
    ended_at: str | None = None
    attempts: int = 1
    step: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Last values, once the run has ended."""
    tags: list[str] = field(default_factory=list)
    project: str | None = None
    user: str | None = None
    replay_of: str | None = None
    verdict: str | None = None
    """Of the latest replay."""
    checkpoints: list[CheckpointWritten] = field(default_factory=list)
    data: list[DataCommitted] = field(default_factory=list)


def summarise(events: Iterable[Recorded]) -> list[RunSummary]:
    """Summaries in the order in which the runs started; ``events`` in the order of the log."""
    runs: dict[str, RunSummary] = {}
    for recorded in events:
        event = recorded.event
        if isinstance(event, RunStarted):
            runs[recorded.stream] = _started(recorded, event)
        elif recorded.stream in runs:
            _apply(runs[recorded.stream], recorded, event)
    return list(runs.values())


def _started(recorded: Recorded, event: RunStarted) -> RunSummary:
    return RunSummary(
        id=recorded.stream.removeprefix("run-"),
        name=event.name,
        kind=event.kind,
        status="running",
        started_at=recorded.recorded_at,
        process=event.process,
        tags=list(event.tags),
        project=event.project,
        user=event.user,
        replay_of=event.replay_of,
    )


def _apply(run: RunSummary, recorded: Recorded, event: object) -> None:
    match event:
        case TrainingResumed():
            run.attempts, run.process = event.attempt, event.process
            run.status, run.ended_at = "running", None
        case RunCompleted() if run.ended_at is None:
            run.status, run.ended_at, run.metrics, run.step = (
                "completed",
                recorded.recorded_at,
                event.metrics,
                event.step,
            )
        case RunFailed() if run.ended_at is None:
            run.status, run.ended_at, run.step = "failed", recorded.recorded_at, event.step
        case RunInterrupted() if run.ended_at is None:
            run.status, run.ended_at, run.step = "interrupted", recorded.recorded_at, event.step
        case ReplayCompared():
            run.verdict = event.verdict
        case RunAnnotated():
            run.tags += [tag for tag in event.tags if tag not in run.tags]
        case CheckpointWritten():
            run.checkpoints.append(event)
        case DataCommitted():
            run.data.append(event)
        case _:
            pass
