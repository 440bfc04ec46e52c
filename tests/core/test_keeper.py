from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.checkpoints import Due, Keeper, Policy
from ledger.errors import UsageError
from ledger.events import CheckpointWritten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path()
VALUES = st.floats(allow_infinity=True, allow_nan=True, width=16)
POLICIES = st.builds(
    Policy,
    every=st.none() | st.integers(1, 4),
    best=st.sampled_from([None, "val/loss"]),
    mode=st.sampled_from(["min", "max"]),
    keep_last=st.none() | st.integers(1, 3),
)


def checkpoint(
    step: float, *, name: str | None = None, best: bool = False, value: float | None = None
) -> CheckpointWritten:
    return CheckpointWritten(
        uri=f"memory:{name or step}",
        digest="0" * 64,
        bytes=1,
        stored_bytes=1,
        files=(),
        attempt=1,
        seconds=0.0,
        step=step,
        name=name or f"step-{step:g}",
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
    ) -> CheckpointWritten:
        self.written.append(checkpoint(step, name=name, best=best, value=(metrics or {}).get("val/loss")))
        return self.written[-1]

    def delete_checkpoint(self, written: CheckpointWritten, reason: str) -> None:
        self.deleted.append((written.name, reason))

    def kept(self) -> list[str]:
        return [c.name for c in self.checkpoints()]


def train(
    run: MemoryRun, policy: Policy, values: Sequence[float], *, after: int = 0, last: int | None = None
) -> list[list[Due]]:
    keeper = Keeper(run, policy)
    decisions = []
    for step in range(after + 1, (last or len(values)) + 1):
        metrics = {"val/loss": values[step - 1]}
        due = keeper.due(step, metrics, now=step == len(values))
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
    assert decisions == [[Due("best_model_step_1", best=True), Due("step-1")]]


def test_a_decimal_step_keeps_its_digits_and_a_whole_one_has_none() -> None:
    keeper = Keeper(MemoryRun(), Policy())
    names = [keeper.due(step, {}, now=True)[0].name for step in (0.25, 3.0, 10_000_000)]
    assert names == ["step-0.25", "step-3", "step-10000000"]


@pytest.mark.parametrize("wrong", [{"every": 0}, {"keep_last": -1}])
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
    regular = [name for name in run.kept() if name.startswith("step-")]
    assert policy.keep_last is None or len(regular) <= policy.keep_last
    best = [c for c in run.checkpoints() if c.best]
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
