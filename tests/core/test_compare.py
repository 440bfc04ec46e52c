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
)
from ledger.read.state import fold
from ledger.replay.compare import Comparison, Judgement, deviation, same_bits
from ledger.testing.builders import logged, resumed, run_started, stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ledger.events import Event, MetricsLogged

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


def judge(
    original: Iterable[Event],
    replayed: Iterable[Event],
    *,
    tolerance: float | None = None,
    stopped: bool = False,
) -> Judgement:
    """The judgement on a replay, both runs given by what follows their start."""
    events = stream([run_started(kind="replay"), *replayed], run_id="0190bbbb")
    comparison = Comparison(fold(stream([run_started(), *original])), tolerance)
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

    comparison = Comparison(fold(ranked(run(2.0), "0190aaaa")))  # type: ignore[arg-type]
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
    comparison = Comparison(state)
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
