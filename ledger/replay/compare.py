"""Whether a replay did what its original did: pure, and fed while the replay runs.

Numbers are compared by their 64 bits, digests as they are; what the command printed is never a witness.
With a tolerance, numbers may deviate by |a - b| / max(|a|, |b|) up to that bound, and digests, which cannot
deviate a little, are shown but do not decide.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from ledger.events import (
    Check,
    CheckpointWritten,
    DataCommitted,
    Divergence,
    MetricsLogged,
    ParametersFingerprinted,
    RunCompleted,
    RunFailed,
    RunInterrupted,
)
from ledger.replay.part import step_text
from ledger.replay.witnesses import (
    FINGERPRINT,
    KINDS,
    UNPLANNED,
    Key,
    Sequence,
    Witnesses,
    artifacts,
    holders,
    independent_of_ranks,
    parts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.codec import Recorded
    from ledger.events import Verdict
    from ledger.read.state import End, RunState
    from ledger.replay.part import Part
    from ledger.replay.witnesses import Parts

NOTHING: Final = "nothing"
"""What is expected of a surplus value, and what is found of a missing one."""
_EXIT_STATUS: Final = "exit status"


def same_bits(a: float, b: float) -> bool:
    """Whether two floats are the same 64 bits; any NaN is as good as another: the log keeps no payload."""
    return struct.pack(">d", a) == struct.pack(">d", b) or (math.isnan(a) and math.isnan(b))


def deviation(a: float, b: float) -> float:
    """|a - b| / max(|a|, |b|): 0 for the same number, infinite where one of them is no finite number."""
    if same_bits(a, b) or a == b:
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    largest = max(abs(a), abs(b))
    difference = abs(a - b)
    return difference / largest if math.isfinite(difference) else abs(a / largest - b / largest)


@dataclass(frozen=True)
class Judgement:
    """What a comparison came to."""

    verdict: Verdict
    checks: tuple[Check, ...]
    first_divergence: Divergence | None
    only_lacks: bool = False
    """Whether it diverged in nothing but what the replay does not have, and how it ended."""


@dataclass(frozen=True)
class _Found:
    """A divergence with what puts it before others: step, a wrong value before an absent one, kind, name."""

    order: tuple[float, bool, int, str]
    divergence: Divergence


@dataclass
class _Tally:
    """How far the replay's values of one series have met the original's."""

    met: int = 0
    """Index of the original's next value."""
    equal: int = 0
    unequal: int = 0
    incomparable: int = 0
    """Digests of what other processes share out otherwise."""
    largest: tuple[float, float] = (0.0, 0.0)
    """The largest relative deviation, and its step."""
    wrong: bool = False
    """Whether the replay has a value that diverges, or that the original lacks."""
    first_failure: Divergence | None = None
    """Of the divergences in this series the one with the lowest step."""


class Comparison:
    """Compares a run with its replay. Feed it the replay's events as they come, then ask for the judgement.

    An original that was interrupted is compared as far as it came, a part as far as it goes: what the replay does
    beyond is its own business. What a later attempt of the original took back is no witness either.
    """

    def __init__(self, original: RunState, part: Part, tolerance: float | None = None) -> None:
        self._original = original
        self._tolerance = tolerance
        self._part = part
        self._witnesses = Witnesses.of(original, part)
        self._tallies = {key: _Tally() for key in self._witnesses.series}
        self._first: _Found | None = None
        self._reached = -math.inf
        self._lowest = math.inf
        self._inexact = False
        self._other_data = False

    @property
    def exhausted(self) -> bool:
        """Whether every series of the original has been compared to its end."""
        series = self._witnesses.series
        return all(self._tallies[key].met >= sequence.required for key, sequence in series.items())

    @property
    def done(self) -> bool:
        """Whether the rest of the replay decides nothing: the original was interrupted here, or the part ends."""
        return self._witnesses.endless and self.exhausted

    @property
    def first(self) -> Divergence | None:
        """The first divergence of those found so far."""
        return self._first.divergence if self._first else None

    def feed(self, recorded: Recorded) -> Divergence | None:
        """Compare one event of the replay; the first divergence so far, if there is any."""
        match recorded.event:
            case MetricsLogged() as event:
                self._feed_metrics(event, recorded.metadata.rank)
            case ParametersFingerprinted() as event:
                self._meet(FINGERPRINT, event.step, parts(event))
            case CheckpointWritten() as event:
                self._meet(Key("checkpoint", event.name), event.step, parts(event), surplus=self._may_be_new(event))
            case DataCommitted() as event:
                self._feed_data(event)
        return self.first

    def finish(self, replayed: RunState, *, stopped: bool = False) -> Judgement:
        """The judgement on the whole replay.

        ``stopped`` says that the replay was ended on purpose, at a divergence or because all was compared:
        then what it did not come to is not held against it.
        """
        ending = self._exit_status(replayed, stopped)
        without_step: list[Check] = []
        if not stopped:
            for key, sequence in self._witnesses.series.items():
                self._miss(key, self._tallies[key], sequence, len(sequence.steps))
            if not self._witnesses.endless and self._part.whole:
                without_step += self._artifacts(replayed)
        without_step += self._beginning()
        series = [self._check(key, tally) for key, tally in self._tallies.items() if self._counts(key, tally)]
        checks = (ending, *series, *without_step)
        return Judgement(self._verdict(), checks, self.first, self._only_lacks(without_step))

    def _only_lacks(self, without_step: Iterable[Check]) -> bool:
        wrong = self._other_data or any(tally.wrong for tally in self._tallies.values())
        lacking = all(check.passed or check.actual == NOTHING for check in without_step)
        return self.first is not None and lacking and not wrong

    # --- series ---------------------------------------------------------------------------------------------

    def _feed_metrics(self, event: MetricsLogged, rank: int | None) -> None:
        for name, column in event.values.items():
            key = Key("metric", name, rank)
            for step, value in zip(event.step, column, strict=True):
                if value is not None:
                    self._meet(key, step, {"": value})

    def _may_be_new(self, event: CheckpointWritten) -> bool:
        """Whether a checkpoint that the original lacks proves nothing: a clock asked for it, or a best value so far.

        What was best before a part began is not known to its replay.
        """
        return event.trigger in UNPLANNED or (event.best and self._part.checkpoint is not None)

    def _meet(self, key: Key, step: float, actual: Parts, *, surplus: bool = False) -> None:
        """Compare the replay's next value of a series with the original's at that step."""
        self._reached = max(self._reached, step)
        self._lowest = min(self._lowest, step)
        tally = self._tallies.setdefault(key, _Tally())
        sequence = self._witnesses.series.get(key)
        index = sequence.find(step, tally.met) if sequence else None
        if sequence is None or index is None:
            if not surplus and not self._witnesses.beyond(key, step):
                self._diverge(key, tally, step, expected=NOTHING, actual=_summary(actual))
            return
        self._miss(key, tally, sequence, index)
        tally.met = index + 1
        self._weigh(key, tally, step, sequence.values[index], actual)

    def _weigh(self, key: Key, tally: _Tally, step: float, expected: Parts, actual: Parts) -> None:
        compared = self._comparable(key, step, expected, actual)
        if not compared:
            tally.incomparable += 1
            return
        unequal = [part for part in compared if not _equal(expected, actual, part)]
        if not unequal:
            tally.equal += 1
            return
        self._inexact = True
        tally.unequal += 1
        for part in unequal:
            by = _deviation(expected.get(part), actual.get(part))
            if math.isfinite(by) and by > tally.largest[0]:
                tally.largest = (by, step)
            if self._tolerance is None or by > self._tolerance:
                told = _told(expected.get(part)), _told(actual.get(part))
                part += holders(expected, unequal)
                self._diverge(key, tally, step, expected=told[0], actual=told[1], part=part)
                return

    def _comparable(self, key: Key, step: float, expected: Parts, actual: Parts) -> list[str]:
        """The parts of two values that must be equal, the most telling first."""
        if key.kind == "metric" or not self._part.resized_at(step):
            return list(dict(chain(expected.items(), actual.items())))
        # Other processes write other files, and have other shares of the tensors.
        return independent_of_ranks(expected, actual) if key.kind == "fingerprint" else []

    def _miss(self, key: Key, tally: _Tally, sequence: Sequence, until: int) -> None:
        """Note the original's values from the next one to before ``until`` as missing."""
        for index in range(tally.met, until):
            if index not in sequence.optional:
                self._diverge(
                    key,
                    tally,
                    sequence.steps[index],
                    expected=_summary(sequence.values[index]),
                    actual=NOTHING,
                )

    def _diverge(self, key: Key, tally: _Tally, step: float, *, expected: str, actual: str, part: str = "") -> None:
        divergence = Divergence(what=key.what(part), step=step, expected=expected, actual=actual)
        if tally.first_failure is None or step < (tally.first_failure.step or 0.0):
            tally.first_failure = divergence
        tally.wrong |= actual != NOTHING
        absent = NOTHING in (expected, actual)
        self._note((step, absent, KINDS.index(key.kind), divergence.what), divergence)

    def _note(self, order: tuple[float, bool, int, str], divergence: Divergence) -> None:
        if self._first is None or order < self._first.order:
            self._first = _Found(order, divergence)

    def _counts(self, key: Key, tally: _Tally) -> bool:
        """Whether a series is worth a line: what lies behind an interrupted original is not."""
        return key in self._witnesses.series or tally.first_failure is not None

    def _check(self, key: Key, tally: _Tally) -> Check:
        sequence = self._witnesses.series.get(key, Sequence((), ()))
        return Check(
            name=key.what(),
            expected=f"{len(sequence.steps)} value{'s' * (len(sequence.steps) != 1)}{self._extent()}",
            actual=self._account(tally, sequence),
            bound=self._tolerance or 0.0,
            passed=tally.first_failure is None,
        )

    def _extent(self) -> str:
        until = self._witnesses.until
        if self._part.until is not None or not self._witnesses.open_ended or until is None:
            return ""
        return f", the last before the interruption at step {step_text(until)}"

    def _account(self, tally: _Tally, sequence: Sequence) -> str:
        told = [f"{tally.equal} equal bit for bit"]
        if tally.unequal:
            largest, step = tally.largest
            told.append(
                f"{tally.unequal} not"
                + (f", largest relative deviation {largest!r} at step {step_text(step)}" if largest else "")
            )
        if tally.incomparable:
            told.append(f"{tally.incomparable} not compared, as other processes share it out otherwise")
        first = tally.first_failure
        if first is not None:
            told.append(f"first at step {step_text(first.step or 0)}: {first.actual} instead of {first.expected}")
        rest = range(tally.met, len(sequence.steps))
        forced = sum(index in sequence.optional for index in rest)
        if forced:
            told.append(f"{forced} made by the clock or an interruption, which need not come again")
        if len(rest) > forced:
            told.append(f"{len(rest) - forced} not reached")
        return "; ".join(told)

    # --- what has no step -----------------------------------------------------------------------------------

    def _feed_data(self, event: DataCommitted) -> None:
        pinned = self._original.data.get(event.name)
        if pinned is not None and pinned.digest != event.digest:
            told = Divergence(what=f"data {event.name}", expected=pinned.digest, actual=event.digest)
            self._note((-math.inf, False, 0, told.what), told)
            self._other_data = True

    def _exit_status(self, replayed: RunState, stopped: bool) -> Check:
        """Compare how the two ended. A crash explains what is missing behind it: it comes first."""
        expected, actual = status(self._original.ended), status(replayed.ended)
        crashed = isinstance(replayed.ended, RunFailed) and not self.exhausted
        if stopped or (self._witnesses.endless and not crashed):
            why = self._why_stopped()
            return Check(name=_EXIT_STATUS, expected=expected, actual=f"{actual}; not compared: {why}", passed=True)
        passed = expected == actual
        if not passed:
            step = self._reached if math.isfinite(self._reached) else None
            told = Divergence(what=_EXIT_STATUS, step=step, expected=expected, actual=_cause(replayed.ended))
            self._note((self._reached, True, -1, ""), told)
        return Check(name=_EXIT_STATUS, expected=expected, actual=_cause(replayed.ended), passed=passed)

    def _why_stopped(self) -> str:
        if self._part.until is not None:
            return f"the part ends at step {step_text(self._part.until)}"
        if self._witnesses.open_ended:
            return "the original was interrupted"
        return "the replay was stopped where it diverged"

    def _beginning(self) -> list[Check]:
        """Of a part: whether the command did go on from the checkpoint. One that starts over proves no less."""
        checkpoint = self._part.checkpoint
        if checkpoint is None or self._lowest > checkpoint.step:
            return []
        told = f"it logged step {step_text(self._lowest)}: the command may have started over"
        return [Check(name="went on", expected=f"after step {step_text(checkpoint.step)}", actual=told, passed=True)]

    def _artifacts(self, replayed: RunState) -> list[Check]:
        before = self._witnesses.artifacts
        after = artifacts(replayed)
        return [
            self._artifact(path, before.get(path), after.get(path)) for path in sorted(before.keys() | after.keys())
        ]

    def _artifact(self, path: str, expected: str | None, actual: str | None) -> Check:
        both = expected is not None and actual is not None
        passed = expected == actual or (both and self._tolerance is not None)
        self._inexact |= expected != actual
        told = Divergence(what=f"artifact {path}", expected=_told(expected), actual=_told(actual))
        if not passed:
            self._note((math.inf, not both, 0, path), told)
        return Check(name=told.what, expected=told.expected, actual=told.actual, passed=passed)

    def _verdict(self) -> Verdict:
        if self._first is not None:
            return "diverged"
        compared = any(tally.equal or tally.unequal for tally in self._tallies.values())
        if self._witnesses.empty or not (compared or self._witnesses.artifacts):
            return "not-replayable"
        return "within-tolerance" if self._inexact else "identical"


def _equal(expected: Parts, actual: Parts, part: str) -> bool:
    a, b = expected.get(part), actual.get(part)
    return same_bits(a, b) if isinstance(a, float) and isinstance(b, float) else a == b


def _deviation(a: float | str | None, b: float | str | None) -> float:
    """Of numbers as above; digests cannot deviate a little, what is absent is beyond any bound."""
    if a is None or b is None:
        return math.inf
    return deviation(a, b) if isinstance(a, float) and isinstance(b, float) else 0.0


def _told(value: float | str | None) -> str:
    return NOTHING if value is None else value if isinstance(value, str) else repr(value)


def _summary(value: Parts) -> str:
    """One value of a series, in full if it is a number or a single digest."""
    number = value.get("")
    return repr(number) if number is not None else f"{len(value)} digests"


def status(end: End | None) -> str:
    """How a run ended, as far as a replay must end in the same way."""
    match end:
        case RunCompleted():
            return f"exit code {end.exit_code}"
        case RunFailed(exit_code=None):
            return end.exception
        case RunFailed():
            return f"exit code {end.exit_code}"
        case RunInterrupted():
            return f"interrupted by {end.signal}"
        case None:
            return "no end on record"


def _cause(end: End | None) -> str:
    """The status, and of a failure what it said last."""
    if isinstance(end, RunFailed) and end.exit_code is not None:
        return ": ".join([status(end), *end.exception.strip().splitlines()[-1:]])
    return status(end)
