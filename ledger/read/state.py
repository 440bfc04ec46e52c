"""One run's stream, folded into what is known about the run. Pure: events in, state out."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from ledger.codec import METRICS
from ledger.errors import LedgerError, NotFound
from ledger.events import (
    ArtifactWritten,
    CheckpointDeleted,
    CheckpointWritten,
    CodeCaptured,
    ConfigResolved,
    ConsoleCaptured,
    DataCommitted,
    EnvironmentCaptured,
    Event,
    MetricsLogged,
    ParametersFingerprinted,
    ReplayCompared,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    RunStarted,
    TrainingResumed,
    World,
)
from ledger.read.curves import Batch, Kept, figure, gather, lead
from ledger.read.series import limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ledger.codec import Recorded
    from ledger.events import Process
    from ledger.read.curves import Curves, Figures
    from ledger.read.series import Series

Status = Literal["running", "completed", "failed", "interrupted"]
End = RunCompleted | RunFailed | RunInterrupted
Stepped = TypeVar("Stepped", CheckpointWritten, ParametersFingerprinted)


@dataclass
class Attempt:
    """One go at the training: the first, or one that resumed."""

    number: int
    process: Process
    started_at: str
    position: int = 0
    """Of its first event."""
    resumed: TrainingResumed | None = None
    """None for the first attempt."""
    world: World = field(default_factory=World)
    """The processes that it trained with."""
    resolved: ConfigResolved | None = None
    """The configuration that it trained with: its own, or that of the attempt before."""
    environment: EnvironmentCaptured | None = None
    ended: End | None = None
    ended_at: str | None = None


@dataclass
class RunState:
    """What the log tells about one run. Lists are in the order of the log."""

    id: str
    started: RunStarted
    started_at: str
    version: int = 0
    """Position of the last event that was folded."""
    status: Status = "running"
    """As the log has it. A writer that was killed said no goodbye: ``Book.run`` knows whether it still lives."""
    attempts: list[Attempt] = field(default_factory=list)
    code: CodeCaptured | None = None
    resolved: ConfigResolved | None = None
    data: dict[str, DataCommitted] = field(default_factory=dict)
    written: list[tuple[int, CheckpointWritten]] = field(default_factory=list)
    """Every checkpoint that was ever written, with its attempt."""
    deleted: list[CheckpointDeleted] = field(default_factory=list)
    fingerprinted: list[tuple[int, ParametersFingerprinted]] = field(default_factory=list)
    """Every fingerprint with its attempt. Each is of the whole training: one process records it for all."""
    artifacts: dict[str, ArtifactWritten] = field(default_factory=dict)
    consoles: list[ConsoleCaptured] = field(default_factory=list)
    verdicts: list[ReplayCompared] = field(default_factory=list)
    notes: list[RunAnnotated] = field(default_factory=list)
    curves: Curves = field(default_factory=Kept, repr=False, compare=False)
    """Its metrics, as yet unread."""

    @property
    def name(self) -> str:
        """The name that this ledger gave the run: ``run-42``."""
        return self.started.name

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration; empty where none was recorded."""
        return self.resolved.config if self.resolved else {}

    @property
    def seed(self) -> int | None:
        """The seed, stated by the command or by the program itself; None where nobody stated one."""
        stated = self.resolved.seed if self.resolved else None
        return self.started.seed if stated is None else stated

    @property
    def world(self) -> World:
        """The processes that train together, as of the latest attempt."""
        return self.attempt.world

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags given at the start and by annotations since."""
        return tuple(dict.fromkeys((*self.started.tags, *(tag for note in self.notes for tag in note.tags))))

    @property
    def attempt(self) -> Attempt:
        """The latest attempt."""
        return self.attempts[-1]

    @property
    def ended(self) -> End | None:
        """How the latest attempt ended; None if nothing was recorded about it."""
        return self.attempt.ended

    @property
    def environment(self) -> EnvironmentCaptured | None:
        """What the latest attempt ran on."""
        return next((a.environment for a in reversed(self.attempts) if a.environment), None)

    @property
    def resumed_at(self) -> dict[int, float | None]:
        """The step that each attempt after the first resumed from."""
        return {a.number: a.resumed.step for a in self.attempts if a.resumed}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that have a value in the effective history, sorted."""
        return tuple(sorted(self.figures.metrics))

    def series(self, metric: str, *, rank: int | None = None, effective: bool = True) -> Series:
        """The series of a metric; of the leading rank unless another is asked for.

        With ``effective=False`` also the points that a later attempt took back. Raises ``NotFound``.
        """
        by_rank = self._of(metric)
        found = by_rank.get(min(by_rank, key=lead, default=None) if rank is None else rank, {}).get(metric)
        if found is None:
            raise NotFound(f"{self.name} has no metric {metric!r}", mend=f"it has {', '.join(self.metrics) or 'none'}")
        return found.effective(self.resumed_at) if effective else found

    @cached_property
    def columns(self) -> Mapping[int | None, Mapping[str, Series]]:
        """Every series by rank and name, with what later attempts took back. Reads all that was ever logged."""
        return gather(self._batches())

    @property
    def leading(self) -> Mapping[str, Series]:
        """Of ``columns`` those of the leading rank."""
        return self.columns[min(self.columns, key=lead)] if self.columns else {}

    @property
    def effective_series(self) -> dict[str, Series]:
        """Of ``leading`` what no later attempt took back, where that is anything."""
        found = {name: one.effective(self.resumed_at) for name, one in sorted(self.leading.items())}
        return {name: one for name, one in found.items() if len(one)}

    @cached_property
    def figures(self) -> Figures:
        """Last, lowest and highest value of each metric; without its points, where the ledger keeps them."""
        known = self.curves.figures()
        return known or figure(self._batches(), lambda attempt: limits((attempt,), self.resumed_at)[attempt])

    @property
    def last_metrics(self) -> dict[str, float]:
        """The last effective value of each metric."""
        return {name: self.figures.metrics[name].last for name in self.metrics}

    @property
    def last_step(self) -> float | None:
        """The highest step of the effective history."""
        return self.figures.reached

    @property
    def checkpoints(self) -> list[CheckpointWritten]:
        """Checkpoints that exist now and that no later attempt took back, by step."""
        gone = {(c.uri, c.digest) for c in self.deleted}
        kept = {c.uri: c for c in self.effective(self.written) if (c.uri, c.digest) not in gone}
        return sorted(kept.values(), key=lambda c: (c.step, c.best))

    @property
    def fingerprints(self) -> list[ParametersFingerprinted]:
        """Fingerprints of the effective history, one for each step."""
        return list({f.step: f for f in self.effective(self.fingerprinted)}.values())

    def effective(self, facts: Iterable[tuple[int, Stepped]]) -> list[Stepped]:
        """Of facts with their attempts, those that no later attempt took back."""
        facts = list(facts)
        limit = limits((attempt for attempt, _ in facts), self.resumed_at)
        return [fact for attempt, fact in facts if fact.step <= limit[attempt]]

    def _of(self, metric: str) -> Mapping[int | None, Mapping[str, Series]]:
        if "columns" in self.__dict__:
            return self.columns
        if metric not in self._read:
            self._read[metric] = gather(self._batches(), metric)
        return self._read[metric]

    @cached_property
    def _read(self) -> dict[str, dict[int | None, dict[str, Series]]]:
        """The series that somebody asked for."""
        return {}

    def _batches(self) -> Iterator[Batch]:
        for recorded in self.curves.batches():
            if recorded.position > self.version:  # it came after what else is known
                return
            if recorded.schema_version <= MetricsLogged.schema_version:
                meta = recorded.metadata
                yield Batch(meta.rank, meta.attempt or self._attempt_at(recorded.position), recorded.payload)

    def _attempt_at(self, position: int) -> int:
        return next(a.number for a in reversed(self.attempts) if a.position <= position)


FACTS: Final = tuple(
    event.type
    for event in (
        ArtifactWritten,
        CheckpointDeleted,
        CheckpointWritten,
        CodeCaptured,
        ConfigResolved,
        ConsoleCaptured,
        DataCommitted,
        EnvironmentCaptured,
        ParametersFingerprinted,
        ReplayCompared,
        RunAnnotated,
        RunCompleted,
        RunFailed,
        RunInterrupted,
        RunStarted,
        TrainingResumed,
    )
)
"""Types of what is folded at once; metrics are left until they are asked for."""


def fold(events: Iterable[Recorded], curves: Curves | None = None) -> RunState:
    """The state after all of ``events``, one run's stream from its beginning.

    Where ``curves`` are given, metrics are read from there, and need not be among the events.
    """
    events = iter(events)
    first = next(events, None)
    if first is None or not isinstance(first.event, RunStarted):
        raise LedgerError("a run's stream begins with run.started", mend="is this stream a run's at all?")
    state = RunState(
        id=first.stream.removeprefix("run-"),
        started=first.event,
        started_at=first.recorded_at,
        curves=curves or Kept(),
    )
    state.attempts.append(Attempt(1, first.event.process, first.recorded_at, world=first.event.world))
    extend(state, events)
    return state


def extend(state: RunState, events: Iterable[Recorded]) -> None:
    """Fold further events of the same stream into ``state``."""
    for recorded in events:
        if recorded.type == METRICS:
            state.curves.add(recorded)
        else:
            _apply(state, recorded, recorded.event)
        state.version = recorded.position
    for outdated in ("columns", "figures", "_read"):
        state.__dict__.pop(outdated, None)


def _apply(state: RunState, recorded: Recorded, event: object) -> None:
    number = recorded.metadata.attempt or state.attempt.number
    match event:
        case ParametersFingerprinted():
            state.fingerprinted.append((number, event))
        case CheckpointWritten():
            state.written.append((number, event))
        case CheckpointDeleted():
            state.deleted.append(event)
        case CodeCaptured():
            state.code = event
        case ConfigResolved():
            state.resolved = _attempt(state, number).resolved = event
        case DataCommitted():
            state.data[event.name] = event
        case EnvironmentCaptured():
            attempt = _attempt(state, number)
            attempt.environment = merged(attempt.environment, event)
        case TrainingResumed():
            begun = Attempt(event.attempt, event.process, recorded.recorded_at, recorded.position, resumed=event)
            begun.world = event.world or state.attempt.world
            begun.resolved = state.attempt.resolved
            state.attempts.append(begun)
            state.status = "running"
        case RunCompleted() | RunFailed() | RunInterrupted():
            _end(state, _attempt(state, number), recorded, event)
        case ArtifactWritten():
            state.artifacts[event.path] = event
        case ConsoleCaptured():
            state.consoles.append(event)
        case ReplayCompared():
            state.verdicts.append(event)
        case RunAnnotated():
            state.notes.append(event)
        case _:  # a plugin's own fact, or one from the future: kept in the log, no part of this picture
            pass


def _attempt(state: RunState, number: int) -> Attempt:
    return next((a for a in state.attempts if a.number == number), state.attempt)


def _end(state: RunState, attempt: Attempt, recorded: Recorded, event: End) -> None:
    if attempt.ended is not None:  # several ranks may report the failure that ended them: the first is the cause
        return
    attempt.ended, attempt.ended_at = event, recorded.recorded_at
    if attempt is state.attempt:
        endings: dict[type[Event], Status] = {
            RunCompleted: "completed",
            RunFailed: "failed",
            RunInterrupted: "interrupted",
        }
        state.status = endings[type(event)]


def merged(earlier: EnvironmentCaptured | None, later: EnvironmentCaptured) -> EnvironmentCaptured:
    """Two captures of one attempt as one: ``later`` adds to the sections of ``earlier`` and wins where both speak."""
    if earlier is None:
        return later
    sections: dict[str, Any] = {}
    for name in EnvironmentCaptured.model_fields:
        before, after = getattr(earlier, name), getattr(later, name)
        sections[name] = _added(before, after) if isinstance(before, dict) else after or before
    return EnvironmentCaptured(**sections)


def _added(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """One section, and within it each library's own table: the process that trains knows more of it, not all."""
    both = {name for name in before.keys() & after.keys() if isinstance(before[name], dict)}
    deep = {name: {**before[name], **after[name]} for name in both if isinstance(after[name], dict)}
    return {**before, **after, **deep}
