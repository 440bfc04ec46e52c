"""What the log of a run offers to compare a replay with: series of numbers and digests, artifacts. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from ledger.events import CheckpointWritten, ParametersFingerprinted, RunCompleted, RunFailed
from ledger.replay.layout import Layout
from ledger.replay.part import WHOLE, Part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.events import Trigger
    from ledger.read.state import RunState

Kind = Literal["fingerprint", "metric", "checkpoint"]
KINDS: Final[tuple[Kind, ...]] = ("fingerprint", "metric", "checkpoint")
"""In the order in which divergences at the same step are named."""
Parts = Mapping[str, float | str]
"""One value of a series: a number under "", or several digests, each under the name of what it is of."""
UNPLANNED: Final[tuple[Trigger, ...]] = ("minutes", "interruption")
"""Why a checkpoint was written that a clock or a signal asked for: no other run has it at the same step."""


@dataclass(frozen=True, slots=True)
class Key:
    """Names one series."""

    kind: Kind
    name: str = ""
    rank: int | None = None

    def what(self, part: str = "") -> str:
        """The series, or one part of a value of it, as people call it."""
        if self.kind == "fingerprint":
            return part or "fingerprints"
        name = self.name if self.rank in (None, 0) else f"{self.name} (rank {self.rank})"
        if self.kind == "checkpoint":
            name = f"checkpoint {name}"
        return f"{name}: {part}" if part else name


FINGERPRINT: Final = Key("fingerprint")
_TENSOR: Final = "tensor "
_RANK: Final = "rank "


@dataclass(frozen=True)
class Sequence:
    """One series in the order of the log, attempts resolved."""

    steps: tuple[float, ...]
    values: tuple[Parts, ...]
    optional: frozenset[int] = frozenset()
    """Indices of what a clock or an interruption made: another run of the same need not have them."""
    _places: dict[float, list[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places: dict[float, list[int]] = {}
        for index, step in enumerate(self.steps):
            places.setdefault(step, []).append(index)
        object.__setattr__(self, "_places", places)

    def find(self, step: float, start: int) -> int | None:
        """The first index from ``start`` on with this step."""
        places = self._places.get(step, [])
        at = bisect_left(places, start)
        return places[at] if at < len(places) else None

    @property
    def required(self) -> int:
        """How many values there are up to the last one that must come again."""
        return max((i + 1 for i in range(len(self.steps)) if i not in self.optional), default=0)


@dataclass(frozen=True)
class Witnesses:
    """Everything that a replay can be compared with."""

    series: Mapping[Key, Sequence]
    artifacts: Mapping[str, str]
    """See :func:`artifacts`. Of a part there are none: a file tells of the whole run, and has no step."""
    open_ended: bool
    """Whether the original was interrupted: it is compared as far as it came, and its artifacts, which may be
    half-written, are not."""
    resumed: frozenset[float] = frozenset()
    """Steps that attempts went on from."""
    latest: Mapping[tuple[Kind, int | None], float] = field(default_factory=dict)
    """The last step of the whole run by kind and rank."""
    part: Part = WHOLE

    @classmethod
    def of(cls, state: RunState, part: Part = WHOLE) -> Witnesses:
        """The witnesses of a part of a run; of one whose end nobody recorded, those up to where it came."""
        points = {**_metrics(state), **_fingerprints(state), **_checkpoints(state)}
        open_ended = state.status in ("interrupted", "running")
        resumed = frozenset(step for step in state.resumed_at.values() if step is not None)
        latest: dict[tuple[Kind, int | None], float] = {}
        for key, found in points.items():
            of = key.kind, key.rank
            latest[of] = max((latest.get(of, -math.inf), *(point.step for point in found)))
        series = {
            key: _sequence(p for p in found if part.covers(p.step) and not _is_other(key, p.step, part))
            for key, found in points.items()
        }
        return cls(
            {key: sequence for key, sequence in series.items() if sequence.steps},
            {} if open_ended or not part.whole else artifacts(state),
            open_ended,
            resumed,
            latest,
            part,
        )

    @property
    def endless(self) -> bool:
        """Whether the comparison is over before the command is: how it ends says nothing."""
        return self.open_ended or self.part.until is not None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compare, so that no replay could ever be called identical."""
        return not self.artifacts and not any(sequence.required for sequence in self.series.values())

    def count(self, kind: Kind) -> int:
        """How many values there are of one kind."""
        return sum(len(sequence.steps) for key, sequence in self.series.items() if key.kind == kind)

    @property
    def until(self) -> float | None:
        """The last step that can be compared."""
        return max((s for sequence in self.series.values() for s in sequence.steps), default=None)

    def beyond(self, key: Key, step: float) -> bool:
        """Whether a value that the original lacks lies outside of the part, or behind a place where it was interrupted.

        A step may have several checkpoints. An attempt killed between two of them is resumed from the first, and
        the second is never written. Otherwise it is the end that counts: numbers of one process come in order, so
        what is missing before its last step was never made. Checkpoints and fingerprints are recorded from behind,
        a fingerprint before the checkpoint of its step: any after the last may have been lost.
        """
        if not self.part.covers(step) or _is_other(key, step, self.part):
            return True
        if key.kind == "checkpoint" and step in self.resumed:
            return True
        if not self.open_ended:
            return False
        if key.kind == "metric":
            return step >= self._latest(key.kind, key.rank)
        stored = self._latest("checkpoint")
        return step > (stored if key.kind == "checkpoint" else max(stored, self._latest("fingerprint")))

    def _latest(self, kind: Kind, rank: int | None = None) -> float:
        return self.latest.get((kind, rank), -math.inf)


def _is_other(key: Key, step: float, part: Part) -> bool:
    """Whether a value is of one rank among others than now: only what the first says is said for all."""
    return bool(key.rank) and part.resized_at(step)


def parts(event: ParametersFingerprinted | CheckpointWritten) -> dict[str, str]:
    """The digests that an event holds, the most telling first."""
    if isinstance(event, CheckpointWritten):
        return {file.path: file.digest for file in sorted(event.files, key=lambda file: file.path)}
    tensors = {f"{_TENSOR}{name}": digest for name, digest in event.tensors.items()}
    optimizer = {"optimizer": event.optimizer} if event.optimizer is not None else {}
    ranks = {f"{_RANK}{rank}": digest for rank, digest in event.shards.items()}
    return {**tensors, "parameters": event.parameters, **optimizer, **ranks}


def holders(expected: Parts, unequal: Iterable[str]) -> str:
    """Which ranks hold what is ``unequal`` of a fingerprint, as far as that can be told; empty where it cannot."""
    ranks = [part.removeprefix(_RANK) for part in expected if part.startswith(_RANK)]
    theirs = [part.removeprefix(_RANK) for part in unequal if part.startswith(_RANK)]
    if not theirs or len(theirs) == len(ranks):
        return ""
    return f" (rank{'s' * (len(theirs) > 1)} {', '.join(theirs)})"


def independent_of_ranks(expected: Parts, actual: Parts) -> list[str]:
    """Of two fingerprints the parts that mean the same, however the tensors were shared out among the ranks.

    Those are the tensors that both have whole, and the digest of all where both have nothing but whole ones.
    """
    whole = [part for part in expected if part in actual and part.startswith(_TENSOR) and not _is_shard(part)]
    if any(_is_shard(part) for part in (*expected, *actual)):
        return whole
    return whole + [part for part in ("parameters", "optimizer") if part in expected and part in actual]


def _is_shard(part: str) -> bool:
    return part.startswith(_TENSOR) and part.endswith("]")


def artifacts(state: RunState) -> dict[str, str]:
    """Digest of each artifact by its path, in a form that does not depend on where the code lies."""
    layout = Layout(state) if state.code else None
    return {layout.artifact(path) if layout else path: a.digest for path, a in state.artifacts.items()}


def _metrics(state: RunState) -> dict[Key, list[_Point]]:
    found = {}
    for rank, columns in state.columns.items():
        for name in sorted(columns):
            series = state.series(name, rank=rank)
            points = zip(series.step, series.attempt, series.value, strict=True)
            key = Key("metric", name, rank)
            found[key] = [_Point(step, attempt, {"": value}) for step, attempt, value in points]
    return found


def _fingerprints(state: RunState) -> dict[Key, list[_Point]]:
    kept = {id(event) for event in state.effective(state.fingerprinted)}
    made = [_Point(e.step, attempt, parts(e)) for attempt, e in state.fingerprinted if id(e) in kept]
    return {FINGERPRINT: made} if made else {}


def _checkpoints(state: RunState) -> dict[Key, list[_Point]]:
    forced = _forced(state)
    found: dict[Key, list[_Point]] = {}
    for e in own_checkpoints(state):
        point = _Point(e.step, e.attempt, parts(e), optional=e.trigger in UNPLANNED or id(e) in forced)
        found.setdefault(Key("checkpoint", e.name), []).append(point)
    return found


def own_checkpoints(state: RunState) -> list[CheckpointWritten]:
    """Those of the effective history, each written by the processes that made its step.

    An attempt that was killed between two checkpoints of a step is made up for by the next one. Where that has another
    number of processes, what it writes holds the generators of others.
    """
    kept = state.effective(state.written)
    makers: dict[float, int] = {}
    return [e for e in kept if makers.setdefault(e.step, e.processes) == e.processes]


def _forced(state: RunState) -> set[int]:
    """Identities of the checkpoints that attempts may have written only because they were interrupted.

    A trainer that is told to stop saves the step it has reached, whatever its schedule says; a script of the
    user's own need not say why.
    """
    found = set()
    for attempt in state.attempts:
        if isinstance(attempt.ended, RunCompleted | RunFailed):
            continue
        written = [event for number, event in state.written if number == attempt.number]
        last = max(_last_logged(state, attempt.number), max((e.step for e in written), default=-math.inf))
        found |= {id(event) for event in written if event.step >= last}
    return found


def _last_logged(state: RunState, attempt: int) -> float:
    series = (one.of_attempt(attempt) for one in state.leading.values())
    return max((step for one in series for step in one.step), default=-math.inf)


@dataclass(frozen=True, slots=True)
class _Point:
    step: float
    attempt: int
    value: Parts
    optional: bool = False


def _sequence(points: Iterable[_Point]) -> Sequence:
    """A series without what a resumed attempt said once more about the step that it began at."""
    first: dict[float, int] = {}
    kept = [point for point in points if first.setdefault(point.step, point.attempt) == point.attempt]
    return Sequence(
        tuple(point.step for point in kept),
        tuple(point.value for point in kept),
        frozenset(index for index, point in enumerate(kept) if point.optional),
    )
