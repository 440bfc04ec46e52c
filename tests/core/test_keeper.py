from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.checkpoints import Due, Keeper, Policy
from ledger.errors import CheckpointUnavailable, UsageError
from ledger.events import CheckpointWritten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.events import Trigger
    from ledger.files import Lent

HERE = Path()
VALUES = st.floats(allow_infinity=True, allow_nan=True, width=16)
KEPT = st.just((None, None)) | st.tuples(st.integers(1, 3), st.none() | st.integers(1, 4))
POLICIES = st.builds(
    lambda kept, **rest: Policy(keep_last=kept[0], keep_every=kept[1], **rest),
    kept=KEPT,
    every=st.none() | st.integers(1, 4),
    best=st.sampled_from([None, "val/loss"]),
    mode=st.sampled_from(["min", "max"]),
    full_every=st.none() | st.integers(1, 4),
)


def checkpoint(
    step: float,
    *,
    name: str | None = None,
    best: bool = False,
    value: float | None = None,
    trigger: Trigger = "steps",
    base: CheckpointWritten | None = None,
) -> CheckpointWritten:
    name = name or f"step-{step:g}"
    return CheckpointWritten(
        uri=f"memory:{name}",
        digest=hashlib.sha256(name.encode()).hexdigest(),
        bases=(base.digest, *base.bases) if base else (),
        trigger=trigger,
        bytes=1,
        stored_bytes=1,
        files=(),
        attempt=1,
        seconds=0.0,
        step=step,
        name=name,
        best=best,
        metrics={} if value is None else {"val/loss": value},
    )


@dataclass
class MemoryRun:
    """A run whose log is two lists."""

    written: list[CheckpointWritten] = field(default_factory=list)
    deleted: list[tuple[str, str]] = field(default_factory=list)
    resumed_step: float | None = None

    def checkpoints(self) -> list[CheckpointWritten]:
        gone = {name for name, _ in self.deleted}
        return [c for c in self.written if c.name not in gone]

    def checkpoint(
        self,
        directory: Path,
        *,
        step: float,
        metrics: Mapping[str, float] | None = None,
        name: str | None = None,
        best: bool = False,
        holds: Sequence[str] = (),
        trigger: Trigger = "steps",
        base: CheckpointWritten | None = None,
        lent: Lent | None = None,
    ) -> CheckpointWritten:
        assert base is None or base in self.checkpoints(), "a difference to what is gone"
        value = (metrics or {}).get("val/loss")
        self.written.append(checkpoint(step, name=name, best=best, value=value, trigger=trigger, base=base))
        return self.written[-1]

    def delete_checkpoint(self, written: CheckpointWritten, reason: str) -> None:
        self.deleted.append((written.name, reason))
        bases = {base for c in self.checkpoints() for base in c.bases}
        assert written.digest not in bases, f"{written.name} goes before what is based on it"

    def kept(self) -> list[str]:
        return [c.name for c in self.checkpoints()]


def train(
    run: MemoryRun, policy: Policy, values: Sequence[float], *, after: int = 0, last: int | None = None
) -> list[list[Due]]:
    keeper = Keeper(run, policy)
    decisions = []
    for step in range(after + 1, (last or len(values)) + 1):
        metrics = {"val/loss": values[step - 1]}
        due = keeper.due(step, metrics, last=step == len(values))
        if due:
            keeper.keep(HERE, due, step=step, metrics=metrics)
        decisions.append(due)
    return decisions


def test_every_best_and_keep_last_together() -> None:
    run = MemoryRun()
    train(run, Policy(every=2, best="val/loss", keep_last=2), [3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 1.1])
    assert run.kept() == ["best_model_step_4", "step-6", "step-7"]
    assert ("best_model_step_2", "best_model_step_4 has a better val/loss") in run.deleted
    assert ("step-2", "keep_last = 2") in run.deleted


def test_without_any_wish_only_the_end_is_written() -> None:
    run = MemoryRun()
    train(run, Policy(), [3.0, 2.0, 1.0])
    assert run.kept() == ["step-3"]


def test_the_best_of_a_step_is_written_before_its_regular_one() -> None:
    decisions = train(MemoryRun(), Policy(every=1, best="val/loss"), [1.0])
    assert decisions == [[Due("best_model_step_1", "best"), Due("step-1", "last")]]


def test_a_decimal_step_keeps_its_digits_and_a_whole_one_has_none() -> None:
    keeper = Keeper(MemoryRun(), Policy())
    names = [keeper.due(step, {}, last=True)[0].name for step in (0.25, 3.0, 10_000_000)]
    assert names == ["step-0.25", "step-3", "step-10000000"]


@pytest.mark.parametrize(
    "wrong",
    [{"every": 0}, {"keep_last": -1}, {"minutes": 0}, {"minutes": math.nan}, {"keep_every": 5}, {"full_every": 0}],
)
def test_numbers_without_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Policy(**wrong)  # type: ignore[arg-type]


@given(VALUES, st.none() | VALUES, st.sampled_from(["min", "max"]))
def test_nan_is_never_better_and_anything_else_is_better_than_nan(value: float, best: float | None, mode: str) -> None:
    policy = Policy(best="val/loss", mode=mode)  # type: ignore[arg-type]
    assert not policy.improves(math.nan, best)
    assert policy.improves(value, math.nan) == (not math.isnan(value))
    assert not policy.improves(value, value) or math.isnan(value)


@given(
    POLICIES,
    st.lists(st.builds(lambda s, b, v: (s, b, v), st.integers(0, 9), st.booleans(), st.none() | VALUES), max_size=8),
)
def test_neither_the_best_nor_the_newest_is_ever_superseded(
    policy: Policy, made: list[tuple[int, bool, float | None]]
) -> None:
    written = [checkpoint(s, name=f"c{i}", best=b, value=v) for i, (s, b, v) in enumerate(made)]
    gone = [s.checkpoint.name for s in policy.superseded(written)]
    assert len(gone) == len(set(gone))
    if written:
        assert written[-1].name not in gone
    best = policy.best_of(written)
    if best is not None:
        assert best.name not in gone


@given(POLICIES, st.lists(VALUES, min_size=1, max_size=12))
def test_what_is_kept_at_the_end(policy: Policy, values: list[float]) -> None:
    run = MemoryRun()
    train(run, policy, values)
    assert f"step-{len(values)}" in run.kept()
    regular = [c for c in run.checkpoints() if not c.best]
    for_good = [c for c in regular if policy.keep_every and c.step % policy.keep_every == 0]
    needed = {base for c in run.checkpoints() for base in c.bases}
    passing = [c for c in regular if c not in for_good and c.digest not in needed]
    assert policy.keep_last is None or len(passing) <= policy.keep_last
    assert all(len(c.bases) < (policy.full_every or 1) for c in run.written)
    best = [c for c in run.checkpoints() if c.best and c.digest not in needed]
    real = [v for v in values if not math.isnan(v)]
    if policy.best and real:
        assert [c.metrics["val/loss"] for c in best] == [min(real) if policy.mode == "min" else max(real)]
    else:
        assert best == []


@given(POLICIES, st.lists(VALUES, min_size=2, max_size=12), st.data())
def test_a_resumed_keeper_decides_as_one_that_never_stopped(
    policy: Policy, values: list[float], data: st.DataObject
) -> None:
    whole = MemoryRun()
    expected = train(whole, policy, values)

    killed = data.draw(st.integers(1, len(values) - 1))
    run = MemoryRun()
    train(run, policy, values, last=killed)
    run.resumed_step = max((c.step for c in run.checkpoints()), default=None)
    after = int(run.resumed_step or 0)
    assert train(run, policy, values, after=after) == expected[after:]
    assert run.kept() == whole.kept()


def test_a_checkpoint_beyond_the_resumed_step_is_neither_newest_nor_best() -> None:
    run = MemoryRun(
        [checkpoint(2), checkpoint(4), checkpoint(4, name="best_model_step_4", best=True, value=0.1)],
        resumed_step=2,
    )
    keeper = Keeper(run, Policy(every=1, best="val/loss", keep_last=2))
    due = keeper.due(3, {"val/loss": 5.0})
    assert [d.name for d in due] == ["best_model_step_3", "step-3"]
    keeper.keep(HERE, due, step=3, metrics={"val/loss": 5.0})
    assert run.deleted == []


def test_each_checkpoint_says_why_it_was_written() -> None:
    now = 0.0
    keeper = Keeper(MemoryRun(), Policy(every=4, minutes=10), clock=lambda: now)
    made = []
    for step in range(1, 10):
        now += 240.0
        made += keeper.due(step, {}, last=step == 9, interrupted=step in (8, 9))
    assert [(d.name, d.trigger) for d in made] == [
        ("step-3", "minutes"), ("step-4", "steps"), ("step-7", "minutes"), ("step-8", "steps"), ("step-9", "last"),
    ]  # fmt: skip
    assert keeper.due(10, {}, interrupted=True, overdue=False) == [Due("step-10", "interruption")]


def test_other_ranks_go_by_the_clock_of_the_first() -> None:
    keeper = Keeper(MemoryRun(), Policy(minutes=1), clock=lambda: 0.0)
    assert not keeper.overdue()
    assert keeper.due(5, {}, overdue=True) == [Due("step-5", "minutes")]
    assert keeper.due(6, {}, overdue=False) == []


def test_every_so_many_steps_one_stays_for_good() -> None:
    run = MemoryRun()
    train(run, Policy(every=1, keep_last=2, keep_every=4), [1.0] * 11)
    assert run.kept() == ["step-4", "step-8", "step-10", "step-11"]


def test_differences_keep_what_they_are_based_on() -> None:
    run = MemoryRun()
    train(run, Policy(every=1, keep_last=1, full_every=3), [1.0] * 5)
    by_name = {c.name: len(c.bases) for c in run.written}
    assert by_name == {"step-1": 0, "step-2": 1, "step-3": 2, "step-4": 0, "step-5": 1}
    assert run.kept() == ["step-4", "step-5"]
    assert [name for name, _ in run.deleted] == ["step-3", "step-2", "step-1"], "at once, and no base first"


@pytest.mark.parametrize("last", [False, True], ids=["by the steps", "at the end"])
def test_a_keeper_killed_between_the_two_checkpoints_of_a_step_makes_up_for_it(last: bool) -> None:
    policy = Policy(every=None if last else 2, best="val/loss")
    best = checkpoint(2, name="best_model_step_2", best=True, value=0.5, trigger="best")
    run = MemoryRun([best], resumed_step=2)
    keeper = Keeper(run, policy)
    missing = keeper.unfinished(last=last)
    assert missing == [Due("step-2", "last" if last else "steps")]
    keeper.keep(HERE, missing, step=2, metrics=best.metrics)
    assert run.kept() == ["best_model_step_2", "step-2"]
    assert Keeper(run, policy).unfinished(last=last) == []


def test_what_was_deleted_or_never_due_is_not_made_up_for() -> None:
    best = checkpoint(2, name="best_model_step_2", best=True, value=0.5)
    policy = Policy(every=2, best="val/loss", keep_last=1)
    assert Keeper(MemoryRun([best, checkpoint(4)], resumed_step=2), policy).unfinished() == [], "step-2 went for step-4"
    assert Keeper(MemoryRun([best], resumed_step=2), Policy(every=3, best="val/loss")).unfinished() == []
    assert Keeper(MemoryRun([], resumed_step=2), policy).unfinished() == [], "a replay goes on from another's"


class Losing(MemoryRun):
    """Its store has lost a base, as a store tells it."""

    def checkpoint(self, directory: Path, **named: Any) -> CheckpointWritten:
        if named["base"] is not None:
            raise CheckpointUnavailable("its base is gone")
        return super().checkpoint(directory, **named)


def test_a_base_that_is_lost_costs_no_checkpoint() -> None:
    run = Losing()
    train(run, Policy(every=1, full_every=5), [1.0] * 3)
    assert [(c.name, c.bases) for c in run.written] == [("step-1", ()), ("step-2", ()), ("step-3", ())]


@dataclass
class Faltering(MemoryRun):
    """Fails at the calls with these numbers, whatever they are for."""

    failing: set[int] = field(default_factory=set)
    calls: int = 0

    def _next(self) -> None:
        self.calls += 1
        if self.calls in self.failing:
            raise OSError("the line is cut")

    def checkpoint(self, directory: Path, **named: Any) -> CheckpointWritten:
        self._next()
        return super().checkpoint(directory, **named)

    def delete_checkpoint(self, written: CheckpointWritten, reason: str) -> None:
        self._next()
        super().delete_checkpoint(written, reason)


@given(POLICIES, st.lists(VALUES, min_size=1, max_size=8), st.sets(st.integers(1, 20), max_size=8))
def test_what_failed_in_the_middle_can_be_called_again(policy: Policy, values: list[float], failing: set[int]) -> None:
    smooth, run = MemoryRun(), Faltering(failing=failing)
    train(smooth, policy, values)
    keeper = Keeper(run, policy)
    for step, value in enumerate(values, 1):
        metrics = {"val/loss": value}
        due = keeper.due(step, metrics, last=step == len(values))
        while due:
            try:
                keeper.keep(HERE, due, step=step, metrics=metrics)
                break
            except OSError:
                continue
    assert [c.name for c in run.written] == [c.name for c in smooth.written]
    assert run.deleted == smooth.deleted
