"""What became of device time, and what it cost."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.book import Book
from ledger.errors import InvalidSettings, UsageError
from ledger.events import (
    CheckpointWritten,
    CodeCaptured,
    ConfigResolved,
    GpuTimeUsed,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    TrainingResumed,
)
from ledger.read.gpu_hours import DeviceHours, spent
from ledger.settings import Prices, find_settings, in_memory
from ledger.store.projections.summary import RunSummary
from ledger.testing.builders import PROCESS, run_started, stream

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.events import Event

START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""When the first event of a stream from ``builders`` was recorded; each later one a second after it."""
FREE = Prices()
RUN = RunSummary("run-0190aaaa", 1, "run-1", "train", "2026-01-01T00:00:00Z", "testhost", 4242, 1.0, "completed")


def used(began: float, seconds: float, *, kind: str = "gpu", **facts: Any) -> GpuTimeUsed:
    """Device time from ``began`` seconds after the start of the stream on."""
    model = "NVIDIA H100 80GB HBM3" if kind == "gpu" else "AMD EPYC"
    told = {"started_at": START + began, "seconds": seconds, "kind": kind, "index": 0, "model": model, "host": "h"}
    return GpuTimeUsed(**(told | facts))


def written(step: int) -> CheckpointWritten:
    return CheckpointWritten(
        uri=f"file:///c/step-{step}", digest=f"{step:064}", bytes=1, stored_bytes=1, files=(), step=step, attempt=1,
        name=f"step-{step}", seconds=0.1,
    )  # fmt: skip


def resumed(attempt: int, step: int | None) -> TrainingResumed:
    uri = None if step is None else f"file:///c/step-{step}"
    return TrainingResumed(attempt=attempt, step=step, checkpoint=None, uri=uri, process=PROCESS)


def seconds(*facts: Event, status: str = "completed", kind: str = "train") -> dict[str, float]:
    """Seconds of GPU time by use, of a run with these facts after its first."""
    run = replace(RUN, kind=kind, status=status)  # type: ignore[arg-type]
    (hours,) = spent(stream([run_started(), *facts]), {run.stream: run}, FREE)
    return {use: pytest.approx(value * 3600) for use, value in hours.gpu.items()}


def test_all_time_of_a_run_that_completed_is_useful() -> None:
    assert seconds(used(0, 100), RunCompleted(step=1)) == {"useful": 100, "lost": 0, "replays": 0}
    assert seconds(used(0, 100), status="running") == {"useful": 100, "lost": 0, "replays": 0}


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_without_a_checkpoint_a_crash_costs_everything(status: str) -> None:
    assert seconds(used(0, 100), status=status) == {"useful": 0, "lost": 100, "replays": 0}


def test_what_came_after_the_last_checkpoint_is_lost_pro_rata() -> None:
    # The checkpoint is the third event, so recorded after two seconds.
    facts = used(0, 1), written(1), used(1, 4), used(5, 10)
    assert seconds(*facts, status="interrupted") == {"useful": 2, "lost": 13, "replays": 0}


def test_ranks_count_each() -> None:
    facts = written(1), used(0, 3), used(0, 3, index=1)
    assert seconds(*facts, status="failed") == {"useful": 2, "lost": 4, "replays": 0}


def test_what_comes_after_the_checkpoint_that_was_resumed_from_is_lost() -> None:
    facts = used(0, 10), written(1), written(2), resumed(2, 1), used(20, 5), RunCompleted(step=9)
    assert seconds(*facts) == {"useful": 2 + 5, "lost": 8, "replays": 0}


def test_an_attempt_that_was_skipped_over_is_lost_as_a_whole() -> None:
    facts = written(1), used(0, 10), resumed(2, 1), used(20, 5), resumed(3, 1), used(40, 1), RunCompleted(step=9)
    assert seconds(*facts) == {"useful": 1 + 1, "lost": 9 + 5, "replays": 0}


def test_a_resume_from_the_beginning_loses_everything_before_it() -> None:
    facts = used(0, 10), resumed(2, None), used(20, 5), RunCompleted(step=9)
    assert seconds(*facts) == {"useful": 5, "lost": 10, "replays": 0}


def test_a_last_attempt_that_died_keeps_what_those_before_it_left_to_it() -> None:
    facts = written(1), used(0, 10), resumed(2, 1), used(20, 5)
    assert seconds(*facts, status="interrupted") == {"useful": 1, "lost": 9 + 5, "replays": 0}


def test_a_replays_time_is_a_replays_however_it_ended() -> None:
    assert seconds(used(0, 100), status="failed", kind="replay") == {"useful": 0, "lost": 0, "replays": 100}


@given(
    st.lists(
        st.one_of(
            st.builds(used, st.floats(0, 100), st.floats(0, 100)),
            st.builds(written, st.integers(1, 3)),
            st.sampled_from([None, 1, 2, 3]).map(lambda step: resumed(0, step)),
        ),
        max_size=12,
    ),
    st.sampled_from(["completed", "running", "failed", "interrupted"]),
)
def test_no_time_is_lost_in_the_account(facts: list[Event], status: str) -> None:
    attempt, numbered = 1, []
    for fact in facts:
        if isinstance(fact, TrainingResumed):
            attempt += 1
            fact = fact.model_copy(update={"attempt": attempt})
        numbered.append(fact)
    total = math.fsum(fact.seconds for fact in facts if isinstance(fact, GpuTimeUsed))
    if not any(isinstance(fact, GpuTimeUsed) for fact in facts):
        return
    found = seconds(*numbered, status=status)
    assert math.fsum(each.expected for each in found.values()) == pytest.approx(total)  # type: ignore[attr-defined]
    assert all(each.expected >= 0 for each in found.values())  # type: ignore[attr-defined]
    if status == "completed" and attempt == 1:
        assert found["lost"] == 0


def test_the_cpu_is_never_counted_as_a_gpu() -> None:
    (hours,) = spent(stream([run_started(), used(0, 3600, kind="cpu")]), {RUN.stream: RUN}, FREE)
    assert hours.gpu == {"useful": 0, "lost": 0, "replays": 0}
    assert hours.cpu == {"useful": 1, "lost": 0, "replays": 0}


def test_energy_and_cost_add_up() -> None:
    prices = Prices("EUR", {"H100": 2.0, "cpu": 0.5})
    facts = used(0, 3600, energy_joules=10.0), used(0, 7200, kind="cpu"), used(0, 3600, model="NVIDIA L4")
    (hours,) = spent(stream([run_started(), *facts]), {RUN.stream: RUN}, prices)
    assert (hours.energy_joules, hours.cost, hours.unpriced) == (10.0, pytest.approx(3.0), {"NVIDIA L4"})
    total = DeviceHours("all")
    total.add(hours)
    total.add(hours)
    assert (total.energy_joules, total.cost, sum(total.gpu.values())) == (20.0, pytest.approx(6.0), pytest.approx(4))


def test_the_longest_name_that_fits_is_the_price() -> None:
    prices = Prices("EUR", {"h100": 2.0, "H100 NVL": 3.0, "cpu": 0.1})
    assert prices.of("gpu", "NVIDIA H100 80GB HBM3") == 2.0
    assert prices.of("gpu", "NVIDIA H100 NVL") == 3.0
    assert prices.of("gpu", "NVIDIA A100") is None
    assert prices.of("gpu", "a gpu with cpu in its name") is None
    assert prices.of("cpu", "AMD EPYC") == 0.1
    assert FREE.of("cpu", "AMD EPYC") is None


def test_prices_come_from_ledger_toml(tmp_path: Path) -> None:
    (tmp_path / "ledger.toml").write_text('[prices]\ncurrency = "EUR"\n"H100" = 2.5\ncpu = 1\n')
    assert find_settings(start=tmp_path, environ={}).prices == Prices("EUR", {"H100": 2.5, "cpu": 1.0})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prices = 3", "prices is not a section"),
        ("[prices]\nH100 = 2.5", "prices.currency is None"),
        ("[prices]\ncurrency = 3", "prices.currency is 3"),
        ('[prices]\ncurrency = " "', "prices.currency is ' '"),
        ('[prices]\ncurrency = "EUR"\nH100 = "2.5"', "prices.H100 is '2.5'"),
        ('[prices]\ncurrency = "EUR"\nH100 = true', "prices.H100 is True"),
        ('[prices]\ncurrency = "EUR"\nH100 = -1', "prices.H100 is -1"),
        ('[prices]\ncurrency = "EUR"\nH100 = nan', "prices.H100 is nan"),
        ('[prices]\ncurrency = "EUR"\nH100 = inf', "prices.H100 is inf"),
        ('[prices]\ncurrency = "EUR"\n"" = 1', "names no device"),
    ],
)
def test_a_price_that_is_none_is_told(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "ledger.toml").write_text(text)
    with pytest.raises(InvalidSettings, match=named) as told:
        find_settings(start=tmp_path, environ={})
    assert told.value.mend


# --- over a ledger


@pytest.fixture
def book(tmp_path: Path) -> Book:
    book = Book(in_memory(tmp_path))
    code = {"root": "/w", "directory": ".", "repository": None, "commit": None, "branch": None, "dirty": False}
    program = CodeCaptured(**code, tree="0" * 64, files=1, bytes=1, entry_point="train.py")
    recipe = ConfigResolved(config={"task": "kjv", "lr": 1}, digest="0" * 64)
    facts: list[tuple[dict[str, Any], Event, float, Event]] = [
        ({"user": "ada", "project": "llm"}, recipe, 1, RunCompleted(step=1)),
        ({"user": "ada"}, program, 2, RunFailed(exception="no")),
        ({"user": "bob", "project": "llm", "kind": "replay"}, recipe, 4, RunInterrupted(signal="SIGINT")),
        ({"user": "bob"}, program, 0, RunCompleted(step=1)),
    ]
    for n, (about, fact, hours, end) in enumerate(facts, 1):
        spans = [used(0, hours * 3600)] if hours else []
        name = book.store.name_run(f"run-{n}")
        book.append(str(n), run_started(name=name, **about), fact, *spans, end, attempt=1)
    return book


def test_time_is_told_by_what_one_asks_for(book: Book) -> None:
    def told(by: str, where: str | None = None) -> dict[str, tuple[float, ...]]:
        return {g.name: tuple(g.gpu.values()) for g in book.gpu_hours(by=by, where=where)}  # type: ignore[arg-type]

    assert told("run") == {"run-1": (1, 0, 0), "run-2": (0, 2, 0), "run-3": (0, 0, 4)}
    assert told("user") == {"bob": (0, 0, 4), "ada": (1, 2, 0)}
    assert list(told("user")) == ["bob", "ada"]
    assert told("project") == {"llm": (1, 0, 4), "": (0, 2, 0)}
    assert told("model") == {"kjv": (1, 0, 4), "train.py": (0, 2, 0)}
    assert told("run", "user = ada and status = failed") == {"run-2": (0, 2, 0)}
    with pytest.raises(UsageError, match="by planet"):
        told("planet")


def test_many_runs_are_told_as_few_are(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    few = book.gpu_hours(by="run")
    monkeypatch.setattr("ledger.read.gpu_hours._FEW", 0)
    assert book.gpu_hours(by="run") == few
