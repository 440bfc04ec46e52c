from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ledger.codec import Codec
from ledger.errors import (
    IntegrityError,
    StoreUnavailable,
    UsageError,
)
from ledger.store import open_store
from ledger.store.base import EventStore
from ledger.store.head import Head
from ledger.store.memory import MemoryStore
from ledger.store.sql import SqlStore
from ledger.testing.stores import BaseEventStoreTests, chained, draft, stream
from tests.core.sql_stores import SqlStoreTests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.codec import Draft


class TestMemoryStore(BaseEventStoreTests):
    @pytest.fixture
    def store(self) -> Iterator[EventStore]:
        with closing(MemoryStore(Codec())) as store:
            yield store

    @contextmanager
    def late_append(self, store: EventStore, stream: str, drafts: list[Draft]) -> Iterator[None]:
        assert isinstance(store, MemoryStore)
        with store._changed:
            store.append(stream, drafts)
            yield


class TestSqlStore(SqlStoreTests):
    @pytest.fixture
    def store(self, url: str) -> Iterator[EventStore]:
        with closing(SqlStore(url, Codec())) as store:
            yield store

    @pytest.fixture
    def new_url(self, url: str) -> str:
        return url


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a dir?with #%20" / "ledger.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(url, Codec())) as store:
        yield store


# --- opening


def test_a_url_opens_the_store_behind_it(url: str) -> None:
    assert isinstance(open_store("memory:", Codec()), MemoryStore)
    with closing(open_store(url, Codec())) as store:
        assert isinstance(store, SqlStore)


@pytest.mark.parametrize(
    "url", ["nosuch:///x", "ledger.db", "sqlite:", "sqlite://", "sqlite:///", "sqlite:///:memory:"]
)
def test_a_url_that_names_no_log_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_store(url, Codec())
    assert refused.value.mend


def test_a_refused_url_keeps_its_password_to_itself() -> None:
    with pytest.raises(UsageError) as refused:
        open_store("oracle://user:hunter2@host/db", Codec())
    assert "hunter2" not in str(refused.value) + str(refused.value.mend)


def test_a_log_in_memory_needs_no_sqlalchemy() -> None:
    _python(
        "from ledger.codec import Codec; from ledger.store import open_store; open_store('memory:', Codec());"
        "import sys; assert not {'sqlalchemy', 'sqlmodel', 'alembic'} & set(sys.modules)"
    )


# --- append-only


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET payload = '{}'",
        "UPDATE OR REPLACE event SET position = 1 WHERE position = 0",
        "DELETE FROM event",
        "REPLACE INTO event VALUES (1, 'x', 's', 9, 't', 1, '{}', '{}', '', '', '', NULL)",
        "REPLACE INTO event SELECT NULL, event_id, 's', 9, 't', 1, '{}', '{}', '', '', '', NULL FROM event LIMIT 1",
        "REPLACE INTO event SELECT NULL, 'x', stream, position, '', 1, '', '', '', '', '', NULL FROM event LIMIT 1",
        "INSERT OR IGNORE INTO event SELECT 9, 'x', stream, position, '', 1, '', '', '', '', '', NULL FROM event",
        "INSERT INTO event SELECT 1, 'x', 's', 9, 't', 1, '', '', '', '', '', NULL FROM event WHERE true "
        "ON CONFLICT DO UPDATE SET payload = 'changed'",
    ],
)
@pytest.mark.parametrize("recursive_triggers", [True, False])
def test_the_log_cannot_be_rewritten(store: SqlStore, path: Path, statement: str, recursive_triggers: bool) -> None:
    written = store.append(stream(), [draft("a"), draft("b")])
    with closing(sqlite3.connect(path)) as outsider:
        outsider.execute(f"PRAGMA recursive_triggers={recursive_triggers}")
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            outsider.execute(statement)
        outsider.commit()
    assert list(store.read_all()) == written


def test_the_triggers_let_a_plain_insert_pass(store: SqlStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as outsider:
        outsider.execute("INSERT INTO event VALUES (NULL, 'x', 's', 0, 't', 1, '{}', '{}', '', '', '', NULL)")


def test_tables_changed_from_outside_are_told(store: SqlStore, path: Path) -> None:
    name = stream()
    written = store.append(name, [draft("a"), draft("b")])
    with closing(sqlite3.connect(path)) as outsider:
        outsider.execute("UPDATE stream_head SET version = 0")
        outsider.commit()
    with pytest.raises(IntegrityError, match="append-only") as refused:
        store.append(name, [draft("c")])
    assert refused.value.mend
    assert list(store.read_all()) == written


# --- time


def test_a_clock_that_was_set_back_does_not_turn_the_order_around() -> None:
    head = Head("s", version=0, recorded_at="2030-01-01T00:00:00.000000Z")
    links, after = head.extend([draft()], now="2029-12-31T23:59:59.000000Z")
    assert links[0].recorded_at == after.recorded_at == "2030-01-01T00:00:00.000000Z"


def test_the_last_time_is_read_back_from_the_log(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    name = stream()
    monkeypatch.setattr("ledger.store.sql.utc_now", lambda: "2999-01-01T00:00:00.000000Z")
    store.append(name, [draft()])
    monkeypatch.undo()
    assert [e.recorded_at for e in store.append(name, [draft()])] == ["2999-01-01T00:00:00.000000Z"]


# --- processes


def test_a_writer_that_is_killed_leaves_whole_appends(url: str, path: Path) -> None:
    name = stream()
    program = f"""
from ledger.codec import Codec
from ledger.store import open_store
from ledger.testing.stores import draft
store = open_store({url!r}, Codec())
while True:
    print(store.append({name!r}, [draft(str(n)) for n in range(50)])[-1].position, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(5):
            reported = int(writer.stdout.readline())
        writer.kill()
        reported = max([reported, *map(int, writer.stdout.read().split())])
    with closing(open_store(url, Codec())) as store:
        events = list(store.read(name))
        assert len(events) % 50 == 0
        assert events[-1].position >= reported
        assert chained(events)
        store.append(name, [draft()], expected_version=events[-1].position)


def _in_child(act: Callable[[], None]) -> int:
    """Fork, ``act`` in the child, and return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        except BaseException:  # noqa: BLE001 - a child must end here, whatever happened
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_has_connections_of_its_own(store: SqlStore, path: Path) -> None:
    name = stream()
    store.append(name, [draft("parent")])
    log = os.path.realpath(path)

    def act() -> None:
        inherited = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
        assert not any(os.path.realpath(f"/proc/self/fd/{fd}").startswith(log) for fd in inherited)
        for _ in range(20):
            store.append(name, [draft("child")])

    assert _in_child(act) == 0
    store.append(name, [draft("parent again")])
    events = list(store.read(name))
    assert len(events) == 22
    assert chained(events)


def test_forks_amid_appends_of_other_threads(store: SqlStore) -> None:
    own, children, stop = stream(), stream(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            store.append(own, [draft()])

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        statuses = [_in_child(lambda: _twice(store, children)) for _ in range(5)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert statuses == [0] * 5
    assert store.head(children)[0] == 9
    assert chained(list(store.read(own)))


def _twice(store: SqlStore, name: str) -> None:
    store.append(name, [draft()])
    store.append(name, [draft()])


def test_a_subscription_goes_on_across_a_fork(store: SqlStore) -> None:
    name = stream()
    events = store.subscribe(stream=name, poll=0.01)
    assert next(events) is None
    assert _in_child(lambda: _twice(store, name)) == 0
    seen = [e for e in (next(events) for _ in range(3)) if e]
    assert [e.position for e in seen] == [0, 1]


# --- cost


def test_a_subscription_that_is_caught_up_reads_no_events(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(stream(), [draft()])
    events = store.subscribe(poll=0)
    assert next(events)
    assert next(events) is None
    monkeypatch.setattr(SqlStore, "_batches", None)
    assert [next(events) for _ in range(50)] == [None] * 50


def test_a_reader_does_not_hold_the_log_between_batches(store: SqlStore, path: Path) -> None:
    store.append(stream(), [draft() for _ in range(600)])
    reader = store.read_all()
    next(reader)
    with closing(sqlite3.connect(path)) as outsider:
        busy, *_ = outsider.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0
    assert sum(1 for _ in reader) == 599


def test_the_log_is_as_durable_as_it_says(store: SqlStore) -> None:
    with store._database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


# --- what can go wrong


def _unavailable(act: Callable[[], object], *words: str) -> None:
    """``act`` fails with what, why and the mend."""
    with pytest.raises(StoreUnavailable) as refused:
        act()
    for word in words:
        assert word in str(refused.value)
    assert refused.value.mend


def test_a_file_that_is_no_database(path: Path, url: str) -> None:
    path.parent.mkdir()
    path.write_text("Dear diary, " * 100)
    _unavailable(lambda: open_store(url, Codec()), str(path), "not an SQLite database")
    assert path.read_text().startswith("Dear diary")


def test_a_directory_in_place_of_the_file(path: Path, url: str) -> None:
    path.mkdir(parents=True)
    _unavailable(lambda: open_store(url, Codec()), str(path), "is a directory")


def test_a_file_in_place_of_the_directory(path: Path, url: str) -> None:
    path.parent.write_text("")
    _unavailable(lambda: open_store(url, Codec()), str(path.parent))


def test_a_damaged_file(path: Path, url: str) -> None:
    with closing(open_store(url, Codec())) as store:
        store.append(stream(), [draft("x" * 100) for _ in range(2000)])
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (path.stat().st_size - 8192 - 4096))

    def read() -> None:
        with closing(open_store(url, Codec())) as store:
            list(store.read_all())

    _unavailable(read, str(path), "damaged")


def test_a_truncated_file(path: Path, url: str) -> None:
    with closing(open_store(url, Codec())) as store:
        store.append(stream(), [draft("x" * 100) for _ in range(2000)])
    os.truncate(path, path.stat().st_size // 2)

    def read() -> None:
        with closing(open_store(url, Codec())) as store:
            list(store.read_all())

    _unavailable(read, str(path), "damaged")


def test_a_full_disk_stores_nothing_by_halves(store: SqlStore) -> None:
    name = stream()
    before = store.append(name, [draft("before")])
    more = [draft("x" * 1000) for _ in range(500)]
    _limit_pages(store, 60)
    _unavailable(lambda: store.append(name, more), "disk is full")
    assert list(store.read_all()) == before
    assert store.head(name) == (0, before[0].digest)
    _limit_pages(store, 2**30)
    assert len(store.append(name, more)) == 500
    assert chained(list(store.read(name)))


def _limit_pages(store: SqlStore, pages: int) -> None:
    """SQLite answers as for a full disk once the file has so many pages; the pool has one connection here."""
    with store._database.reading() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")


def test_a_system_that_refuses_to_write(url: str) -> None:
    """A file-size limit is a full disk that any user can have."""
    name = stream()
    _python(
        f"""
        import resource, signal
        from ledger.codec import Codec
        from ledger.errors import StoreUnavailable
        from ledger.store import open_store
        from ledger.testing.stores import chained, draft
        store = open_store({url!r}, Codec())
        store.append({name!r}, [draft("before")])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        try:
            store.append({name!r}, [draft("x" * 1000) for _ in range(1000)])
        except StoreUnavailable as error:
            assert error.mend
        else:
            raise AssertionError("the append went through")
        assert store.head({name!r})[0] == 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.append({name!r}, [draft("x" * 1000) for _ in range(1000)])
        assert chained(list(store.read({name!r})))
        """
    )


def test_a_log_that_is_held_too_long(store: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.close()
    monkeypatch.setattr("ledger.store.sqlite.BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as outsider:
        outsider.execute("BEGIN IMMEDIATE")
        _unavailable(lambda: store.append(stream(), [draft()]), "another process")
        assert list(store.read_all()) == [], "readers do not wait for a writer"


def test_a_fresh_file_that_another_process_is_writing_is_waited_for(path: Path, url: str) -> None:
    """SQLite itself refuses at once to change the mode of a file that is being written."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as outsider, ThreadPoolExecutor(1) as thread:
        outsider.execute("BEGIN IMMEDIATE")
        opening = thread.submit(open_store, url, Codec())
        assert not wait([opening], timeout=0.3).done, opening.exception()
        outsider.execute("COMMIT")
        with closing(opening.result(60)) as store:
            assert len(store.append(stream(), [draft()])) == 1


# --- without write access


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that any user can enter, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


def _as_nobody(act: Callable[[], None]) -> int:
    """``act`` in a child process that has no privileges: root may write anywhere, so root steps down."""

    def step_down() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        act()

    return _in_child(step_down)


@pytest.mark.parametrize("place", ["ledger.db", "new/ledger.db"])
def test_a_directory_without_write_access(open_directory: Path, place: str) -> None:
    open_directory.chmod(0o555)
    url = f"sqlite:///{open_directory / place}"
    assert _as_nobody(lambda: _unavailable(lambda: open_store(url, Codec()), str(open_directory))) == 0


@pytest.mark.parametrize("mode", [0o555, 0o755], ids=["directory closed", "directory open"])
def test_a_log_that_may_only_be_read_is_read(open_directory: Path, mode: int) -> None:
    path, name = open_directory / "ledger.db", stream()
    with closing(open_store(f"sqlite:///{path}", Codec())) as store:
        named = store.name_run(name)
        store.append(name, [draft() for _ in range(600)])
    path.chmod(0o444)
    open_directory.chmod(mode)

    def read() -> None:
        with closing(open_store(f"sqlite:///{path}", Codec())) as store:
            assert len(list(store.read_all())) == 600
            assert store.find_streams(named) == [name]
            assert store.name_run(name) == named
            _unavailable(lambda: store.append(name, [draft()]), "may only be read")

    assert _as_nobody(read) == 0
    assert os.listdir(open_directory) == ["ledger.db"]


def test_a_log_is_followed_without_write_access_while_another_user_writes(open_directory: Path) -> None:
    path, name = open_directory / "ledger.db", stream()
    store = open_store(f"sqlite:///{path}", Codec())
    store.append(name, [draft() for _ in range(10)])
    ready, go = os.pipe()

    def follow() -> None:
        with closing(open_store(f"sqlite:///{path}", Codec())) as reader:
            events = reader.subscribe(poll=0.01)
            assert len([next(events) for _ in range(10)]) == 10
            os.write(go, b".")
            deadline = time.monotonic() + 60
            while (event := next(events)) is None:
                assert time.monotonic() < deadline
            assert event.position == 10

    def write() -> None:
        os.read(ready, 1)
        store.append(name, [draft()])

    writer = threading.Thread(target=write)
    writer.start()
    assert _as_nobody(follow) == 0
    writer.join(60)
    store.close()


def _python(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
