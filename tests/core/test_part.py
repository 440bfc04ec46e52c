"""Which part of a run is meant, and who made its steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import CheckpointUnavailable, UsageError
from ledger.events import CheckpointDeleted, CheckpointWritten, RunCompleted, World
from ledger.read.state import RunState, fold
from ledger.replay.part import Scope, choose, replayed, step_text
from ledger.testing.builders import logged, resumed, run_started, stream

if TYPE_CHECKING:
    from ledger.events import Event

LAST = 1000.0


def written(step: float, *, attempt: int = 1) -> CheckpointWritten:
    return CheckpointWritten(
        uri=f"memory://{attempt}/{step_text(step)}", digest="0" * 64, bytes=1, stored_bytes=1, files=(), step=step,
        attempt=attempt, name=f"step-{step_text(step)}", seconds=0.0,
    )  # fmt: skip


def run(*facts: Event) -> RunState:
    return fold(stream([run_started(), *facts, logged({LAST: {"loss": 1.0}}), RunCompleted(step=LAST)]))


KEPT = run(written(200), written(400), written(600))


@pytest.mark.parametrize(
    ("scope", "start", "until"),
    [
        (Scope(), None, None),
        (Scope(from_step=500), 400, None),
        (Scope(from_step=400), 400, None),
        (Scope(from_step=399.5), 200, None),
        (Scope(from_step=100), None, None),
        (Scope(from_step=500, until_step=500), 400, 500),
        (Scope(from_step=500, until_step=1000), 400, None),
        (Scope(until_step=300), None, 300),
        (Scope(until_step=5000), None, None),
    ],
)
def test_a_part_goes_on_from_the_newest_checkpoint_at_or_before_it(
    scope: Scope, start: float | None, until: float | None
) -> None:
    part = choose(KEPT, scope, LAST)
    assert (part.checkpoint.step if part.checkpoint else None) == start
    assert part.until == until
    assert part.whole is (start is None and until is None)
    assert part.covers(start if start is not None else -1.0) is (start is None)


@given(st.floats(0, 999, allow_nan=False), st.floats(0, 2000, allow_nan=False))
def test_what_is_asked_for_is_covered_and_what_lies_behind_it_is_not(first: float, last: float) -> None:
    try:
        part = choose(KEPT, Scope(first, last), LAST)
    except UsageError:
        assert last < first or last in (200.0, 400.0, 600.0)
        return
    if last < LAST:
        assert part.covers(last)
        assert not part.covers(math.nextafter(last, math.inf))
    assert part.after <= first


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        (Scope(from_step=1000), "nothing to compare after step 1000"),
        (Scope(from_step=500, until_step=400), "lies before"),
        (Scope(from_step=400, until_step=400), "never make step 400"),
        (Scope(from_step=math.nan), "is no step"),
        (Scope(until_step=math.inf), "is no step"),
    ],
)
def test_a_part_that_there_is_not_is_refused_with_the_mend(scope: Scope, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        choose(KEPT, scope, LAST)
    assert caught.value.mend


def test_without_any_checkpoint_there_is_nothing_to_go_on_from() -> None:
    with pytest.raises(CheckpointUnavailable, match="it has no checkpoints"):
        choose(run(), Scope(from_step=500), LAST)
    gone = written(400)
    deleted = CheckpointDeleted(step=400, name=gone.name, uri=gone.uri, digest=gone.digest, reason="old")
    with pytest.raises(CheckpointUnavailable, match="all of its checkpoints were deleted"):
        choose(run(gone, deleted), Scope(from_step=500), LAST)


def test_a_checkpoint_that_cannot_be_had_is_passed_over_and_named() -> None:
    lost = KEPT.checkpoints[1]
    part = choose(KEPT, Scope(from_step=500), LAST, [(lost.uri, "model.pt is truncated")])
    assert part.checkpoint is not None
    assert part.checkpoint.step == 200
    assert part.passed_over == ("step-400: model.pt is truncated",)


def moved(attempt: int, step: float | None, processes: int | None = None) -> Event:
    world = World(processes=processes) if processes else None
    return resumed(attempt, step).model_copy(update={"world": world})


RESIZED = run(written(400), moved(2, 400, 4), written(600, attempt=2), moved(3, 600), written(800, attempt=3))


@pytest.mark.parametrize(
    ("scope", "attempts", "processes", "resized"),
    [
        (Scope(), [1, 2, 3], 1, True),
        (Scope(until_step=400), [1], 1, False),
        (Scope(from_step=400), [2, 3], 4, False),
        (Scope(from_step=400, until_step=600), [2], 4, False),
        (Scope(from_step=700), [3], 4, False),
        (Scope(from_step=800, processes=2), [3], 4, True),
        (Scope(from_step=800, processes=4), [3], 4, False),
    ],
)
def test_the_attempts_that_made_the_steps_are_known_and_their_processes(
    scope: Scope, attempts: list[int], processes: int, resized: bool
) -> None:
    part = choose(RESIZED, scope, LAST)
    assert [attempt.number for attempt in part.attempts] == attempts
    assert part.attempts[0].world.processes == processes
    assert part.resized_at(LAST) is resized


def test_an_attempt_whose_steps_were_all_taken_back_made_none() -> None:
    state = run(moved(2, None, 2), written(400, attempt=2), moved(3, 200), moved(4, 200, 8))
    assert [attempt.number for attempt in choose(state, Scope(), LAST).attempts] == [2, 4]


def test_what_named_machines_is_left_out_and_everything_else_is_kept() -> None:
    options = ("--rdzv-id=a", "--rdzv-endpoint=h:1", "--node-rank=0", "--max-restarts=3", "--hostfile=h", "--bind=1")
    world = replayed(World(processes=8, nodes=2, launcher="torchrun", options=options))
    assert world == World(processes=8, nodes=1, launcher="torchrun", options=("--bind=1",))
    assert replayed(world, 4).processes == 4


@pytest.mark.parametrize(("step", "text"), [(500, "500"), (500.0, "500"), (12345678.0, "12345678"), (0.25, "0.25")])
def test_a_step_is_spelled_so_that_it_can_be_typed(step: float, text: str) -> None:
    assert step_text(step) == text
    assert float(text) == step
