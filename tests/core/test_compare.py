"""The comparison of a run with its replay: nothing that differs gets by, nothing that is equal is blamed."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.events import (
    ArtifactWritten,
    CheckpointWritten,
    DataCommitted,
    FileDigest,
    ParametersFingerprinted,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    World,
)
from ledger.read.state import fold
from ledger.replay.compare import Comparison, Judgement, deviation, same_bits
from ledger.replay.part import Scope
from ledger.replay.plan import part_of
from ledger.testing.builders import logged, resumed, run_started, stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ledger.codec import Recorded
    from ledger.events import Event, MetricsLogged
    from ledger.read.state import RunState

DONE = RunCompleted(step=None)
Points = list[tuple[float, float]]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def points(name: str, values: Points) -> list[MetricsLogged]:
    """One event for each point, so that a step may come twice."""
    return [logged({step: {name: value}}) for step, value in values]


def fingerprint(step: float, parameters: str, **tensors: str) -> ParametersFingerprinted:
    return ParametersFingerprinted(
        step=step, parameters=digest(parameters), tensors={n: digest(t) for n, t in tensors.items()}
    )


def checkpoint(step: float, *, attempt: int = 1, **files: str) -> CheckpointWritten:
    return CheckpointWritten(
        uri=f"memory://{attempt}/step-{step:g}",
        digest=digest(repr(files)),
        bytes=1,
        stored_bytes=1,
        files=tuple(FileDigest(path=path, digest=digest(content), bytes=1) for path, content in files.items()),
        step=step,
        attempt=attempt,
        name=f"step-{step:g}",
        seconds=0.0,
    )


def artifact(path: str, content: str) -> ArtifactWritten:
    return ArtifactWritten(path=path, digest=digest(content), bytes=len(content))


def data(content: str) -> DataCommitted:
    return DataCommitted(
        uri="file:/d", commit=digest(content), path="/d", digest=digest(content), files=1, bytes=1,
        name="train", role="train", provider="local", provider_version="0",
    )  # fmt: skip


def compared_with(original: RunState, scope: Scope | None = None, tolerance: float | None = None) -> Comparison:
    return Comparison(original, part_of(original, scope or Scope()), tolerance)


def judge(
    original: Iterable[Event],
    replayed: Iterable[Event],
    *,
    tolerance: float | None = None,
    stopped: bool = False,
) -> Judgement:
    """The judgement on a replay, both runs given by what follows their start."""
    events = stream([run_started(kind="replay"), *replayed], run_id="0190bbbb")
    comparison = compared_with(fold(stream([run_started(), *original])), tolerance=tolerance)
    for recorded in events:
        comparison.feed(recorded)
    return comparison.finish(fold(events), stopped=stopped)


def bits(value: float) -> int:
    return struct.unpack(">Q", struct.pack(">d", value))[0]  # type: ignore[no-any-return]


def with_bit(value: float, bit: int) -> float:
    return struct.unpack(">d", struct.pack(">Q", bits(value) ^ (1 << bit)))[0]  # type: ignore[no-any-return]


any_float = st.floats(allow_nan=True, allow_infinity=True, width=64)
steps = st.one_of(st.integers(0, 30).map(float), st.floats(0, 30, allow_nan=False))
curves = st.lists(st.tuples(steps, any_float), min_size=1, max_size=12)
runs = st.dictionaries(st.sampled_from(["loss", "val/loss", "lr"]), curves, min_size=1)


def facts(run: dict[str, Points]) -> list[Event]:
    return [event for name, curve in run.items() for event in points(name, curve)]


# --- properties ---------------------------------------------------------------------------------------------


@given(runs)
def test_a_run_is_identical_to_itself(run: dict[str, Points]) -> None:
    judgement = judge([*facts(run), DONE], [*facts(run), DONE])
    assert judgement.verdict == "identical"
    assert judgement.first_divergence is None
    assert all(check.passed for check in judgement.checks)


@given(runs, st.data(), st.integers(0, 63))
def test_one_changed_bit_is_found_and_named(run: dict[str, Points], draw: st.DataObject, bit: int) -> None:
    name = draw.draw(st.sampled_from(sorted(run)))
    at = draw.draw(st.integers(0, len(run[name]) - 1))
    step, value = run[name][at]
    changed = with_bit(value, bit)
    altered = {**run, name: [*run[name][:at], (step, changed), *run[name][at + 1 :]]}
    judgement = judge([*facts(run), DONE], [*facts(altered), DONE])
    if math.isnan(value) and math.isnan(changed):  # the log keeps no payload of a NaN
        assert judgement.verdict == "identical"
        return
    assert judgement.verdict == "diverged"
    found = judgement.first_divergence
    assert found is not None
    assert (found.what, found.step, found.expected, found.actual) == (name, step, repr(value), repr(changed))


@given(runs, st.data())
def test_a_dropped_point_is_found(run: dict[str, Points], draw: st.DataObject) -> None:
    name = draw.draw(st.sampled_from(sorted(run)))
    at = draw.draw(st.integers(0, len(run[name]) - 1))
    fewer = {**run, name: [*run[name][:at], *run[name][at + 1 :]]}
    judgement = judge([*facts(run), DONE], [*facts(fewer), DONE])
    assert judgement.verdict == "diverged"
    assert judgement.first_divergence is not None
    assert judgement.first_divergence.what == name


@given(runs, st.data(), st.tuples(steps, any_float))
def test_an_added_point_is_found(run: dict[str, Points], draw: st.DataObject, extra: tuple[float, float]) -> None:
    name = draw.draw(st.sampled_from([*sorted(run), "surplus"]))
    curve = run.get(name, [])
    at = draw.draw(st.integers(0, len(curve)))
    more = {**run, name: [*curve[:at], extra, *curve[at:]]}
    assert judge([*facts(run), DONE], [*facts(more), DONE]).verdict == "diverged"
    assert judge([*facts(more), DONE], [*facts(run), DONE]).verdict == "diverged"


@given(runs, st.data(), steps)
def test_a_changed_step_is_found(run: dict[str, Points], draw: st.DataObject, step: float) -> None:
    name = draw.draw(st.sampled_from(sorted(run)))
    at = draw.draw(st.integers(0, len(run[name]) - 1))
    before, value = run[name][at]
    altered = {**run, name: [*run[name][:at], (step, value), *run[name][at + 1 :]]}
    expected = "identical" if step == before else "diverged"
    assert judge([*facts(run), DONE], [*facts(altered), DONE]).verdict == expected


@given(curves, st.randoms(use_true_random=False))
def test_a_killed_and_resumed_run_is_compared_by_its_effective_history(curve: Points, random: object) -> None:
    """Attempt 1 goes on after the checkpoint that attempt 2 begins at: those points were taken back."""
    whole = [(float(i), value) for i, (_, value) in enumerate(curve)]
    middle = len(whole) // 2
    lost = [(step, -1.5) for step, _ in whole[middle:]]
    original: list[Event] = [
        *points("loss", [*whole[:middle], *lost]),
        resumed(2, float(middle - 1) if middle else None),
        *points("loss", whole[middle:]),
        DONE,
    ]
    assert judge(original, [*points("loss", whole), DONE]).verdict == "identical"


@given(any_float, any_float)
def test_deviation_is_a_relative_distance(a: float, b: float) -> None:
    assert deviation(a, b) == deviation(b, a)
    assert deviation(a, a) == 0.0
    assert 0.0 <= deviation(a, b) <= 2.0 or deviation(a, b) == math.inf
    if deviation(a, b) == 0.0 and not same_bits(a, b):
        assert a == b == 0.0 or abs(a - b) / max(abs(a), abs(b)) == 0.0


# --- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (0.0, -0.0, False),
        (math.nan, -math.nan, True),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (1.0, math.nextafter(1.0, 2.0), False),
        (5e-324, 0.0, False),
    ],
)
def test_bits(a: float, b: float, same: bool) -> None:
    assert same_bits(a, b) is same
    verdict = judge([*points("x", [(1, a)]), DONE], [*points("x", [(1, b)]), DONE]).verdict
    assert verdict == ("identical" if same else "diverged")


def test_values_are_told_exactly() -> None:
    close = math.nextafter(0.1, 1.0)
    found = judge([*points("loss", [(3, 0.1)]), DONE], [*points("loss", [(3, close)]), DONE]).first_divergence
    assert found is not None
    assert (found.step, found.expected, found.actual) == (3.0, "0.1", "0.10000000000000002")


def test_values_at_the_same_step_are_compared_in_order() -> None:
    a, b = [(1.0, 1.0), (1.0, 2.0)], [(1.0, 2.0), (1.0, 1.0)]
    assert judge([*points("x", a), DONE], [*points("x", a), DONE]).verdict == "identical"
    assert judge([*points("x", a), DONE], [*points("x", b), DONE]).verdict == "diverged"


def test_the_first_divergence_is_that_of_the_lowest_step_whatever_arrives_first() -> None:
    original = [*points("b", [(1, 1.0), (2, 1.0)]), *points("a", [(1, 1.0), (2, 1.0)]), DONE]
    replayed = [*points("b", [(1, 1.0), (2, 9.0)]), *points("a", [(1, 9.0), (2, 9.0)]), DONE]
    found = judge(original, replayed).first_divergence
    assert found is not None
    assert (found.what, found.step) == ("a", 1.0)


def test_every_rank_is_compared() -> None:
    def run(second: float) -> list[Event]:
        return [*points("loss", [(1, 1.0)]), *points("loss", [(1, second)])]

    def ranked(events: Sequence[Event], run_id: str) -> list[object]:
        recorded = stream([run_started(), *events, DONE], run_id=run_id)
        ranks = [None, 0, 1, None]
        return [replace(r, metadata=replace(r.metadata, rank=k)) for r, k in zip(recorded, ranks, strict=True)]

    comparison = compared_with(fold(ranked(run(2.0), "0190aaaa")))  # type: ignore[arg-type]
    for recorded in ranked(run(3.0), "0190bbbb"):
        comparison.feed(recorded)  # type: ignore[arg-type]
    assert comparison.first is not None
    assert comparison.first.what == "loss (rank 1)"


# --- a tolerance --------------------------------------------------------------------------------------------


def test_within_tolerance_shows_the_largest_deviation_and_the_bound() -> None:
    original, replayed = points("x", [(1, 1.0), (2, 1.0)]), points("x", [(1, 1.0), (2, 1.25)])
    judgement = judge([*original, DONE], [*replayed, DONE], tolerance=0.2)
    assert judgement.verdict == "within-tolerance"
    check = next(c for c in judgement.checks if c.name == "x")
    assert check.passed
    assert check.bound == 0.2
    assert "largest relative deviation 0.2 at step 2" in check.actual
    assert judge([*original, DONE], [*replayed, DONE], tolerance=0.19).verdict == "diverged"


def test_equal_bits_are_identical_whatever_the_tolerance() -> None:
    same = [*points("x", [(1, math.nan), (2, 0.5)]), DONE]
    assert judge(same, same, tolerance=0.5).verdict == "identical"


@pytest.mark.parametrize("other", [math.nan, math.inf])
def test_no_tolerance_covers_what_is_not_finite(other: float) -> None:
    assert (
        judge([*points("x", [(1, 1.0)]), DONE], [*points("x", [(1, other)]), DONE], tolerance=10).verdict == "diverged"
    )


def test_a_tolerance_does_not_cover_a_missing_point() -> None:
    original, replayed = points("x", [(1, 1.0), (2, 1.0)]), points("x", [(1, 1.0)])
    assert judge([*original, DONE], [*replayed, DONE], tolerance=10).verdict == "diverged"


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (fingerprint(1, "weights"), fingerprint(1, "other weights")),
        (checkpoint(1, model="weights"), checkpoint(1, model="other weights")),
        (artifact("model.bin", "weights"), artifact("model.bin", "other weights")),
    ],
    ids=["fingerprint", "checkpoint", "artifact"],
)
def test_digests_decide_without_a_tolerance_and_are_shown_with_one(expected: Event, actual: Event) -> None:
    curve = points("x", [(1, 1.0)])
    assert judge([*curve, expected, DONE], [*curve, expected, DONE]).verdict == "identical"
    assert judge([*curve, expected, DONE], [*curve, actual, DONE]).verdict == "diverged"
    assert judge([*curve, expected, DONE], [*curve, actual, DONE], tolerance=0.1).verdict == "within-tolerance"
    assert judge([*curve, expected, DONE], [*curve, DONE], tolerance=0.1).verdict == "diverged"


# --- digests ------------------------------------------------------------------------------------------------


def test_a_fingerprint_names_the_tensor() -> None:
    original = [fingerprint(5, "both", a="1", b="2"), DONE]
    replayed = [fingerprint(5, "changed", a="1", b="3"), DONE]
    found = judge(original, replayed).first_divergence
    assert found is not None
    assert (found.what, found.step, found.expected, found.actual) == (
        "tensor b",
        5.0,
        digest("2"),
        digest("3"),
    )


def test_a_fingerprint_comes_before_a_metric_of_the_same_step() -> None:
    original = [*points("loss", [(5, 1.0)]), fingerprint(5, "w"), DONE]
    replayed = [*points("loss", [(5, 2.0)]), fingerprint(5, "v"), DONE]
    found = judge(original, replayed).first_divergence
    assert found is not None
    assert found.what == "parameters"


def test_a_checkpoint_names_the_file() -> None:
    original = [checkpoint(5, model="w", optimizer="o"), DONE]
    found = judge(original, [checkpoint(5, model="w", optimizer="p"), DONE]).first_divergence
    assert found is not None
    assert found.what == "checkpoint step-5: optimizer"
    assert judge(original, [checkpoint(5, model="w"), DONE]).verdict == "diverged"


def test_data_that_the_replay_read_otherwise_is_the_first_divergence() -> None:
    curve = points("x", [(1, 1.0)])
    found = judge([data("a"), *curve, DONE], [data("b"), *points("x", [(1, 2.0)]), DONE]).first_divergence
    assert found is not None
    assert found.what == "data train"


def test_artifacts_are_told_apart_by_what_they_hold() -> None:
    curve = points("x", [(1, 1.0)])
    original = [*curve, artifact("out/a", "a"), DONE]
    assert judge(original, [*curve, artifact("out/a", "b"), DONE]).verdict == "diverged"
    assert judge(original, [*curve, artifact("out/a", "a"), artifact("b", "b"), DONE]).verdict == "diverged"


# --- the end ------------------------------------------------------------------------------------------------


def test_a_failure_is_what_is_expected_of_a_run_that_failed() -> None:
    failed = RunFailed(exception="ValueError: no", exit_code=3)
    curve = points("x", [(1, 1.0)])
    assert judge([*curve, failed], [*curve, failed]).verdict == "identical"
    assert judge([*curve, failed], [*curve, DONE]).verdict == "diverged"
    assert judge([*curve, failed], [*curve, RunFailed(exception="other", exit_code=4)]).verdict == "diverged"


def test_a_crash_is_named_and_not_the_points_that_are_missing_after_it() -> None:
    curve = points("x", [(step, 1.0) for step in range(5)])
    crash = RunFailed(exception="Traceback …\nValueError: boom", exit_code=1)
    found = judge([*curve, DONE], [*curve[:2], crash]).first_divergence
    assert found is not None
    assert (found.what, found.step, found.expected) == ("exit status", 1.0, "exit code 0")
    assert found.actual == "exit code 1: ValueError: boom"


def test_a_wrong_value_before_a_crash_comes_first() -> None:
    curve = points("x", [(step, 1.0) for step in range(5)])
    found = judge([*curve, DONE], [*points("x", [(0, 2.0), (1, 1.0)]), RunFailed(exception="e", exit_code=1)])
    assert found.first_divergence is not None
    assert found.first_divergence.what == "x"


@pytest.mark.parametrize("ends", [[RunInterrupted(signal="SIGINT")], []], ids=["interrupted", "killed"])
def test_an_interrupted_run_is_compared_as_far_as_it_came(ends: list[Event]) -> None:
    curve = points("x", [(step, float(step)) for step in range(10)])
    state = fold(stream([run_started(), *curve[:5], *ends]))
    comparison = compared_with(state)
    replay = stream([run_started(kind="replay"), *curve, *points("late", [(9, 1.0)])], run_id="0190bbbb")
    for count, recorded in enumerate(replay):
        assert comparison.feed(recorded) is None
        assert comparison.exhausted is (count >= 5)
    judgement = comparison.finish(fold(replay), stopped=True)
    assert judgement.verdict == "identical"
    assert "interruption at step 4" in next(c for c in judgement.checks if c.name == "x").expected
    assert "not compared" in next(c for c in judgement.checks if c.name == "exit status").actual


def test_before_the_interruption_nothing_may_be_missing_or_new() -> None:
    curve = points("x", [(step, 1.0) for step in range(5)])
    ended = RunInterrupted(signal="SIGKILL")
    assert judge([*curve, ended], [*curve[:3], *curve[4:], DONE]).verdict == "diverged"
    assert judge([*curve, ended], [*curve, *points("y", [(2, 1.0)]), DONE]).verdict == "diverged"
    assert judge([*curve, ended], [*curve[:3], DONE]).verdict == "diverged"
    assert judge([*curve, ended], [*curve, *points("y", [(7, 1.0)]), DONE]).verdict == "identical"


def test_a_replay_that_crashes_before_the_interruption_of_its_original_diverged() -> None:
    curve = points("x", [(step, 1.0) for step in range(5)])
    crash = RunFailed(exception="OSError: gone", exit_code=1)
    found = judge([*curve, RunInterrupted(signal="SIGINT")], [*curve[:2], crash]).first_divergence
    assert found is not None
    assert found.actual.endswith("OSError: gone")


def test_a_checkpoint_that_only_an_interruption_made_is_not_asked_for() -> None:
    curve = points("x", [(step, float(step)) for step in range(6)])
    scheduled, forced = checkpoint(1, model="1"), checkpoint(2, model="2")
    rest = [resumed(2, 2.0), *curve[3:], checkpoint(5, attempt=2, model="5"), DONE]
    original = [*curve[:2], scheduled, curve[2], forced, RunInterrupted(signal="SIGTERM"), *rest]
    last = checkpoint(5, model="5")
    assert judge(original, [*curve, scheduled, last, DONE]).verdict == "identical"
    assert judge(original, [*curve, scheduled, forced, last, DONE]).verdict == "identical"
    assert judge(original, [*curve, scheduled, checkpoint(2, model="3"), last, DONE]).verdict == "diverged"
    assert judge(original, [*curve, last, DONE]).verdict == "diverged"


def test_a_checkpoint_that_a_kill_prevented_is_no_surplus_where_the_next_attempt_went_on() -> None:
    best = checkpoint(2, model="b").model_copy(update={"name": "best_model_step_2"})
    curve = points("loss", [(1, 1.0), (2, 0.5)])
    original = [*curve, best, resumed(2, 2), *points("loss", [(3, 0.4)]), DONE]
    whole = [*curve, best, checkpoint(2, model="b"), *points("loss", [(3, 0.4)]), DONE]
    assert judge(original, whole).verdict == "identical"
    elsewhere = [*curve, best, *points("loss", [(3, 0.4)]), checkpoint(3, model="c"), DONE]
    assert judge(original, elsewhere).verdict == "diverged"


def test_a_checkpoint_that_other_processes_made_up_for_is_no_witness() -> None:
    curve = points("loss", [(1, 1.0), (2, 0.5)])
    best = checkpoint(2, model="b").model_copy(update={"name": "best_model_step_2", "processes": 2})
    regular = checkpoint(2, model="b", generators="of two").model_copy(update={"processes": 2})
    made_up = checkpoint(2, attempt=2, model="b", generators="of one")
    rest = [*points("loss", [(3, 0.4)]), DONE]
    assert judge([*curve, best, resumed(2, 2), made_up, *rest], [*curve, best, regular, *rest]).verdict == "identical"
    same = made_up.model_copy(update={"processes": 2})
    assert judge([*curve, best, resumed(2, 2), same, *rest], [*curve, best, regular, *rest]).verdict == "diverged"


def test_a_replay_stopped_at_its_divergence_is_not_blamed_for_the_rest() -> None:
    curve = points("x", [(step, 1.0) for step in range(5)])
    judgement = judge(
        [*curve, artifact("a", "a"), DONE],
        [*points("x", [(0, 1.0), (1, 2.0)]), RunInterrupted(signal="SIGTERM")],
        stopped=True,
    )
    assert judgement.verdict == "diverged"
    assert [check.name for check in judgement.checks if not check.passed] == ["x"]
    assert "3 not reached" in next(c for c in judgement.checks if c.name == "x").actual


@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_nothing_to_compare_is_never_identical(tolerance: float | None) -> None:
    assert judge([DONE], [DONE], tolerance=tolerance).verdict == "not-replayable"


# --- what comes and goes ------------------------------------------------------------------------------------


def triggered(step: float, trigger: str, content: str = "w") -> CheckpointWritten:
    return checkpoint(step, model=content).model_copy(update={"trigger": trigger})


@pytest.mark.parametrize("trigger", ["minutes", "interruption"])
def test_a_checkpoint_that_the_clock_or_a_signal_made_need_not_come_again(trigger: str) -> None:
    curve = points("x", [(step, 1.0) for step in range(1, 6)])
    with_it = [*curve[:3], triggered(3, trigger), *curve[3:], checkpoint(5, model="w"), DONE]
    without = [*curve, checkpoint(5, model="w"), DONE]
    assert judge(with_it, without).verdict == "identical"
    assert judge(without, with_it).verdict == "identical"
    elsewhere = [*curve[:2], triggered(2, trigger), *curve[2:], checkpoint(5, model="w"), DONE]
    assert judge(with_it, elsewhere).verdict == "identical"
    assert judge(with_it, [*curve, triggered(3, trigger, "v"), checkpoint(5, model="w"), DONE]).verdict == "diverged"


@pytest.mark.parametrize("trigger", ["steps", "best", "last"])
def test_a_scheduled_checkpoint_must_come_again(trigger: str) -> None:
    curve = points("x", [(step, 1.0) for step in range(1, 6)])
    with_it = [*curve[:3], triggered(3, trigger), *curve[3:], DONE]
    assert judge(with_it, [*curve, DONE]).verdict == "diverged"
    assert judge([*curve, DONE], with_it).verdict == "diverged"


def test_fingerprints_that_a_kill_may_have_cost_are_no_surplus_and_others_are() -> None:
    curve = points("x", [(step, 1.0) for step in range(1, 9)])
    prints = [fingerprint(step, f"w{step}") for step in range(1, 9)]
    killed = [*curve[:7], *prints[:4], checkpoint(4, model="w")]
    assert judge(killed, [*curve, *prints, checkpoint(4, model="w")]).verdict == "identical"
    lost = [*curve[:7], *prints[:3], checkpoint(4, model="w")]  # never one at or before a checkpoint
    assert judge(lost, [*curve, *prints, checkpoint(4, model="w")]).verdict == "diverged"
    assert judge([*killed, DONE], [*curve[:7], *prints, checkpoint(4, model="w"), DONE]).verdict == "diverged"


def test_a_fingerprint_that_comes_late_shows_the_earlier_divergence() -> None:
    curve = points("x", [(step, 1.0) for step in range(1, 5)])
    original = [curve[0], fingerprint(1, "w"), *curve[1:], DONE]
    replayed = [curve[0], *points("x", [(2, 2.0)]), fingerprint(1, "v"), *curve[2:], DONE]
    found = judge(original, replayed).first_divergence
    assert found is not None
    assert (found.what, found.step) == ("parameters", 1.0)


# --- shards -------------------------------------------------------------------------------------------------


def sharded(step: float, ranks: dict[str, str], **tensors: str) -> ParametersFingerprinted:
    whole = fingerprint(step, repr(tensors), **tensors)
    return whole.model_copy(update={"shards": {rank: digest(held) for rank, held in ranks.items()}})


def test_the_first_divergence_names_the_shard_and_the_rank_that_holds_it() -> None:
    original = sharded(5, {"0": "a", "1": "b"}, **{"w[0,0]": "1", "w[4,0]": "2"})
    replayed = sharded(5, {"0": "a", "1": "c"}, **{"w[0,0]": "1", "w[4,0]": "3"})
    found = judge([original, DONE], [replayed, DONE]).first_divergence
    assert found is not None
    assert (found.what, found.expected, found.actual) == ("tensor w[4,0] (rank 1)", digest("2"), digest("3"))


def test_no_rank_is_named_where_all_differ() -> None:
    original = sharded(5, {"0": "a", "1": "b"}, **{"w[0,0]": "1", "w[4,0]": "2"})
    replayed = sharded(5, {"0": "x", "1": "y"}, **{"w[0,0]": "7", "w[4,0]": "8"})
    found = judge([original, DONE], [replayed, DONE]).first_divergence
    assert found is not None
    assert found.what == "tensor w[0,0]"


# --- a part -------------------------------------------------------------------------------------------------


def judge_part(
    original: Iterable[Event], replayed: Iterable[Event], scope: Scope, *, stopped: bool = True
) -> Judgement:
    state = fold(stream([run_started(), *original]))
    events = stream([run_started(kind="replay"), *replayed], run_id="0190bbbb")
    comparison = compared_with(state, scope)
    for recorded in events:
        comparison.feed(recorded)
    assert comparison.done is (scope.until_step is not None and comparison.exhausted)
    return comparison.finish(fold(events), stopped=stopped)


LONG = points("x", [(step, float(step)) for step in range(1, 11)])
SAVED = [*LONG[:4], checkpoint(4, model="4"), *LONG[4:8], checkpoint(8, model="8"), *LONG[8:]]


def test_of_a_part_only_its_own_steps_are_compared() -> None:
    scope = Scope(from_step=5, until_step=8)
    again = [*LONG[4:8], checkpoint(8, model="8"), *points("x", [(9, -1.0)])]
    judgement = judge_part([*SAVED, artifact("a", "a"), DONE], again, scope)
    assert judgement.verdict == "identical"
    told = {check.name: check for check in judgement.checks}
    assert told["x"].expected == "4 values"
    assert "the part ends at step 8" in told["exit status"].actual
    assert judge_part([*SAVED, DONE], again[1:], scope, stopped=False).verdict == "diverged"
    assert judge_part([*SAVED, DONE], [*again[:2], *points("x", [(7, -1.0)])], scope).verdict == "diverged"


def test_a_part_to_the_end_is_compared_with_how_it_ended() -> None:
    scope = Scope(from_step=8)
    assert (
        judge_part([*SAVED, artifact("a", "a"), DONE], [*LONG[8:], DONE], scope, stopped=False).verdict == "identical"
    )
    crashed = [*LONG[8:], RunFailed(exception="e", exit_code=1)]
    assert judge_part([*SAVED, DONE], crashed, scope, stopped=False).verdict == "diverged"


def test_of_a_command_that_starts_over_it_is_said() -> None:
    judgement = judge_part([*SAVED, DONE], [*LONG[:8], checkpoint(8, model="8")], Scope(from_step=4, until_step=8))
    assert judgement.verdict == "identical"
    went = next(check for check in judgement.checks if check.name == "went on")
    assert "step 1" in went.actual


def test_what_is_best_in_a_part_need_not_be_the_best_of_the_run() -> None:
    best = checkpoint(6, model="b").model_copy(update={"best": True, "name": "best_model_step_6", "trigger": "best"})
    again = [*LONG[4:6], best, *LONG[6:8], checkpoint(8, model="8")]
    assert judge_part([*SAVED, DONE], again, Scope(from_step=4, until_step=8)).verdict == "identical"
    assert judge([*SAVED, DONE], [*LONG[:6], best, *LONG[6:], DONE]).verdict == "diverged"
    had = [*SAVED[:7], best, *SAVED[7:], DONE]
    assert (
        judge_part(had, [*LONG[4:8], checkpoint(8, model="8")], Scope(from_step=4, until_step=8), stopped=False).verdict
        == "diverged"
    )


def test_a_part_before_a_kill_may_still_lack_what_was_in_flight() -> None:
    killed = [*SAVED[:5], *LONG[4:8]]  # killed at step 8, its fingerprints and checkpoints from behind lost
    again = [*LONG[4:7], fingerprint(6, "w"), checkpoint(6, model="6")]
    assert judge_part(killed, again, Scope(from_step=4, until_step=7)).verdict == "identical"


# --- other processes ----------------------------------------------------------------------------------------


def resized(original: list[Event], replayed: list[Event], tolerance: float | None = None) -> Judgement:
    state = fold(stream([run_started(), *original, DONE]))
    events = stream([run_started(kind="replay"), *replayed, DONE], run_id="0190bbbb")
    comparison = compared_with(state, Scope(processes=2), tolerance)
    for recorded in events:
        comparison.feed(recorded)
    return comparison.finish(fold(events))


def test_with_other_processes_whole_tensors_are_compared_and_shards_are_not() -> None:
    curve = points("x", [(1, 1.0), (2, 1.0)])
    original = [*curve, sharded(2, {}, a="1", b="2"), checkpoint(2, model="w")]
    shared_out = sharded(2, {"0": "k", "1": "l"}, **{"a": "1", "b[0]": "2", "b[1]": "2"})
    other_files = checkpoint(2, **{"model-0": "w", "model-1": "w"})
    judgement = resized(original, [*curve, shared_out, other_files])
    assert judgement.verdict == "identical"
    told = {check.name: check.actual for check in judgement.checks}
    assert told["fingerprints"] == "1 equal bit for bit"
    assert "1 not compared" in told["checkpoint step-2"]
    wrong = sharded(2, {"0": "k", "1": "l"}, **{"a": "9", "b[0]": "2", "b[1]": "2"})
    found = resized(original, [*curve, wrong, other_files]).first_divergence
    assert found is not None
    assert found.what == "tensor a"
    assert resized(original, [*curve, wrong, other_files], 0.1).verdict == "within-tolerance"


def test_replicas_are_compared_as_a_whole_whatever_their_number() -> None:
    original, replayed = sharded(2, {"0": "k"}, a="1"), sharded(2, {"0": "k", "1": "k"}, a="1")
    other = replayed.model_copy(update={"parameters": digest("other")})
    assert resized([original], [replayed]).verdict == "identical"
    assert resized([original], [other]).verdict == "diverged"


def test_where_nothing_could_be_compared_nothing_is_identical() -> None:
    original = [checkpoint(2, model="w")]
    assert resized(original, [checkpoint(2, **{"model-0": "w"})]).verdict == "not-replayable"
    # With the same processes another layout of the same tensors is another training.
    alone, apart = sharded(2, {}, a="1"), sharded(2, {"0": "k"}, **{"a[0]": "1"})
    assert judge([alone, DONE], [apart, DONE]).verdict == "diverged"


def test_what_the_same_processes_made_is_compared_in_full_up_to_where_others_went_on() -> None:
    curve = points("x", [(step, 1.0) for step in range(1, 5)])
    moved = resumed(2, 2).model_copy(update={"world": World(processes=2)})
    original = [*curve[:2], checkpoint(2, model="w"), moved, *curve[2:], checkpoint(4, attempt=2, a="w", b="w"), DONE]
    assert judge(original, [*curve, checkpoint(2, model="w"), checkpoint(4, model="w"), DONE]).verdict == "identical"
    found = judge(original, [*curve, checkpoint(2, model="v"), checkpoint(4, model="w"), DONE]).first_divergence
    assert found is not None
    assert found.what == "checkpoint step-2: model"


def test_of_other_processes_only_the_first_rank_is_compared() -> None:
    def ranked(run_id: str, *ranks: int) -> list[Recorded]:
        body = [event for k in ranks for event in points("loss", [(1, float(k))])]
        recorded = stream([run_started(world=World(processes=len(ranks))), *body, DONE], run_id=run_id)
        return [
            replace(r, metadata=replace(r.metadata, rank=k))
            for r, k in zip(recorded, [None, *ranks, None], strict=True)
        ]

    state = fold(ranked("0190aaaa", 0, 1))
    comparison = compared_with(state, Scope(processes=3))
    again = ranked("0190bbbb", 0, 1, 2)
    for recorded in again:
        comparison.feed(recorded)
    assert comparison.finish(fold(again)).verdict == "identical"
    alone = compared_with(state)
    assert [alone.feed(recorded) for recorded in again][-1] is not None


@pytest.mark.parametrize("name", ["loss", "exit status", "data train", "artifact out"])
def test_what_merely_lacks_is_told_from_what_is_otherwise(name: str) -> None:
    """Whatever a metric is called: its name is no excuse for its values."""
    original = [data("a"), *points(name, [(1, 0.5), (2, 0.25)]), checkpoint(2, model="x"), artifact("out", "o"), DONE]
    failed = RunFailed(step=2, exception="RuntimeError: full", exit_code=1)
    same = points(name, [(1, 0.5), (2, 0.25)])
    assert judge(original, [data("a"), *same, failed]).only_lacks
    assert judge(original, [data("a"), *same[:1], failed]).only_lacks
    assert not judge(original, [data("a"), *points(name, [(1, 0.5), (2, 0.75)]), failed]).only_lacks
    assert not judge(original, [data("a"), *same, *points("more", [(2, 1.0)]), failed]).only_lacks
    assert not judge(original, [data("b"), *same, failed]).only_lacks
    assert not judge(original, [data("a"), *same, checkpoint(2, model="y"), failed]).only_lacks
    assert not judge(original, [data("a"), *same, checkpoint(2, model="x"), artifact("out", "p"), DONE]).only_lacks
    assert not judge(original, original).only_lacks
