"""What is kept beside the log for lists: the same in every store, however the facts came in, and after a rebuild."""

from __future__ import annotations

import math
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import METRICS, Codec, Draft, Metadata, new_id
from ledger.events import (
    CheckpointDeleted,
    CheckpointWritten,
    ConfigResolved,
    DataCommitted,
    ParametersFingerprinted,
    ReplayCompared,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    TrainingResumed,
    UnknownEvent,
)
from ledger.read.lineage import origin
from ledger.read.state import fold
from ledger.store import open_store
from ledger.store.base import run_stream
from ledger.store.projections import history
from ledger.store.projections.keeping import rebuild
from ledger.store.projections.query import (
    FIELDS,
    And,
    Comparison,
    Condition,
    Config,
    Metric,
    Not,
    Or,
    Order,
    RunQuery,
)
from ledger.store.sql import SqlStore
from ledger.testing.builders import logged, resumed, run_started
from ledger.testing.ledgers import fill
from tests import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.events import Event
    from ledger.store.base import EventStore
    from ledger.store.projections.summary import RunSummary

CODEC = Codec()
Facts = list[tuple["Event | str", int | None]]
"""Events, or types of unknown ones, with the rank that wrote them."""


@pytest.fixture(scope="module")
def pg_shared(pg_server: postgres.Server) -> Iterator[str]:
    """URL of one PostgreSQL database for all tests here that only add to it."""
    yield from postgres.databases(pg_server)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, pg_shared: str) -> Iterator[list[EventStore]]:
    """One of each kind, to which the tests only add."""
    path = tmp_path_factory.mktemp("projections") / "ledger.db"
    with ExitStack() as stack:
        urls = ("memory:", f"sqlite:///{path}", pg_shared)
        yield [stack.enter_context(closing(open_store(url, CODEC))) for url in urls]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[EventStore]:
    urls = {"memory": lambda: "memory:", "sqlite": lambda: f"sqlite:///{tmp_path}/ledger.db"}
    url = urls.get(request.param, lambda: request.getfixturevalue("pg_url"))()
    with closing(open_store(url, CODEC)) as store:
        yield store


# --- any stream at all -----------------------------------------------------------------------------------------

steps = st.one_of(st.integers(0, 12), st.sampled_from([0.5, 3.25]))
values = st.one_of(st.floats(-3, 3, allow_nan=False), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0]))
rows = st.dictionaries(
    steps, st.dictionaries(st.sampled_from(["val/loss", "train/loss", "acc"]), values, min_size=1), max_size=4
)
words = st.sampled_from(["a", "b", "Ä", "50%_", "nul\0"])
ends = st.one_of(
    st.builds(RunCompleted, step=st.none() | steps, metrics=st.just({})),
    st.builds(RunFailed, exception=st.just("x"), step=st.none() | steps),
    st.builds(RunInterrupted, signal=st.just("SIGTERM"), step=st.none() | steps),
)


def checkpoint(step: float, digest: str = "d" * 64, *, file: str = "f" * 64) -> CheckpointWritten:
    return CheckpointWritten.model_validate(
        {
            "uri": f"file:///c/step-{step:g}", "digest": digest, "bytes": 1, "stored_bytes": 1, "step": step,
            "files": ({"path": "b", "digest": file, "bytes": 1}, {"path": "a", "digest": file, "bytes": 1}),
            "attempt": 1, "name": f"step-{step:g}", "seconds": 0.1,
        }
    )  # fmt: skip


def deleted(step: float, digest: str = "d" * 64) -> CheckpointDeleted:
    return CheckpointDeleted(step=step, name="x", uri=f"file:///c/step-{step:g}", digest=digest, reason="old")


def data(name: str, commit: str) -> DataCommitted:
    return DataCommitted(
        name=name, role="train", uri=f"s3://{name}", commit=commit, path="", digest=commit * 2, files=1, bytes=1,
        provider="p", provider_version="1",
    )  # fmt: skip


facts = st.lists(
    st.tuples(
        st.one_of(
            st.builds(logged, rows),
            st.builds(logged, rows),
            st.builds(resumed, st.integers(2, 4), st.none() | steps),
            ends,
            st.builds(RunAnnotated, text=st.just(""), tags=st.lists(words, max_size=2).map(tuple)),
            st.builds(checkpoint, st.integers(1, 2)),
            st.builds(deleted, st.integers(1, 2)),
            st.builds(data, words, st.sampled_from(["c1", "c2"])),
            st.builds(
                ConfigResolved,
                config=st.fixed_dictionaries(
                    {"lr": st.one_of(st.floats(0, 1), words, st.none()), "n": st.just({"x": [1, True], "y": {}})}
                ),
                digest=st.just(""),
            ),
            st.builds(ReplayCompared, original=words, replay=words, verdict=st.sampled_from(["identical", "diverged"])),
            st.just(ParametersFingerprinted(step=1, parameters="")),
            st.sampled_from(["plugin.happened", "run.vanished", METRICS, "run.completed"]),
        ),
        st.sampled_from([None, None, 0, 1]),
    ),
    max_size=14,
)


def drafts(of: Facts, *, attempts: bool) -> list[Draft]:
    """``attempts`` as writers tell them, or not at all. A type alone stands for one that only the future can read."""
    found, attempt = [], 1
    for fact, rank in of:
        attempt = max(attempt, getattr(fact, "attempt", 1) if not isinstance(fact, CheckpointWritten) else 1)
        metadata = Metadata("test", "testhost", 1, "0", rank=rank, attempt=attempt if attempts else None)
        if isinstance(fact, str):
            found.append(Draft(new_id(), fact, 99, b'{"what":"ever"}', metadata))
        else:
            found.append(CODEC.draft(fact, metadata))
    return found


def told(summary: RunSummary) -> dict[str, str]:
    """Without what depends on the clock; in words, since NaN is not equal to itself."""
    timeless = replace(summary, started_at="", ended_at="" if summary.ended_at else None, opened=0)
    return {name: repr(value) for name, value in asdict(timeless).items()}


def picture(store: EventStore, stream: str) -> Any:
    projections = store.projections
    this = Comparison(FIELDS["id"], "=", stream.removeprefix("run-"))
    asked = (Metric("val/loss", "highest"), Metric("acc"), Config("lr"), Config("n.x"), Config("n.y"), FIELDS["step"])
    runs = projections.runs(RunQuery(where=this, living=frozenset([stream]), asked=asked))
    metrics = {name: repr(each) for name, each in projections.metrics([stream])[stream].items()}
    found = [match[2:] for match in projections.checkpoints(["dddddddd", "f" * 64]) if match.stream == stream]
    read = [
        commit
        for commit in ("s3://a", "s3://b", "s3://Ä", "c1", "c2", "c1c1", "a")
        if projections.runs(RunQuery(where=And((this, Comparison(FIELDS["data"], "=", commit)))))
    ]
    unended = [run[1:] for run in projections.unended() if run.stream == stream]
    return [told(run) for run in runs], metrics, found, read, unended, stream in projections.run_names()


@settings(max_examples=40, deadline=None)
@given(facts, st.booleans(), st.booleans(), st.lists(st.integers(1, 5), max_size=8))
def test_every_store_keeps_the_same_and_a_rebuild_brings_it_back(
    stores: list[EventStore], of: Facts, begun: bool, attempts: bool, sizes: list[int]
) -> None:
    stream = run_stream(new_id())
    written = drafts([(run_started(tags=("t",), segment=(6.0, None)), None), *of] if begun else of, attempts=attempts)
    pictures = []
    for store in stores:
        left = list(written)
        for size in [*sizes, len(left)]:
            store.append(stream, left[:size])
            left = left[size:]
        pictures.append(picture(store, stream))
        assert list(store.differences()) == []
        assert store.rebuild() == {}
        if isinstance(store, SqlStore):
            with store._database.writing() as connection:
                rebuild(connection)
            pictures.append(picture(store, stream))
    assert pictures[1:] == [pictures[0]] * 4
    assert pictures[0][-1] == begun


@settings(max_examples=100, deadline=None)
@given(facts, st.booleans())
def test_they_say_what_the_run_itself_says(stores: list[EventStore], of: Facts, attempts: bool) -> None:
    store, stream, numbers = stores[0], run_stream(new_id()), count(2)
    ascending: Facts = [
        (fact.model_copy(update={"attempt": next(numbers)}) if isinstance(fact, TrainingResumed) else fact, rank)
        for fact, rank in of
    ]
    store.append(stream, drafts([(run_started(tags=("t",)), None), *ascending], attempts=attempts))
    state = fold(event for event in store.read(stream) if not isinstance(event.event, UnknownEvent))
    (summary,) = (run for run in store.projections.runs(RunQuery(living=frozenset([stream]))) if run.stream == stream)
    measured = store.projections.metrics([stream])[stream]
    assert repr({name: each.last for name, each in measured.items()}) == repr(
        {name: value + 0.0 for name, value in sorted(state.last_metrics.items())}
    )
    for name, each in measured.items():
        series = state.series(name)
        real = [value for value in series.value if not math.isnan(value)]
        assert each.points == len(series)
        assert each.last_step == series.step[-1]
        if real:
            assert (each.lowest, each.highest) == (min(real), max(real))
    assert summary.reached == state.last_step
    assert (summary.status, summary.attempts) == (state.status, state.attempt.number)
    assert summary.tags == tuple(tag.replace("\0", "\ufffd") for tag in state.tags)
    assert summary.ended_at == state.attempt.ended_at


# --- what a store does with them -------------------------------------------------------------------------------


def begin(store: EventStore, *events: Event, **changes: Any) -> str:
    stream = run_stream(new_id())
    store.append(stream, drafts([(run_started(**changes), None), *((event, None) for event in events)], attempts=True))
    return stream


def test_points_that_a_resumed_run_takes_back_no_longer_count(store: EventStore) -> None:
    stream = begin(store, logged({n: {"loss": float(10 - n)} for n in range(1, 9)}))
    lowest = store.projections.metrics([stream])[stream]["loss"]
    assert (lowest.lowest, lowest.lowest_step, lowest.points) == (2.0, 8, 8)
    store.append(stream, drafts([(resumed(2, 4), None)], attempts=True))
    lowest = store.projections.metrics([stream])[stream]["loss"]
    assert (lowest.lowest, lowest.last_step, lowest.points) == (6.0, 4, 4)
    (summary,) = store.projections.runs(RunQuery())
    assert summary.step == 4


def test_only_the_leading_rank_counts(store: EventStore) -> None:
    stream = run_stream(new_id())
    both = [(run_started(), None), (logged({1: {"a": 1.0, "b": 1.0}}), 1), (logged({1: {"a": 5.0}}), 0)]
    store.append(stream, drafts(both, attempts=True))
    assert {name: each.last for name, each in store.projections.metrics([stream])[stream].items()} == {"a": 5.0}


def test_a_run_whose_writer_does_not_live_is_interrupted(store: EventStore) -> None:
    dead, alive, done = begin(store), begin(store), begin(store, RunCompleted(step=1))
    assert {run.stream for run in store.projections.unended()} == {dead, alive}
    store.renew_lease(alive, "me", 1, 60)
    leases = {run.stream: run.lease for run in store.projections.unended()}
    assert leases[dead] is None
    assert 0 < (leases[alive] or 0) <= 60
    for status, expected in (("interrupted", [dead]), ("running", [alive]), ("completed", [done])):
        where = Comparison(FIELDS["status"], "=", status)
        found = store.projections.runs(RunQuery(where=where, living=frozenset([alive])))
        assert [(run.stream, run.status) for run in found] == [(each, status) for each in expected]


def test_without_an_order_a_limit_keeps_the_latest(store: EventStore) -> None:
    streams = [begin(store, logged({1: {"loss": float(n % 3)}})) for n in range(6)]
    latest = store.projections.runs(RunQuery(limit=2))
    assert [run.stream for run in latest] == streams[-2:]
    lowest = store.projections.runs(RunQuery(order=Order(Metric("loss")), limit=3))
    assert [run.stream for run in lowest] == [streams[0], streams[3], streams[1]]


def test_runs_without_a_value_or_with_nan_are_last_in_both_directions(store: EventStore) -> None:
    low, nan, none, high = (
        begin(store, *([logged({1: {"loss": value}})] if value is not None else []))
        for value in (1.0, math.nan, None, 2.0)
    )
    for descending, expected in ((False, [low, high, nan, none]), (True, [high, low, nan, none])):
        found = store.projections.runs(RunQuery(order=Order(Metric("loss"), descending), asked=(Metric("loss"),)))
        assert [run.stream for run in found] == expected
        assert [run.asked for run in found][2:] == [(None,), (None,)]


def test_a_replay_is_listed_with_the_name_of_its_original(store: EventStore) -> None:
    original = begin(store, name="run-1")
    replay = begin(store, name="run-2", kind="replay", replay_of=original.removeprefix("run-"))
    lost = begin(store, name="run-3", kind="replay", replay_of="0190ffff")
    assert [run.original for run in store.projections.runs(RunQuery())] == [None, "run-1", None]
    for said in ("run-1", original.removeprefix("run-")):
        of = Comparison(FIELDS["replay_of"], "=", said)
        assert [run.stream for run in store.projections.runs(RunQuery(where=of))] == [replay]
    none = Comparison(FIELDS["replay_of"], "!=", "run-1")
    assert [run.stream for run in store.projections.runs(RunQuery(where=none))] == [original, lost]


def test_a_model_is_found_by_its_digest_or_that_of_one_of_its_files(store: EventStore) -> None:
    original = begin(store, checkpoint(5, "d" * 64, file="e" * 64), name="run-1")
    begin(store, checkpoint(5, "d" * 64, file="e" * 64), name="run-2", replay_of=original.removeprefix("run-"))
    late = begin(store, checkpoint(6, "a" * 64, file="e" * 64), deleted(6, "a" * 64), name="run-3")
    matches = store.projections.checkpoints(["D" * 12])
    assert [(match.run, match.file) for match in matches] == [("run-1", None), ("run-2", None)]
    matches = store.projections.checkpoints(["e" * 64, "d" * 64])
    assert [(match.run, match.file) for match in matches] == [("run-1", None), ("run-3", "a"), ("run-2", None)]
    (recorded,) = store.read_all(after=matches[1].position - 1, limit=1)
    found = origin(matches[1], recorded)
    assert (found.run_id, found.checkpoint.step if found.checkpoint else 0) == (late.removeprefix("run-"), 6)
    assert store.projections.checkpoints(["d" * 63 + "e"]) == []
    assert store.projections.checkpoints([]) == []


def test_a_payload_that_nobody_can_read_is_kept_and_looked_over(store: EventStore) -> None:
    stream = begin(store, logged({1: {"loss": 1.0}}))
    metadata = Metadata("test", "testhost", 1, "0", attempt=1)
    for kind in (METRICS, "run.completed"):
        for payload in (b"{}", b"[]", b'{"step":1,"time":2,"values":3}'):
            store.append(stream, [Draft(new_id(), kind, 1, payload, metadata)])
    assert store.rebuild() == {}
    assert store.projections.metrics([stream])[stream]["loss"].points == 1
    assert store.head(stream)[0] == 7


def test_a_rebuild_tells_how_far_it_is(store: EventStore) -> None:
    for _ in range(3):
        begin(store, RunCompleted(step=1))
    heard: list[tuple[int, int]] = []
    store.rebuild(lambda done, total: heard.append((done, total)))
    assert heard[-1] == (6, 6)
    assert len(store.projections.runs(RunQuery())) == 3


CHANGES = {
    "UPDATE run_summary SET status = 'running'": ("run_summary", (), "status"),
    "UPDATE run_metric SET lowest = 0.25 WHERE name = 'loss'": ("run_metric", ("loss",), "lowest"),
    "UPDATE run_config SET number = 1e30 WHERE path = 'a.lr'": ("run_config", ("a.lr",), "number"),
    "UPDATE run_checkpoint SET uri = 'file:///elsewhere'": ("run_checkpoint", (6,), "uri"),
    "UPDATE run_checkpoint_file SET digest = 'x' WHERE path = 'a'": ("run_checkpoint_file", (6, "a"), "digest"),
    "DELETE FROM run_data": ("run_data", ("corpus",), None),
    "DELETE FROM run_summary": ("run_summary", (), None),
    "INSERT INTO run_tag VALUES ('run-zzz', 'best')": ("run_tag", ("best",), None),
    "INSERT INTO run_tag VALUES ('', 'best')": ("run_tag", ("best",), None),
    "INSERT INTO run_checkpoint_file VALUES (77, 'a', 'x')": ("run_checkpoint_file", (77, "a"), None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_was_changed_is_found_and_folded_again(
    request: pytest.FixtureRequest, tmp_path: Any, change: str
) -> None:
    of = (
        ConfigResolved(config={"a": {"lr": 0.5}}, digest=""),
        data("corpus", "c1"),
        logged({1: {"loss": 2.0, "acc": math.nan}}),
        checkpoint(1),
        RunCompleted(step=1),
    )
    for url in (f"sqlite:///{tmp_path}/ledger.db", request.getfixturevalue("pg_url")):
        with closing(SqlStore(url, CODEC)) as store:
            append_other(store)
            stream = begin(store, *of, tags=("t",))
            before = picture(store, stream)
            with store._database.writing() as connection:
                connection.exec_driver_sql(change)
            [found] = store.differences()
            table, row, column = CHANGES[change]
            assert (found.table, found.row) == (table, row)
            assert found.stream in (stream, "run-zzz", "", None)
            if column:
                assert found.held is not None
                assert found.folded is not None
                assert [name for name, value in found.folded.items() if found.held[name] != value] == [column]
            assert store.rebuild() == {table: 1}
            assert picture(store, stream) == before
            assert store.rebuild() == {}


def append_other(store: EventStore) -> None:
    """A stream that is no run's, though there is something of a run in it."""
    store.append("plugin", drafts([(RunAnnotated(text=""), None)], attempts=True))


def test_many_runs_are_compared_part_by_part(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_STREAMS", 3)
    with closing(SqlStore(f"sqlite:///{tmp_path}/ledger.db", CODEC)) as store:
        streams = sorted(begin(store, logged({1: {"loss": 2.0}})) for _ in range(9))
        heard: list[tuple[int, int]] = []
        assert list(store.differences(lambda done, total: heard.append((done, total)))) == []
        assert heard == [(6, 18), (12, 18), (18, 18), (18, 18)]
        with store._database.writing() as connection:
            connection.exec_driver_sql("UPDATE run_metric SET last = 3")
        assert [(found.table, found.stream) for found in store.differences()] == [("run_metric", s) for s in streams]
        assert store.rebuild() == {"run_metric": 9}
        assert list(store.differences()) == []


# --- questions --------------------------------------------------------------------------------------------------

ODD = ["a", "A", "ä", "50%", "5_", "[x]", "?", "*", "\\", "a*b", "", "1", "line\nbreak"]
texts = st.sampled_from(ODD)
patterns = st.one_of(
    texts, st.lists(st.sampled_from(["*", "a", "A", "%", "_", "[", "]", "?", "\\"]), max_size=4).map("".join)
)
numbers = st.sampled_from([-math.inf, -1.0, 0.0, 1.0, 2.0, 2.5, 64.0, 1e-3, math.inf])
orders = ["=", "!=", "<", "<=", ">", ">="]
metrics = st.builds(
    Metric, st.sampled_from(["val/loss", "odd", "none"]), st.sampled_from(["last", "lowest", "highest"])
)
configs = st.builds(Config, st.sampled_from(["optim.lr", "optim.name", "batch.size", "none", "mixed"]))
text_fields = st.sampled_from([field for field in FIELDS.values() if field.kind in ("text", "texts", "time")])
number_fields = st.sampled_from([field for field in FIELDS.values() if field.kind == "number"])
comparisons = st.one_of(
    st.builds(Comparison, st.one_of(metrics, configs, number_fields), st.sampled_from(orders), numbers),
    st.builds(Comparison, st.one_of(configs, text_fields), st.sampled_from(orders), texts),
    st.builds(Comparison, st.one_of(configs, text_fields), st.sampled_from(["~", "!~"]), patterns),
)
conditions: st.SearchStrategy[Condition] = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)
sortable = st.one_of(metrics, configs, st.sampled_from([field for field in FIELDS.values() if field.kind != "texts"]))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, pg_server: postgres.Server) -> Iterator[list[EventStore]]:
    """The same 60 runs in each, some of them odd."""
    path = tmp_path_factory.mktemp("full") / "ledger.db"
    ids = [new_id() for _ in range(40)]
    with ExitStack() as stack:
        database = stack.enter_context(contextmanager(postgres.databases)(pg_server))
        urls = ("memory:", f"sqlite:///{path}", database)
        stores = [stack.enter_context(closing(open_store(url, CODEC))) for url in urls]
        for store in stores:
            fill(store, 20)
            for number, run in enumerate(ids):
                odd = ODD[number % len(ODD)]
                mixed = [odd, 2.5, True, None, [1]][number % 5]
                tags, part = ((odd, "t"), (None, 3.5)) if number % 2 else ((), None)
                of: Facts = [
                    (run_started(name=odd, user=odd, tags=tags, replay_of=ids[0], segment=part), None),
                    (ConfigResolved(config={"mixed": mixed}, digest=""), None),
                    (data(odd, odd), None),
                    (logged({1: {"odd": [math.nan, math.inf, 1.0, 2.0][number % 4]}}), None),
                ]
                store.append(run_stream(run), drafts(of[: 1 + number % 4], attempts=True))
        yield stores


@settings(max_examples=200, deadline=None)
@given(st.none() | conditions, st.none() | st.builds(Order, sortable, st.booleans()), st.none() | st.integers(1, 9))
def test_every_store_understands_a_question_in_the_same_way(
    full: list[EventStore], where: Condition | None, order: Order | None, limit: int | None
) -> None:
    living = frozenset(list(full[0].projections.run_names())[-30:])
    query = RunQuery(where, order, limit, living, (Metric("odd"), Config("mixed")))
    expected, *others = ([told(run) for run in store.projections.runs(query)] for store in full)
    assert others == [expected] * 2


def test_a_value_never_becomes_part_of_the_sql(full: list[EventStore]) -> None:
    evil = "x' OR '1'='1"
    for store in full:
        for field in FIELDS.values():
            if field.kind != "number":
                for op in ("=", "~"):
                    assert store.projections.runs(RunQuery(where=Comparison(field, op, evil))) == []  # type: ignore[arg-type]
        assert store.projections.find(evil) == (frozenset(), {})
        assert store.projections.runs(RunQuery(where=Comparison(Config(evil), "=", evil))) == []
        assert len(store.projections.runs(RunQuery(order=Order(Metric(evil))))) == 60
