"""The log in PostgreSQL, on a real server."""

from __future__ import annotations

import os
import re
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest

from ledger.codec import Codec, new_id
from ledger.errors import IntegrityError, LedgerError, StoreUnavailable, UsageError
from ledger.store import open_store
from ledger.store.base import JournalSpan
from ledger.store.postgres import PostgresDatabase
from ledger.store.sql import SqlStore
from ledger.testing.stores import PATIENCE, chained, draft, stream
from tests.core.sql_stores import SqlStoreTests
from tests.postgres import Server, servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.codec import Recorded
    from ledger.store.base import EventStore

DOCS = Path(__file__).parents[2] / "docs" / "postgresql.md"
PASSWORD = "hunter2/@:%"


class TestPostgresStore(SqlStoreTests):
    @pytest.fixture
    def store(self, pg_url: str) -> Iterator[EventStore]:
        with closing(SqlStore(pg_url, Codec())) as store:
            yield store

    @pytest.fixture
    def new_url(self, pg_empty_url: str) -> str:
        return pg_empty_url


@pytest.fixture
def store(pg_url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(pg_url, Codec())) as store:
        yield store


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server that a test may stop; it starts it again."""
    yield from servers()


@pytest.fixture
def own_url(own_server: Server) -> str:
    return own_server.url(own_server.create())


def database(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def run_sql(server: Server, url: str, *statements: str) -> None:
    for statement in statements:
        server.execute(statement, database(url))


@pytest.fixture
def roles(pg_server: Server) -> Iterator[None]:
    """What a test does in the roles of the server is undone."""
    yield
    with psycopg.connect(pg_server.url("postgres").replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> 'postgres'")
        for (role,) in connection.execute("SELECT rolname FROM pg_roles WHERE oid >= 16384").fetchall():
            for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall():
                with psycopg.connect(pg_server.url(name).replace("+psycopg", ""), autocommit=True) as there:
                    there.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


# --- opening


@pytest.mark.parametrize("scheme", ["postgresql+psycopg:", "postgresql:", "postgres:"])
def test_the_usual_spellings_of_a_url(pg_url: str, scheme: str) -> None:
    with closing(open_store(scheme + pg_url.partition(":")[2], Codec())) as store:
        assert len(store.append(stream(), [draft()])) == 1


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (f"postgresql+asyncpg://me:{quote(PASSWORD, safe='')}@host/db", "asyncpg"),
        (f"postgresql://me:{quote(PASSWORD, safe='')}@host:port/db", "understood"),
        (f"postgresql//me:{quote(PASSWORD, safe='')}@host/db", "understood"),
    ],
)
def test_a_url_that_makes_no_sense(url: str, word: str) -> None:
    with pytest.raises(UsageError, match=word) as refused:
        open_store(url, Codec())
    assert refused.value.mend
    assert "hunter2" not in f"{refused.value} {refused.value.mend}"


def test_tables_go_where_the_search_path_says(pg_server: Server, pg_empty_url: str) -> None:
    run_sql(pg_server, pg_empty_url, "CREATE SCHEMA ml")
    with closing(SqlStore(pg_empty_url + "&options=-csearch_path%3Dml", Codec())) as store:
        store.append(stream(), [draft()])
        assert store.name_run(stream()) == "run-1"
    run_sql(pg_server, pg_empty_url, "SELECT * FROM ml.event")
    with closing(SqlStore(pg_empty_url, Codec())) as store:
        assert list(store.read_all()) == [], "another schema is another ledger"


# --- append-only


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET payload = '{}'",
        "UPDATE event SET payload = '{}' WHERE false",
        "DELETE FROM event",
        "TRUNCATE event",
        "TRUNCATE event CASCADE",
        "INSERT INTO event SELECT * FROM event ON CONFLICT (event_id) DO UPDATE SET payload = 'changed'",
        "MERGE INTO event USING (VALUES (1)) AS v (n) ON global_position = n WHEN MATCHED THEN DELETE",
        "SET session_replication_role = replica; DELETE FROM event",
    ],
)
def test_the_log_cannot_be_rewritten(pg_server: Server, store: SqlStore, statement: str) -> None:
    written = store.append(stream(), [draft("a"), draft("b")])
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"):
        run_sql(pg_server, store.url, statement)
    assert list(store.read_all()) == written


@pytest.mark.parametrize("key", ["global_position = 1", "event_id = 'x'", "stream = 's', position = 0"])
def test_no_row_is_put_in_the_place_of_another(pg_server: Server, store: SqlStore, key: str) -> None:
    insert = "INSERT INTO event VALUES ({}, '{}', '{}', {}, 't', 1, '{{}}', '{{}}', '', '', '')"
    values = {"global_position = 1": (1, "y", "t", 1), "event_id = 'x'": (2, "x", "t", 1)}
    run_sql(pg_server, store.url, insert.format(1, "x", "s", 0))
    with pytest.raises(psycopg.errors.UniqueViolation):
        run_sql(pg_server, store.url, insert.format(*values.get(key, (2, "y", "s", 0))))


def test_tables_changed_from_outside_are_told(pg_server: Server, store: SqlStore) -> None:
    name = stream()
    written = store.append(name, [draft("a"), draft("b")])
    run_sql(pg_server, store.url, "UPDATE stream_head SET version = 0")
    with pytest.raises(IntegrityError, match="refused an append") as refused:
        store.append(name, [draft("c")])
    assert refused.value.mend
    assert list(store.read_all()) == written


def documented(role: str) -> list[str]:
    """The statements of docs/postgresql.md that make a role."""
    [block] = [b for b in re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL) if f"ROLE {role}" in b]
    return [statement for statement in block.split(";\n") if statement]


@pytest.mark.usefixtures("roles")
def test_the_documented_writer_may_record_and_change_nothing(pg_server: Server, store: SqlStore) -> None:
    run_sql(pg_server, store.url, *documented("ledger_writer"))
    name, journal = stream(), new_id()
    with closing(SqlStore(pg_server.url(database(store.url), "ledger_writer"), Codec())) as writer:
        assert writer.name_run(name) == "run-1"
        writer.renew_lease(name, "me", 1, 60)
        writer.renew_lease(name, "me", 1, 60)
        writer.append(name, [draft(str(n)) for n in range(3)], span=JournalSpan(journal, 0, 1))
        writer.append(name, [draft("more")], span=JournalSpan(journal, 1, 2))
        assert len(list(writer.read(name))) == 4
        run_sql(pg_server, store.url, "INSERT INTO run_tag VALUES ('run-x', 'never given')")
        assert writer.rebuild() == {"run_tag": 1}
    for statement in (
        "UPDATE event SET payload = ''",
        "DELETE FROM event",
        "TRUNCATE event",
        "DROP TRIGGER event_refuses_change ON event",
        "ALTER TABLE event DISABLE TRIGGER ALL",
        "DELETE FROM run_name",
        "DELETE FROM stream_head",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_sql(pg_server, store.url, f"SET ROLE ledger_writer; {statement}")


@pytest.mark.usefixtures("roles")
def test_the_documented_reader_may_read(pg_server: Server, store: SqlStore) -> None:
    run_sql(pg_server, store.url, *documented("ledger_reader"))
    written = store.append(stream(), [draft()])
    with closing(SqlStore(pg_server.url(database(store.url), "ledger_reader"), Codec())) as reader:
        assert list(reader.read_all()) == written
        unavailable(lambda: reader.append(stream(), [draft()]), "access is denied", "docs/postgresql.md")


# --- subscriptions


def next_event(events: Iterator[Recorded | None]) -> Recorded:
    return next(event for event in events if event)


def test_a_subscription_is_woken_up(store: SqlStore) -> None:
    events = store.subscribe(poll=PATIENCE)
    assert next(events) is None
    with ThreadPoolExecutor(1) as thread, closing(SqlStore(store.url, Codec())) as other:
        waiting = thread.submit(next_event, events)
        [written] = other.append(stream(), [draft()])
        started = time.monotonic()
        assert waiting.result(PATIENCE) == written
        assert time.monotonic() - started < PATIENCE / 4


def test_what_is_appended_before_the_wait_is_heard_of(store: SqlStore) -> None:
    events = store.subscribe(poll=PATIENCE)
    assert next(events) is None
    [written] = store.append(stream(), [draft()])
    started = time.monotonic()
    assert next_event(events) == written
    assert time.monotonic() - started < PATIENCE / 4


def test_without_notifications_a_subscription_looks_again(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: PostgresDatabase) -> None:
        raise psycopg.errors.FeatureNotSupported("not through this pooler")

    monkeypatch.setattr(PostgresDatabase, "_listen", refuse)
    events = store.subscribe(poll=0.01)
    assert next(events) is None
    [written] = store.append(stream(), [draft()])
    assert next_event(events) == written


def test_a_subscription_that_is_closed_leaves_no_connection(pg_server: Server, store: SqlStore) -> None:
    events = store.subscribe()
    next(events)
    assert connections(store) == 2
    events.close()  # type: ignore[attr-defined]
    assert connections(store) == 1


def connections(store: SqlStore) -> int:
    """How many connections of Ledger the server sees in this database, when their number has settled."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ledger' "
        "AND state <> 'disabled'"
    )
    with store._database.reading() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


# --- forks and processes


def in_child(act: Callable[[], None]) -> int:
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


def test_a_forked_child_has_connections_of_its_own(store: SqlStore) -> None:
    name = stream()
    store.append(name, [draft("parent")])
    events = store.subscribe(poll=0.01)
    assert next_event(events).position == 0

    def act() -> None:
        assert next(events) is None
        for _ in range(20):
            store.append(name, [draft("child")])
        assert [next_event(events).position for _ in range(20)] == list(range(1, 21))

    assert in_child(act) == 0
    store.append(name, [draft("parent again")])
    assert [next_event(events).position for _ in range(21)] == list(range(1, 22))
    assert chained(list(store.read(name)))


def test_forks_amid_appends_of_other_threads(store: SqlStore) -> None:
    own, children, stop = stream(), stream(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            store.append(own, [draft()])

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        statuses = [in_child(lambda: store.append(children, [draft()]) and None) for _ in range(5)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert statuses == [0] * 5
    assert store.head(children)[0] == 4
    assert chained(list(store.read(own)))


# --- what can go wrong


def unavailable(act: Callable[[], object], *words: str) -> LedgerError:
    """``act`` fails with what, why and the mend, and tells no password."""
    with pytest.raises(StoreUnavailable) as refused:
        act()
    told = f"{refused.value} {refused.value.mend}"
    for word in words:
        assert word in told
    assert refused.value.mend
    assert "{" not in told
    assert "hunter2" not in "".join(traceback.format_exception(refused.value)) + repr(refused.value)
    return refused.value


def test_a_server_that_does_not_answer() -> None:
    url = f"postgresql://me:{quote(PASSWORD, safe='')}@127.0.0.1:1/db"
    unavailable(lambda: open_store(url, Codec()), "db", "127.0.0.1:1", "does not answer", "Connection refused")
    unavailable(lambda: open_store("postgresql:///db?host=/nosuch", Codec()), "/nosuch", "does not answer")
    unavailable(lambda: open_store("postgresql://nosuch.invalid/db", Codec()), "nosuch.invalid", "does not answer")


def test_an_option_that_there_is_not(pg_url: str) -> None:
    unavailable(lambda: open_store(f"{pg_url}&sslmod=require", Codec()), "sslmod", "option in the URL")
    unavailable(lambda: open_store(f"{pg_url}&connect_timeout=soon", Codec()), "option in the URL")


@pytest.mark.usefixtures("roles")
def test_passwords(pg_server: Server, pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = database(pg_url)
    pg_server.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}' SUPERUSER")
    with closing(open_store(pg_server.url(name, "guarded", PASSWORD), Codec())) as store:
        store.append(stream(), [draft()])
        assert "hunter2" not in repr(store) + repr(vars(store)["_database"])
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    open_store(pg_server.url(name, "guarded"), Codec()).close()
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", "/nosuch")
    unavailable(lambda: open_store(pg_server.url(name, "guarded"), Codec()), "asks for a password")
    wrong = pg_server.url(name, "guarded", PASSWORD + "!")
    unavailable(lambda: open_store(wrong, Codec()), "does not accept", "pgpass")


def test_a_database_and_a_user_that_there_are_not(pg_server: Server, pg_url: str) -> None:
    unavailable(lambda: open_store(pg_server.url("nosuch"), Codec()), "nosuch", "no such database", "createdb")
    unavailable(lambda: open_store(pg_server.url(database(pg_url), "nobody"), Codec()), "does not know this user")


@pytest.mark.usefixtures("roles")
def test_too_many_connections(pg_server: Server, pg_url: str) -> None:
    pg_server.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 1")
    run_sql(pg_server, pg_url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO crowded")
    url = pg_server.url(database(pg_url), "crowded")
    with closing(open_store(url, Codec())):
        unavailable(lambda: open_store(url, Codec()), "no connection left", "max_connections")


@pytest.mark.usefixtures("roles")
def test_a_user_who_may_only_read_or_not_even_that(pg_server: Server, pg_url: str, pg_empty_url: str) -> None:
    pg_server.execute("CREATE ROLE barred LOGIN")
    unavailable(lambda: open_store(pg_server.url(database(pg_url), "barred"), Codec()), "permission denied", "GRANT")
    unavailable(lambda: open_store(pg_server.url(database(pg_empty_url), "barred"), Codec()), "permission denied")
    pg_server.execute("CREATE ROLE looker LOGIN SUPERUSER")
    pg_server.execute("ALTER ROLE looker SET default_transaction_read_only = on")
    with closing(open_store(pg_server.url(database(pg_url), "looker"), Codec())) as store:
        assert list(store.read_all()) == []
        unavailable(lambda: store.append(stream(), [draft()]), "may only be read", "primary")


def test_a_turn_that_does_not_come(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledger.store import postgres

    impatient = str(postgres._TAKE_TURN).replace("30s", "50ms")
    monkeypatch.setattr(postgres, "_TAKE_TURN", postgres.text(impatient))
    with closing(SqlStore(store.url, Codec())) as other, other._database.writing():
        unavailable(lambda: store.append(stream(), [draft()]), "another process", "pg_stat_activity")
        assert list(store.read_all()) == [], "readers do not wait for a writer"


def test_a_missing_table_is_told(pg_server: Server, store: SqlStore) -> None:
    run_sql(pg_server, store.url, "DROP TABLE run_name")
    unavailable(lambda: store.name_run(stream()), "run_name", "missing")


def test_an_encoding_that_cannot_hold_every_text(pg_server: Server) -> None:
    pg_server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    with closing(open_store(pg_server.url("latin"), Codec())) as store:
        unavailable(lambda: store.append(stream(), [draft("訓練")]), "encoding", "UTF8")
    pg_server.drop("latin")


# --- a server that goes away


def test_a_store_outlives_the_restart_of_its_server(own_server: Server, own_url: str) -> None:
    name = stream()
    with closing(SqlStore(own_url, Codec())) as store:
        events = store.subscribe(poll=0.05)
        assert next(events) is None
        written = store.append(name, [draft("before")])
        own_server.stop()
        try:
            unavailable(lambda: store.append(name, [draft("meanwhile")]), "does not answer")
            unavailable(lambda: store.head(name))
        finally:
            own_server.start()
        written += store.append(name, [draft("after")], expected_version=0)
        assert list(store.read(name)) == written
        assert chained(written)
        assert [next_event(events), next_event(events)] == written


def test_a_subscription_ends_with_an_error_when_the_server_goes(own_server: Server, own_url: str) -> None:
    with closing(SqlStore(own_url, Codec())) as store:
        events = store.subscribe(poll=0.05)
        assert next(events) is None
        own_server.stop()
        try:
            unavailable(lambda: next(events))
        finally:
            own_server.start()


def test_a_crash_in_the_middle_of_an_append_stores_nothing_by_halves(own_server: Server, own_url: str) -> None:
    name, facts = stream(), [draft(str(n)) for n in range(500)]
    with closing(SqlStore(own_url, Codec())) as store:
        first = store.append(name, [draft("before")])

        def crash() -> None:
            with store._database.writing() as connection:
                store._add(connection, name, facts, -2, None, None)
                own_server.kill()

        try:
            unavailable(crash)
        finally:
            own_server.start()
        assert list(store.read_all()) == first
        again = store.append(name, facts)
        assert [e.global_position for e in again] == list(range(2, 502))
        assert chained([*first, *again])


def test_a_standby_is_read(own_server: Server, own_url: str) -> None:
    with closing(SqlStore(own_url, Codec())) as store:
        written = store.append(stream(), [draft()])
        own_server.stop()
        own_server.stand_by(True)
        own_server.start()
        try:
            assert list(store.read_all()) == written
            unavailable(lambda: store.append(stream(), [draft()]), "may only be read", "primary")
        finally:
            own_server.stop()
            own_server.stand_by(False)
            own_server.start()
        store.append(stream(), [draft()])
