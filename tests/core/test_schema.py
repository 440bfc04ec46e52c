from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ledger.codec import Codec
from ledger.errors import NotFound, SchemaMismatch, StoreUnavailable
from ledger.store import schema, upkeep
from ledger.store.database import open_database
from ledger.store.projections.query import RunQuery
from ledger.store.sql import SqlStore
from ledger.store.tables import METADATA
from ledger.testing.stores import chained, draft, stream
from tests.core.old_logs import old_log

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "down" / "ledger.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def _schema(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return sorted(database.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


@pytest.fixture(params=["sqlite", "postgresql"])
def any_url(request: pytest.FixtureRequest) -> str:
    """A place without any table, in each of the databases."""
    return str(request.getfixturevalue("url" if request.param == "sqlite" else "pg_empty_url"))


def _sql(url: str, *statements: str) -> list[Any]:
    """Execute statements as another program would; the rows of the last."""
    with closing(open_database(url)) as database, database.writing() as connection:
        results = [connection.exec_driver_sql(statement) for statement in statements]
        return list(results[-1].all()) if results[-1].returns_rows else []


def test_the_migrations_build_the_tables_that_the_code_speaks_of(any_url: str) -> None:
    with closing(SqlStore(any_url, Codec())) as store, store._database.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": schema.VERSION_TABLE}
        )
        assert compare_metadata(context, METADATA) == []


def test_the_code_knows_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations()))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [schema.HEAD]
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert revisions == [f"{n:04}" for n in range(len(revisions), 0, -1)]


def test_an_empty_file_becomes_a_ledger(path: Path, url: str) -> None:
    path.parent.mkdir(parents=True)
    sqlite3.connect(path).close()
    with closing(SqlStore(url, Codec())) as store:
        store.append(stream(), [draft()])
        assert schema.stored(store._database) == schema.HEAD


def test_an_older_ledger_is_refused_and_left_alone(any_url: str) -> None:
    old_log(any_url)
    with pytest.raises(SchemaMismatch, match="0001") as refused:
        SqlStore(any_url, Codec())
    assert "ledger db upgrade" in str(refused.value.mend)
    assert _sql(any_url, f"SELECT version_num FROM {schema.VERSION_TABLE}") == [("0001",)]


def test_an_older_ledger_is_upgraded_with_all_that_is_in_it(any_url: str) -> None:
    written = old_log(any_url)
    assert upkeep.status(any_url).revision == "0001"
    assert upkeep.upgrade(any_url) == ("0001", schema.HEAD)
    assert upkeep.upgrade(any_url) == (schema.HEAD, schema.HEAD)
    with closing(SqlStore(any_url, Codec())) as store:
        assert list(store.read_all()) == written
        name = written[0].stream
        assert store.find_streams("run-1") == [name]
        [run] = store.projections.runs(RunQuery())
        assert (run.name, run.status) == ("run-1", "completed")
        assert store.name_run(stream()) == "run-2"
        more = store.append(name, [draft("after")], expected_version=written[-1].position)
        assert chained([*written, *more])
        assert more[0].global_position == len(written) + 1
    found = upkeep.status(any_url)
    assert (found.events, found.streams, found.runs) == (len(written) + 1, 1, 2)


def test_an_upgrade_that_fails_leaves_the_log_as_it_was(any_url: str) -> None:
    """A table in the way stops it after it has begun."""
    written = old_log(any_url)
    _sql(any_url, "CREATE TABLE run_config (x INTEGER)")
    with pytest.raises(StoreUnavailable, match="run_config"):
        upkeep.upgrade(any_url)
    assert upkeep.status(any_url).revision == "0001"
    assert _sql(any_url, "SELECT count(*) FROM event") == [(len(written),)]
    with pytest.raises(StoreUnavailable, match="lease"):
        _sql(any_url, "SELECT * FROM lease")


def test_there_is_no_status_and_no_upgrade_of_nothing(any_url: str) -> None:
    assert not upkeep.exists(any_url)
    for act in (upkeep.status, upkeep.upgrade):
        with pytest.raises(NotFound) as refused:
            act(any_url)
        assert "ledger init" in str(refused.value.mend)
    assert not upkeep.exists(any_url), "to look makes no ledger"


def test_a_database_shared_with_another_program_of_alembics_is_fine(path: Path, url: str) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('ff')")
    with closing(SqlStore(url, Codec())) as store:
        assert len(store.append(stream(), [draft()])) == 1


def test_a_ledger_of_a_newer_schema_is_refused_and_left_alone(any_url: str) -> None:
    SqlStore(any_url, Codec()).close()
    _sql(any_url, f"UPDATE {schema.VERSION_TABLE} SET version_num = '0999'")
    for act in (lambda: SqlStore(any_url, Codec()), lambda: upkeep.upgrade(any_url)):
        with pytest.raises(SchemaMismatch, match="0999") as refused:
            act()
        assert "pip install" in str(refused.value.mend)
    assert upkeep.status(any_url).revision == "0999"


def test_a_migration_that_fails_leaves_nothing(path: Path, url: str) -> None:
    """A table in the way, the last to be created, stops the migration after it has begun."""
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE run_name (x)")
    before = _schema(path)
    with pytest.raises(StoreUnavailable, match="run_name") as refused:
        SqlStore(url, Codec())
    assert refused.value.mend
    assert _schema(path) == before


def test_a_missing_table_is_told(path: Path, url: str) -> None:
    SqlStore(url, Codec()).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE run_name")
    with closing(SqlStore(url, Codec())) as store, pytest.raises(StoreUnavailable, match="no such table"):
        store.name_run(stream())


@pytest.mark.parametrize("statements", [["BEGIN"], []], ids=["sqlite", "postgresql"])
def test_opening_a_ledger_that_is_up_to_date_is_one_query_and_no_alembic(
    statements: list[str], request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("url" if statements else "pg_url")
    SqlStore(url, Codec()).close()
    program = f"""
import sys
from ledger.codec import Codec
from ledger.store import open_store
from sqlalchemy import event
from sqlalchemy.engine import Engine
statements = []
@event.listens_for(Engine, "before_cursor_execute")
def note(connection, cursor, statement, *rest):
    statements.append(statement)
open_store({url!r}, Codec())
assert "alembic" not in sys.modules, "alembic was imported"
assert statements == {[*statements, f"SELECT version_num FROM {schema.VERSION_TABLE}"]}, statements
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def _open(url: str, start: Any, opened: Any) -> None:
    start.wait(60)
    with closing(SqlStore(url, Codec())) as store:
        store.append(stream(), [draft()])
    opened.put(True)


def test_processes_open_a_fresh_ledger_at_the_same_moment(tmp_path: Path) -> None:
    """Six of them, released together, five ledgers in a row."""
    for round_ in range(5):
        _open_at_once(f"sqlite:///{tmp_path}/{round_}/ledger.db")


def test_processes_open_a_fresh_database_at_the_same_moment(pg_empty_url: str) -> None:
    _open_at_once(pg_empty_url)


def _open_at_once(url: str) -> None:
    fork = multiprocessing.get_context("fork")
    start, opened = fork.Barrier(6), fork.Queue()
    processes = [fork.Process(target=_open, args=(url, start, opened)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    with closing(SqlStore(url, Codec())) as store:
        assert len(list(store.read_all())) == 6


def test_the_migrations_of_an_installed_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "site-packages" / "ledger" / "store" / "schema.py"
    monkeypatch.setattr(schema, "__file__", str(module))
    with pytest.raises(StoreUnavailable, match="missing") as refused:
        schema.migrations()
    assert "reinstall" in str(refused.value.mend)
    for place in (tmp_path / "site-packages" / "migrations", module.parents[1] / "migrations"):
        place.mkdir(parents=True)
        (place / "env.py").touch()
        assert schema.migrations() == place
