"""Metrics are read only when they are asked for, and come out the same however they are read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ledger import open_ledger
from ledger.cli import main
from ledger.codec import METRICS, Codec, Metadata, columns
from ledger.errors import NotFound
from ledger.events import MetricsLogged, RunCompleted
from ledger.read.series import Series, limits
from ledger.read.state import FACTS, extend, fold
from ledger.read.stored import read_run
from ledger.settings import find_settings
from ledger.store.base import run_stream
from ledger.store.memory import MemoryStore
from ledger.store.sql import SqlStore
from ledger.testing.builders import logged, resumed, run_started, stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.codec import Recorded
    from ledger.events import Event

RUN = "0190aaaa-0000-7000-8000-000000000001"
FACTS_OF_A_RUN = [
    run_started(),
    logged({1: {"loss": 3.0, "acc": 0.1}, 2: {"loss": 2.5}, 3: {"loss": 2.4, "lost": 1.0}}),
    resumed(2, 2),
    logged({3: {"loss": 2.3}, 4: {"loss": math.nan}}),
    RunCompleted(step=4),
]
steps = st.integers(0, 20) | st.floats(0, 20)
values = st.floats(-1e3, 1e3) | st.sampled_from([math.nan, math.inf, -math.inf])


def record(store: MemoryStore | SqlStore, facts: list[Event], rank: int | None = None) -> str:
    """The stream of a run with these facts, in ``store``."""
    codec, attempt = Codec(), 1
    store.name_run(run_stream(RUN))
    for fact in facts:
        attempt = getattr(fact, "attempt", attempt)
        metadata = Metadata("test", "testhost", 4242, "0", rank=rank, attempt=attempt)
        store.append(run_stream(RUN), [codec.draft(fact, metadata)])
    return run_stream(RUN)


class Counting(MemoryStore):
    """A log that knows how many batches of metrics were read."""

    batches = 0

    def read(self, stream: str, **wanted: Any) -> Iterator[Recorded]:
        for recorded in super().read(stream, **wanted):
            self.batches += recorded.type == METRICS
            yield recorded


# --- lazily


def test_a_runs_facts_and_figures_cost_no_metrics() -> None:
    store = Counting(Codec())
    state = read_run(store, record(store, FACTS_OF_A_RUN))
    assert (state.status, state.attempt.number, state.version) == ("completed", 2, 4)
    assert state.metrics == ("acc", "loss")
    assert math.isnan(state.last_metrics["loss"])
    assert state.last_step == 4
    assert store.batches == 0
    assert state.series("loss").step == (1, 2, 3, 4)
    assert store.batches == 2
    state.series("loss", effective=False)
    assert store.batches == 2, "once is enough"


def test_show_reads_no_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_URL", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    with open_ledger() as book:
        assert isinstance(book.store, SqlStore)
        record(book.store, FACTS_OF_A_RUN)
    read, batches = SqlStore.read, []

    def counting(self: SqlStore, stream: str, **wanted: Any) -> Iterator[Recorded]:
        for recorded in read(self, stream, **wanted):
            batches.extend([recorded] if recorded.type == METRICS else [])
            yield recorded

    monkeypatch.setattr(SqlStore, "read", counting)
    shown = CliRunner().invoke(main, ["show", RUN])
    assert shown.exit_code == 0, shown.output
    assert "loss     nan     4" in shown.output
    assert batches == []
    with open_ledger(settings=find_settings()) as book:
        assert len(book.run(RUN).series("loss")) == 4
    assert len(batches) == 2


def test_a_state_knows_nothing_of_what_came_after_it() -> None:
    store = MemoryStore(Codec())
    state = read_run(store, record(store, FACTS_OF_A_RUN[:2]))
    record(store, FACTS_OF_A_RUN[2:])
    assert state.series("loss").value == (3.0, 2.5, 2.4)
    extend(state, store.read(run_stream(RUN), after=state.version))
    assert state.series("loss").step == (1, 2, 3, 4)


def test_metrics_without_an_attempt_belong_to_the_one_that_was_running() -> None:
    facts = stream(FACTS_OF_A_RUN)
    for event in facts:
        object.__setattr__(event, "metadata", Metadata("test", "testhost", 4242, "0"))
    assert fold(facts).series("loss").attempt == (1, 1, 2, 2)


def test_the_lowest_rank_leads_and_others_are_asked_for() -> None:
    store = MemoryStore(Codec())
    record(store, [run_started(), logged({1: {"loss": 9.0, "only here": 1.0}})], rank=1)
    state = read_run(store, record(store, [logged({1: {"loss": 1.0}})], rank=0))
    assert state.series("loss").value == (1.0,)
    assert state.series("loss", rank=1).value == (9.0,)
    assert state.metrics == ("loss",)
    with pytest.raises(NotFound, match="only here"):
        state.series("only here")


def test_a_metric_that_was_taken_back_as_a_whole_is_still_on_record() -> None:
    state = fold(stream(FACTS_OF_A_RUN))
    assert "lost" not in state.metrics
    assert len(state.series("lost")) == 0
    assert state.series("lost", effective=False).value == (1.0,)
    assert sorted(state.leading) == ["acc", "loss", "lost"]
    assert sorted(state.effective_series) == ["acc", "loss"]


def test_metrics_of_a_later_version_are_left_alone() -> None:
    facts = stream([*FACTS_OF_A_RUN[:2], logged({9: {"loss": 9.0}})])
    object.__setattr__(facts[2], "schema_version", 2)
    assert fold(facts).series("loss").step == (1, 2, 3)


def test_what_a_fold_needs_and_metrics_are_all_the_types_of_a_run() -> None:
    assert MetricsLogged.type == METRICS
    assert METRICS not in FACTS


@given(st.lists(st.lists(st.tuples(steps, values), max_size=6), max_size=4), st.lists(st.integers(0, 20), max_size=4))
def test_the_ledger_keeps_what_a_fold_would_find(batches: list[list[tuple[float, float]]], resumes: list[int]) -> None:
    facts: list[Event] = [run_started()]
    for number, batch in enumerate(batches):
        at, value = (tuple(column) for column in zip(*batch, strict=True)) if batch else ((), ())
        facts.append(MetricsLogged(step=at, time=(0.0,) * len(at), values={"x": value}))
        if number < len(resumes):
            facts.append(resumed(number + 2, resumes[number]))
    store = MemoryStore(Codec())
    kept, folded = read_run(store, record(store, facts)), fold(stream(facts))
    assert repr(kept.figures) == repr(folded.figures)
    assert [repr(kept.series(name)) for name in kept.metrics] == [repr(folded.series(name)) for name in folded.metrics]
    for name in folded.metrics:
        assert len(folded.series(name)) == folded.figures.metrics[name].points


# --- columns


@given(st.lists(st.none() | values), st.text(max_size=3))
def test_columns_are_what_was_recorded(column: list[float | None], name: str) -> None:
    rows = len(column)
    event = MetricsLogged(step=tuple(range(rows)), time=(0.5,) * rows, values={name: tuple(column)})
    found = columns(Codec().draft(event, Metadata("test", "h", 1, "0")).payload)
    assert repr(found) == f"Columns(step={list(event.step)}, time={list(event.time)}, values={ {name: column} })"


@given(
    st.lists(st.tuples(st.integers(1, 4), st.lists(steps, max_size=5))),
    st.dictionaries(st.integers(2, 4), st.none() | steps),
)
def test_the_effective_series_is_that_of_each_point_alone(
    logged: list[tuple[int, list[float]]], resumed_at: dict[int, float | None]
) -> None:
    points = [(step, attempt) for attempt, some in logged for step in some]
    step, attempt = (tuple(column) for column in zip(*points, strict=True)) if points else ((), ())
    numbers = tuple(range(len(step)))
    series = Series("x", step, numbers, numbers, attempt)
    limit = limits(attempt, resumed_at)
    assert series.effective(resumed_at).value == tuple(n for n in numbers if step[n] <= limit[attempt[n]])
    assert series.of_attempt(2).value == tuple(n for n in numbers if attempt[n] == 2)
