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
from ledger.errors import SchemaMismatch, StoreUnavailable
from ledger.store import schema
from ledger.store.sql import SqlStore
from ledger.store.tables import LedgerTable
from ledger.testing.stores import draft, stream

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


def test_the_migrations_build_the_tables_that_the_code_speaks_of(url: str) -> None:
    with closing(SqlStore(url, Codec())) as store, store._database.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": schema.VERSION_TABLE}
        )
        assert compare_metadata(context, LedgerTable.metadata) == []


def test_the_tables_stay_out_of_everybody_elses_metadata() -> None:
    from sqlmodel import SQLModel

    assert not set(LedgerTable.metadata.tables) & set(SQLModel.metadata.tables)


def test_the_code_knows_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations()))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [schema.HEAD]
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert revisions == [f"{n:04}" for n in range(len(revisions), 0, -1)]


def test_an_old_ledger_is_upgraded_on_opening(path: Path, url: str) -> None:
    """Of revision 0001 the only older one is an empty database."""
    path.parent.mkdir(parents=True)
    sqlite3.connect(path).close()
    with closing(SqlStore(url, Codec())) as store:
        store.append(stream(), [draft()])
        with store._database.reading() as connection:
            assert schema.current(connection) == schema.HEAD


def test_a_database_shared_with_another_program_of_alembics_is_fine(path: Path, url: str) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('ff')")
    with closing(SqlStore(url, Codec())) as store:
        assert len(store.append(stream(), [draft()])) == 1


def test_a_ledger_of_a_newer_schema_is_refused_and_left_alone(path: Path, url: str) -> None:
    SqlStore(url, Codec()).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0999'")
        database.commit()
    before = _schema(path)
    with pytest.raises(SchemaMismatch, match="0999") as refused:
        SqlStore(url, Codec())
    assert "pip install" in str(refused.value.mend)
    assert _schema(path) == before


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


def test_opening_a_ledger_that_is_up_to_date_is_one_query_and_no_alembic(url: str) -> None:
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
assert statements == ["BEGIN", "SELECT version_num FROM {schema.VERSION_TABLE}"], statements
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
    fork = multiprocessing.get_context("fork")
    for round_ in range(5):
        url = f"sqlite:///{tmp_path}/{round_}/ledger.db"
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
