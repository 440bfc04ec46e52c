"""The journal: what was acknowledged is there once, whatever dies, and damage is named, never misread."""

from __future__ import annotations

import fcntl
import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ledger
from ledger.book import Book
from ledger.codec import Codec, Metadata
from ledger.errors import FencedAttempt, IntegrityError, JournalMoved, StoreUnavailable, UsageError
from ledger.events import MetricsLogged, RunAnnotated, TrainingResumed
from ledger.journal.carry import carry, recover
from ledger.journal.facts import FactReader, RowWriter, fact_frame
from ledger.journal.file import MAGIC, Damage, Journal, frame, frames, sweep
from ledger.record.run import start_run
from ledger.record.writer import Writer
from ledger.store.base import run_stream
from ledger.store.memory import MemoryStore
from ledger.testing.builders import PROCESS, run_started

if TYPE_CHECKING:
    from collections.abc import Iterator

CODEC = Codec()
METADATA = Metadata("run", "testhost", 42, "0", rank=1, attempt=1)
NOTE = Metadata("ledger", "testhost", 43, "0")
STREAM = run_stream("01900000-0000-7000-8000-000000000001")

numbers = st.floats(allow_nan=True, allow_infinity=True)
steps = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
rows = st.tuples(steps, st.floats(0, 2e9), st.dictionaries(st.sampled_from("abcd"), numbers, max_size=3))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(tmp_path / "journals", STREAM, METADATA)
    yield made
    made.close()


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(CODEC)
    store.append(STREAM, [CODEC.draft(run_started(), METADATA)])
    return store


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LEDGER_")]:
        monkeypatch.delenv(name)
    return ledger.open_ledger()


def note(text: str) -> bytes:
    return fact_frame(CODEC.draft(RunAnnotated(text=text), METADATA))


def read_back(journal: Journal) -> list[Any]:
    content = journal.read(journal.begin, journal.size())
    found, damage = frames(content)
    assert damage is None
    return [CODEC.decode(d.type, d.schema_version, d.payload) for d in FactReader(journal).drafts(content, found)]


def points(facts: list[Any]) -> list[tuple[float, float, dict[str, float]]]:
    """Rows of ``metrics.logged`` facts, one by one."""
    return [
        (step, time, {name: column[n] for name, column in fact.values.items() if column[n] is not None})
        for fact in facts
        for n, (step, time) in enumerate(zip(fact.step, fact.time, strict=True))
    ]


# --- the format


@given(st.lists(rows, max_size=30))
@settings(deadline=None)
def test_rows_come_back_as_they_were_given(tmp_path_factory: pytest.TempPathFactory, given_rows: list[Any]) -> None:
    journal = Journal.create(tmp_path_factory.mktemp("j"), STREAM, METADATA)
    writer = RowWriter(journal)
    for row in given_rows:
        writer.add(*row)
    # As text: NaN equals nothing, and -0.0 equals 0.0.
    plain = [(step, time, sorted(values.items())) for step, time, values in points(read_back(journal))]
    assert repr(plain) == repr([(step, time, sorted(values.items())) for step, time, values in given_rows])
    journal.remove()


def test_facts_keep_their_order_among_rows(journal: Journal) -> None:
    writer = RowWriter(journal)
    writer.add(1, 1.0, {"a": 1.0})
    journal.add(note("first") + note("second"))
    writer.add(2, 2.0, {"a": 2.0})
    writer.add(3, 3.0, {"b": 3.0})
    read = read_back(journal)
    assert [type(fact).__name__ for fact in read] == ["MetricsLogged", "RunAnnotated", "RunAnnotated", "MetricsLogged"]
    assert read[3] == MetricsLogged(step=(2, 3), time=(2.0, 3.0), values={"a": (2.0, None), "b": (None, 3.0)})


def test_a_row_is_written_as_the_codec_would_write_it(journal: Journal) -> None:
    writer = RowWriter(journal)
    for step, value in enumerate((1.5, math.nan, math.inf, -math.inf, 1e308, 1e308, -0.0, 5e-324)):
        writer.add(step, 1e9 + step, {"a": value, "ü/\"'\u2028": 0.1})
    content = journal.read(journal.begin, journal.size())
    [draft] = FactReader(journal).drafts(content, frames(content)[0])
    event = CODEC.decode(draft.type, draft.schema_version, draft.payload)
    assert isinstance(event, MetricsLogged)
    assert draft.payload == CODEC.draft(event, METADATA).payload


def test_long_series_become_facts_of_bounded_size(journal: Journal) -> None:
    writer = RowWriter(journal)
    for step in range(25_000):
        writer.add(step, 1.0, {"a": float(step)} if step % 7 else {"b": float(step)})
    read = read_back(journal)
    assert max(len(fact.step) for fact in read) <= 10_000
    assert [row[0] for row in points(read)] == list(range(25_000))


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_a_journal_cut_anywhere_keeps_what_was_whole(bodies: list[bytes], data: st.DataObject) -> None:
    content = b"".join(frame(7, body) for body in bodies)
    cut = data.draw(st.integers(0, len(content)))
    found, damage = frames(content[:cut])
    ends = [f.end for f in frames(content)[0]]
    assert [f.end for f in found] == [end for end in ends if end <= cut]
    assert (damage is None) == (cut in (0, *ends))
    assert damage is None or damage.torn


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6), st.data())
def test_one_flipped_bit_anywhere_is_seen_as_damage(bodies: list[bytes], data: st.DataObject) -> None:
    content = bytearray(b"".join(frame(7, body) for body in bodies))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    ends = [f.end for f in frames(bytes(content))[0]]
    content[bit // 8] ^= 1 << bit % 8
    found, damage = frames(bytes(content))
    first = next(n for n, end in enumerate(ends) if bit // 8 < end)
    assert [f.end for f in found] == ends[:first]
    assert damage == Damage(ends[first - 1] if first else 0, torn=False)


def test_blocks_that_never_reached_the_disk_are_a_torn_end() -> None:
    whole = frame(7, b"x" * 100)
    assert frames(whole + b"\0" * 4096) == (frames(whole)[0], Damage(len(whole), torn=True))


def test_a_journal_has_one_holder(journal: Journal) -> None:
    assert Journal.take(journal.path) is None
    journal.close()
    taken = Journal.take(journal.path)
    assert taken is not None
    assert (taken.header, taken.begin) == (journal.header, journal.begin)
    assert Journal.take(journal.path) is None
    taken.remove()
    assert Journal.take(journal.path) is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no journal"),
        (b"something else altogether", "is no journal"),
        (MAGIC + b"\x01\x00", "is no journal"),
        (MAGIC + frame(0, orjson.dumps({"format": 9})), "newer version"),
    ],
)
def test_what_is_no_journal_is_said_to_be_none(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.journal"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=told):
        Journal.take(path)
    assert path.read_bytes() == content


def test_a_journal_under_another_name_is_not_taken_over(journal: Journal, store: MemoryStore) -> None:
    journal.add(note("mine"))
    journal.close()
    other = journal.path.with_name("other.journal")
    journal.path.rename(other)
    [recovered] = recover(other.parent, store, CODEC, NOTE)
    assert "under another name" in (recovered.trouble or "")
    assert other.exists()
    assert store.head(STREAM)[0] == 0


# --- into the log


def carried(journal: Journal, store: MemoryStore, *, start: int = 0) -> tuple[int, Damage | None]:
    return carry(journal, lambda some, span: store.append(STREAM, some, span=span), start=start, end=journal.size())


def test_what_was_carried_is_carried_once_whoever_does_it(journal: Journal, store: MemoryStore) -> None:
    journal.add(note("a"))
    first, _ = carried(journal, store)
    journal.add(note("b"))
    # Somebody who does not know how far the log is begins at the beginning.
    assert carried(journal, store, start=first) == (journal.size(), None)
    assert carried(journal, store) == (journal.size(), None)
    assert [r.event.text for r in store.read(STREAM, after=0)] == ["a", "b"]  # type: ignore[union-attr]


def test_a_log_that_was_set_back_is_not_guessed_about(journal: Journal, store: MemoryStore) -> None:
    journal.add(note("a"))
    position, _ = carried(journal, store)
    journal.add(note("b"))
    older = MemoryStore(CODEC)
    with pytest.raises(JournalMoved):
        carried(journal, older, start=position)


def test_a_fact_larger_than_the_window_is_carried(journal: Journal, store: MemoryStore) -> None:
    journal.add(note("x" * (9 << 20)))
    journal.add(note("y"))
    assert carried(journal, store) == (journal.size(), None)
    assert [len(r.event.text) for r in store.read(STREAM, after=0)] == [9 << 20, 1]  # type: ignore[union-attr]


def test_a_dead_writers_journal_is_taken_over_and_gone(journal: Journal, store: MemoryStore) -> None:
    RowWriter(journal).add(1, 1.0, {"a": 1.0})
    journal.add(note("last words"))
    os.truncate(journal.path, journal.size() - 3)
    assert recover(journal.path.parent, store, CODEC, NOTE) == []  # it lives
    journal.close()
    [recovered] = recover(journal.path.parent, store, CODEC, NOTE)
    assert (recovered.stream, recovered.events, recovered.trouble) == (STREAM, 1, None)
    assert [r.type for r in store.read(STREAM)] == ["run.started", "metrics.logged"]
    assert list(store.read(STREAM))[1].metadata == METADATA
    assert recover(journal.path.parent, store, CODEC, NOTE) == []


def test_what_a_killed_creator_left_is_removed_once_nobody_holds_it(journal: Journal, store: MemoryStore) -> None:
    left, held = (journal.path.with_name(f"{name}.new") for name in ("left", "held"))
    left.write_bytes(MAGIC)
    with held.open("wb") as creator:
        fcntl.flock(creator, fcntl.LOCK_EX)
        assert recover(journal.path.parent, store, CODEC, NOTE) == []
        assert (left.exists(), held.exists()) == (False, True)
    assert recover(journal.path.parent, store, CODEC, NOTE) == []
    assert not held.exists()
    assert journal.path.exists()


def test_a_journal_swept_away_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, swept = fcntl.flock, []

    def late(fd: int, operation: int) -> None:
        if not swept and operation == fcntl.LOCK_EX:
            swept.extend(tmp_path.glob("*.new"))
            sweep(tmp_path)
        locked(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with closing(Journal.create(tmp_path, STREAM, METADATA)) as journal:
        assert len(swept) == 1
        assert list(tmp_path.iterdir()) == [journal.path]


def test_the_journal_of_a_run_of_another_log_is_left_alone(journal: Journal) -> None:
    journal.add(note("a"))
    journal.close()
    assert recover(journal.path.parent, MemoryStore(CODEC), CODEC, NOTE) == []
    assert journal.path.exists()


@pytest.mark.parametrize("where", ["in the log already", "not in the log yet"])
def test_damage_is_named_and_the_file_kept(journal: Journal, store: MemoryStore, where: str) -> None:
    journal.add(note("one"))
    middle = journal.size()
    if where == "in the log already":
        carried(journal, store)
    journal.add(note("two"))
    journal.close()
    content = bytearray(journal.path.read_bytes())
    content[journal.begin + 30] ^= 4
    journal.path.write_bytes(content)
    [recovered] = recover(journal.path.parent, store, CODEC, NOTE)
    assert f"damaged at byte {journal.begin} of {len(content)}" in (recovered.trouble or "")
    assert journal.path.with_suffix(".damaged").read_bytes() == content
    told = [r.event.text for r in store.read(STREAM, after=0)]  # type: ignore[union-attr]
    kept = ["one", "two"] if where == "in the log already" else []
    assert told == [*kept, recovered.trouble]
    assert middle > journal.begin


def test_damaged_names_of_metrics_are_damage(journal: Journal, store: MemoryStore) -> None:
    writer = RowWriter(journal)
    writer.add(1, 1.0, {"a": 1.0})
    position, _ = carried(journal, store)
    writer.add(2, 2.0, {"a": 2.0})
    journal.close()
    content = bytearray(journal.path.read_bytes())
    content[journal.begin + 18] ^= 1
    journal.path.write_bytes(content)
    [recovered] = recover(journal.path.parent, store, CODEC, NOTE)
    assert "damaged" in (recovered.trouble or "")
    assert position == store.journal_position(journal.header.journal)
    assert journal.path.with_suffix(".damaged").exists()


# --- the writer


def killed_run(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "die.py"
    script.write_text("import ledger, os, sys, time\nrun = ledger.start_run()\n" + textwrap.dedent(body))
    return subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)


def test_what_was_logged_survives_sigkill_at_any_rate(book: Book, tmp_path: Path) -> None:
    died = killed_run(tmp_path, "for n in range(3000): run.log({'a': n, 'b': -n}, step=n)\nos.kill(os.getpid(), 9)")
    assert died.returncode == -signal.SIGKILL
    with ledger.open_ledger() as later:
        assert [r.events for r in later.recovered] == [1]
        state = later.run("latest")
    assert state.status == "interrupted"
    assert state.series("a").step == tuple(range(3000))
    assert state.series("b").value == tuple(-float(n) for n in range(3000))
    assert list(book.settings.journals.iterdir()) == []


def test_a_forked_child_logs_to_a_journal_of_its_own(book: Book, tmp_path: Path) -> None:
    died = killed_run(
        tmp_path,
        """
        run.log({"a": 1.0}, step=1)
        if os.fork() == 0:
            run.log({"child": 2.0}, step=2)
            os.kill(os.getpid(), 9)
        os.wait()
        run.log({"a": 3.0}, step=3)
        run.finish()
        """,
    )
    assert died.returncode == 0, died.stderr
    state = book.run("latest")
    assert state.status == "completed"
    assert state.series("a").step == (1, 3)
    assert state.series("child").value == (2.0,)


def test_a_forked_child_does_not_end_the_run(book: Book, tmp_path: Path) -> None:
    died = killed_run(
        tmp_path,
        """
        run.log({"a": 1.0}, step=1)
        if os.fork() == 0:
            with run:
                run.log({"a": 2.0}, step=2)
            sys.exit(0)
        os.wait()
        time.sleep(0.1)
        run.log({"a": 3.0}, step=3)
        os.kill(os.getpid(), 9)
        """,
    )
    assert died.returncode == -9, died.stderr
    book.recover()
    state = book.run("latest")
    assert (state.status, state.ended) == ("interrupted", None)
    assert sorted(state.series("a").step) == [1, 2, 3]


def test_a_log_out_of_reach_costs_neither_the_training_nor_a_fact(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_run(book=book)

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(book.store, "append", away)
        run.log({"a": 1}, step=1)
        with pytest.warns(RuntimeWarning, match="wait in the journal, training goes on: the database went away"):
            run.annotate("first")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            run.annotate("second")
            run.log({"a": 2}, step=2)
        with pytest.raises(StoreUnavailable):
            run.flush()
    run.log({"a": 3}, step=3)
    run.finish()
    state = book.run(run.id)
    assert state.series("a").step == (1, 2, 3)
    assert [n.text for n in state.notes] == ["first", "second"]
    assert state.status == "completed"
    assert list(book.settings.journals.iterdir()) == []


def test_metrics_wait_in_memory_while_the_disk_is_full(book: Book, tmp_path: Path) -> None:
    died = killed_run(
        tmp_path,
        """
        import resource, signal, warnings
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        run.log({"a": 0.0}, step=0)
        [journal] = (p for p in os.scandir(".ledger/scratch/journals"))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 100, limits[1]))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for n in range(1, 50):
                run.log({"a": float(n)}, step=n)
        assert "wait in memory only" in str(said[0].message), said
        try:
            run.annotate("a durable fact needs the disk")
        except ledger.LedgerError as error:
            assert "cannot be written" in str(error)
        else:
            raise AssertionError("it was acknowledged")
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        run.log({"a": 50.0}, step=50)
        os.kill(os.getpid(), 9)
        """,
    )
    assert died.returncode == -9, died.stderr
    book.recover()
    assert book.run("latest").series("a").step == tuple(range(51))


def test_a_fenced_attempt_is_refused_and_remarked(book: Book) -> None:
    run = start_run(book=book)
    run.log({"a": 1}, step=1)
    run.flush()
    book.append(run.id, TrainingResumed(attempt=2, step=None, checkpoint=None, uri=None, process=PROCESS), attempt=2)
    run.log({"a": 2}, step=2)
    with pytest.raises(FencedAttempt):
        run.flush()
    for refused in (lambda: run.log({"a": 3}), lambda: run.annotate("late"), run.flush):
        with pytest.raises(FencedAttempt):
            refused()
    [remark] = book.run(run.id).notes
    assert "attempt 1 went on after attempt 2 had taken over: 1 facts" in remark.text
    [kept] = book.settings.journals.iterdir()
    assert kept.suffix == ".fenced"
    with pytest.raises(FencedAttempt):
        run.finish()


def test_the_journal_of_an_attempt_that_was_overtaken_is_kept_aside(book: Book, tmp_path: Path) -> None:
    killed_run(tmp_path, "run.log({'a': 1.0}, step=1)\nos.kill(os.getpid(), 9)")
    resumed = TrainingResumed(attempt=2, step=None, checkpoint=None, uri=None, process=PROCESS)
    run_id = book.find("latest")
    book.append(run_id, resumed, attempt=2)
    book.recover()
    assert "1 facts of process" in (book.recovered[-1].trouble or "")
    assert [p.suffix for p in book.settings.journals.iterdir()] == [".fenced"]
    assert len(book.run(run_id).notes) == 1


def test_a_journal_that_has_grown_long_is_replaced(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.record.writer._LARGE", 10_000)
    run = start_run(book=book)
    seen = set()
    for step in range(2_000):
        run.log({"a": float(step)}, step=step)
        if step % 250 == 0:
            run.flush()
            seen |= set(book.settings.journals.iterdir())
    assert len(seen) > 3
    run.finish()
    assert book.run(run.id).series("a").step == tuple(range(2_000))
    assert list(book.settings.journals.iterdir()) == []


def test_many_threads_lose_nothing(book: Book) -> None:
    run = start_run(book=book)

    def work(thread: int) -> None:
        for n in range(500):
            run.log({f"t{thread}": float(n)}, step=n)
            if n % 100 == 0:
                run.annotate(f"{thread}/{n}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.finish()
    state = book.run(run.id)
    assert all(state.series(f"t{n}").step == tuple(range(500)) for n in range(8))
    assert len(state.notes) == 40


def test_a_signal_handler_may_log_in_the_middle_of_a_log(book: Book) -> None:
    run = start_run(book=book)
    before = signal.signal(signal.SIGALRM, lambda *_: run.log({"alarm": 1.0}, step=0))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        end = time.monotonic() + 0.5
        step = 0
        while time.monotonic() < end:
            run.log({"a": float(step)}, step=step)
            step += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    run.finish()
    assert book.run(run.id).series("a").step == tuple(range(step))


@pytest.mark.parametrize("fact", [False, True])
@pytest.mark.parametrize("where", ["fsync", "fstat"])
def test_a_signal_handler_may_log_while_the_journal_is_made(
    book: Book, monkeypatch: pytest.MonkeyPatch, where: str, fact: bool
) -> None:
    """However slow the disk: a handler that is due again before each fsync returns."""
    run = start_run(book=book)
    calls = iter(range(50))
    real = getattr(os, where)

    def interrupted(fd: int) -> object:
        result = real(fd)
        if threading.current_thread() is threading.main_thread() and next(calls, None) is not None:
            signal.raise_signal(signal.SIGALRM)
        return result

    def handler(*_: object) -> None:
        if fact and not noted:
            noted.append(1)
            run.annotate("from the handler")
        run.log({"alarm": 1.0}, step=next(alarms))

    noted: list[int] = []
    alarms = itertools.count()
    before = signal.signal(signal.SIGALRM, handler)
    monkeypatch.setattr(os, where, interrupted)
    try:
        for step in range(20):
            run.log({f"a{step % 3}": float(step)}, step=step)
    finally:
        signal.signal(signal.SIGALRM, before)
    run.finish()
    state = book.run(run.id)
    assert sorted(step for n in range(3) for step in state.series(f"a{n}").step) == list(range(20))
    assert sorted(state.series("alarm").step) == list(range(next(alarms)))
    assert len(state.notes) == (1 if fact else 0)
    assert not list(book.settings.journals.iterdir())


def test_what_cannot_be_a_metric_is_refused_before_it_is_written(book: Book) -> None:
    with start_run(book=book) as run:
        for wrong, step in ((({"a": 1.0}), 2**63), ({3: 1.0}, 1), ({"\ud800": 1.0}, 1)):
            with pytest.raises(UsageError):
                run.log(wrong, step=step)  # type: ignore[arg-type]
        run.log({"a": 1.0}, step=1)
    assert book.run(run.id).series("a").step == (1,)


def test_a_writer_that_is_closed_leaves_no_thread_and_no_file(book: Book) -> None:
    run = start_run(book=book)
    writer = Writer(book, run.id, attempt=1)
    writer.append(RunAnnotated(text="a"))
    writer.close()
    writer.close()
    with pytest.raises(UsageError):
        writer.log(1, {"a": 1.0})
    run.finish()
