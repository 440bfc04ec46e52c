"""Folding a run's stream: attempts, effective series, checkpoints, endings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import LedgerError, NotFound
from ledger.events import (
    CheckpointDeleted,
    CheckpointWritten,
    ConfigResolved,
    EnvironmentCaptured,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    World,
)
from ledger.read.environment import differences, spelled_mesh
from ledger.read.state import extend, fold
from ledger.testing.builders import logged, resumed, run_started, stream


def checkpoint(step: float, digest: str = "d" * 64, **changes: object) -> CheckpointWritten:
    facts = {
        "uri": f"file:///c/step-{step:g}",
        "digest": digest,
        "bytes": 1,
        "stored_bytes": 1,
        "files": ({"path": "model", "digest": "f" * 64, "bytes": 1},),
        "step": step,
        "attempt": 1,
        "name": f"step-{step:g}",
        "seconds": 0.1,
    }
    return CheckpointWritten.model_validate(facts | changes)


def test_a_resumed_run_has_one_effective_curve_and_keeps_every_fact() -> None:
    state = fold(
        stream(
            [
                run_started(),
                logged({1: {"loss": 3.0}, 2: {"loss": 2.5}, 3: {"loss": 2.4}}),
                resumed(2, 2),
                logged({3: {"loss": 2.3}, 4: {"loss": 2.2}}),
            ]
        )
    )
    assert state.series("loss").value == (3.0, 2.5, 2.3, 2.2)
    assert state.series("loss").attempt == (1, 1, 2, 2)
    assert state.series("loss", effective=False).value == (3.0, 2.5, 2.4, 2.3, 2.2)
    assert state.last_step == 4


def test_an_attempt_that_starts_over_takes_everything_back() -> None:
    state = fold(stream([run_started(), logged({1: {"loss": 3.0}}), resumed(2, None), logged({1: {"loss": 2.0}})]))
    assert state.series("loss").value == (2.0,)


def test_a_later_resume_from_further_back_takes_back_the_attempts_between() -> None:
    facts = [
        run_started(),
        logged({n: {"loss": float(n)} for n in range(1, 6)}),
        resumed(2, 5),
        logged({6: {"loss": 6.0}}),
        resumed(3, 2),
        logged({3: {"loss": 33.0}}),
    ]
    assert fold(stream(facts)).series("loss").step == (1, 2, 3)
    assert fold(stream(facts)).series("loss").value == (1.0, 2.0, 33.0)


def test_values_that_json_lacks_survive() -> None:
    state = fold(stream([run_started(), logged({1: {"a": math.nan}, 2: {"a": math.inf}, 3: {"a": -math.inf}})]))
    first, *others = state.series("a").value
    assert math.isnan(first)
    assert others == [math.inf, -math.inf]


def test_a_metric_that_a_call_did_not_give_has_no_point_there() -> None:
    state = fold(stream([run_started(), logged({1: {"a": 1.0}, 2: {"b": 2.0}})]))
    assert state.series("a").step == (1,)
    assert state.series("b").step == (2,)


def test_an_unknown_metric_names_those_that_there_are() -> None:
    with pytest.raises(NotFound) as caught:
        fold(stream([run_started(), logged({1: {"loss": 1.0}})])).series("lss")
    assert "loss" in str(caught.value.mend)


def test_checkpoints_are_those_that_are_left() -> None:
    gone = checkpoint(1)
    state = fold(
        stream(
            [
                run_started(),
                gone,
                checkpoint(2),
                checkpoint(3),
                CheckpointDeleted(step=1, name=gone.name, uri=gone.uri, digest=gone.digest, reason="keep_last = 2"),
                resumed(2, 2),
            ]
        )
    )
    assert [c.step for c in state.checkpoints] == [2]
    assert len(state.written) == 3


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (RunCompleted(step=1), "completed"),
        (RunFailed(exception="ValueError: no", exit_code=1), "failed"),
        (RunInterrupted(signal="SIGTERM"), "interrupted"),
    ],
)
def test_the_end_gives_the_status_until_a_resume(ending: RunCompleted, status: str) -> None:
    assert fold(stream([run_started(), ending])).status == status
    assert fold(stream([run_started(), ending, resumed(2, 1)])).status == "running"


def test_of_two_ranks_that_report_a_failure_the_first_is_the_cause() -> None:
    first, second = RunFailed(exception="ValueError: cause"), RunFailed(exception="RuntimeError: consequence")
    assert fold(stream([run_started(), first, second])).ended == first


def test_what_is_captured_from_inside_adds_to_what_was_captured_before() -> None:
    before = EnvironmentCaptured(packages={"torch": "2.13.0"}, determinism={"threads": 1})
    inside = EnvironmentCaptured(determinism={"deterministic": True, "threads": 2})
    state = fold(stream([run_started(), before, inside]))
    assert state.environment is not None
    assert state.environment.packages == {"torch": "2.13.0"}
    assert state.environment.determinism == {"deterministic": True, "threads": 2}


def test_a_stream_that_is_no_run_is_refused() -> None:
    with pytest.raises(LedgerError, match=r"run\.started"):
        fold(stream([RunAnnotated(text="hello")]))


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 12))
def test_folding_in_two_parts_is_folding_at_once(resumes: list[int], cut: int) -> None:
    facts = [run_started()]
    for n, step in enumerate(resumes):
        facts += [logged({s: {"loss": float(100 * n + s)} for s in range(step + 3)}), resumed(n + 2, step)]
    events = stream(facts)
    whole = fold(events)
    parts = fold(events[: cut + 1])
    extend(parts, events[cut + 1 :])
    assert [whole.series(m) for m in whole.metrics] == [parts.series(m) for m in parts.metrics]
    assert whole.status == parts.status


@given(st.lists(st.integers(0, 5), max_size=6))
def test_the_effective_curve_never_steps_back(resumes: list[int]) -> None:
    facts = [run_started()]
    reached = 0
    for n, step in enumerate(resumes):
        start = min(step, reached)
        facts += [
            logged({s: {"loss": float(n)} for s in range(start + 1, start + 4)}),
            resumed(n + 2, min(step, start + 3)),
        ]
        reached = start + 3
    state = fold(stream(facts))
    for metric in state.metrics:
        steps = state.series(metric).step
        assert list(steps) == sorted(steps)


def test_each_attempt_has_its_processes_and_its_configuration_until_others_are_recorded() -> None:
    configs = [ConfigResolved(config={"n": n}, digest=f"{n}" * 64) for n in (2, 4)]
    moved = resumed(2, 1).model_copy(update={"world": World(processes=4)})
    state = fold(stream([run_started(world=World(processes=2)), configs[0], moved, configs[1], resumed(3, 2)]))
    assert [attempt.world.processes for attempt in state.attempts] == [2, 4, 4]
    assert [attempt.resolved for attempt in state.attempts] == [configs[0], configs[1], configs[1]]
    assert state.world.processes == 4
    assert state.resolved == configs[1]


def test_what_a_training_adds_to_a_library_does_not_hide_what_was_known_of_it() -> None:
    before = EnvironmentCaptured(libraries={"torch": {"git": "a", "version": "2"}, "cuda": "12"})
    after = EnvironmentCaptured(libraries={"torch": {"version": "2+cpu"}, "nccl": "2"})
    state = fold(stream([run_started(), before, after]))
    assert state.environment is not None
    assert state.environment.libraries == {"torch": {"git": "a", "version": "2+cpu"}, "cuda": "12", "nccl": "2"}


# --- how processes train together --------------------------------------------------------------------------


def topology(**changes: object) -> dict[str, object]:
    ranks = [
        {"coordinates": {"data": k}, "device": "cpu", "host": "a", "threads": 1, "backend": "gloo"} for k in range(2)
    ]
    return {"engine": "ddp", "backend": "gloo", "mesh": {"pipeline": 1, "data": 2}, "ranks": ranks} | changes


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (topology(), []),
        ({}, []),
        (topology(engine="fsdp"), ["engine ddp → fsdp"]),
        (topology(backend="nccl"), ["backend gloo → nccl"]),
        (topology(mesh={"shard": 2}), ["mesh data 2 → shard 2"]),
        (topology(ranks=[{**topology()["ranks"][0]}, {**topology()["ranks"][1], "host": "b"}]), ["hosts 1 → 2"]),  # type: ignore[index]
        (topology(ranks=[{**topology()["ranks"][0], "threads": 2}]), ["rank 0 threads 1 → 2"]),  # type: ignore[index]
        (
            topology(ranks=[{**topology()["ranks"][0], "host": "z"}, {**topology()["ranks"][1], "host": "z"}]),  # type: ignore[index]
            [],
        ),
    ],
    ids=["same", "unknown", "engine", "backend", "mesh", "hosts", "threads", "another name of the host"],
)
def test_differences_of_the_topology_are_told(now: dict[str, object], told: list[str]) -> None:
    before, after = EnvironmentCaptured(topology=topology()), EnvironmentCaptured(topology=now)
    assert differences(before, after) == told


def test_a_mesh_is_spelled_by_the_dimensions_that_have_a_size() -> None:
    assert spelled_mesh(topology()) == "data 2"
    assert spelled_mesh({"mesh": {"pipeline": 2, "data": 1, "shard": 4}}) == "pipeline 2 x shard 4"
    assert spelled_mesh({}) == "one process"
