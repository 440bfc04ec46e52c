"""What is particular to PostgreSQL: connections, the one writer at a time, notifications."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ledger.errors import StoreUnavailable, UsageError
from ledger.store.database import COLUMNS
from ledger.store.forks import ForkGate
from ledger.store.postgres_errors import explain
from ledger.store.tables import METADATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import URL, Connection

BUSY_SECONDS: Final = 30.0
"""How long a writer waits for its turn. An append takes milliseconds: beyond this, some process is stuck."""
_DRIVER: Final = "postgresql+psycopg"
_SCHEMES: Final = frozenset((_DRIVER, "postgresql", "postgres"))
_LOCK: Final = int.from_bytes(b"ledger", "big")
_CHANNEL: Final = "ledger"
# A statement of its own, and the first: what is read after it has seen every append before this one. Whoever waits for
# events is told at the commit; now and then there are none, which is cheaper than to say it in a statement more.
_TAKE_TURN: Final = text(
    f"SELECT set_config('lock_timeout', '{BUSY_SECONDS:.0f}s', true), pg_advisory_xact_lock({_LOCK}), "
    f"pg_notify('{_CHANNEL}', '')"
)
_COPY: Final = f"COPY event ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_TYPES: Final = ("int8", "text", "text", "int8", "text", "int4", *("text",) * 5, "bytea")
_OPTIONS: Final = {
    "application_name": "ledger",
    "client_encoding": "UTF8",
    "connect_timeout": "5",
    # A server that vanished without a word is noticed after a minute, not after the two hours of most systems.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Of libpq, wherever the URL does not say otherwise."""


class PostgresDatabase:
    """One PostgreSQL database: a ``Database``. A search_path in the URL says in which schema the tables are.

    A connection that died while it was idle is replaced unnoticed, so a server that was away is simply used again.
    """

    def __init__(self, url: str) -> None:
        """Connects to nothing yet. Raises ``UsageError`` for a URL that cannot be understood."""
        parsed = _parsed(url)
        self.place = _place(parsed)
        self._engine = create_engine(
            parsed.update_query_dict({k: v for k, v in _OPTIONS.items() if k not in parsed.query}),
            pool_pre_ping=True,
            pool_use_lifo=True,
            # What a SQL statement was given stands in no message: it may be anything that a user recorded.
            hide_parameters=True,
        )
        self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._gate = ForkGate(self._engine.dispose, patience=BUSY_SECONDS)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See ``Database``."""
        with self._gate.passing(), self._explained(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """See ``Database``.

        Numbers are given under this lock, and not by a sequence, which would give them before the commit: a reader
        that has seen 8 would never come back for a 7 that was committed late.
        """
        with self._gate.passing(), self._explained(), self._engine.begin() as connection:
            connection.execute(_TAKE_TURN)
            yield connection

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """See ``Database``. By COPY, which takes a third of the time of an INSERT."""
        with _driver(connection).cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for row in rows:
                copy.write_row(row)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[float], None]]:
        """See ``Database``."""
        listener = _Listener(self._listen)
        try:
            yield listener.wait
        finally:
            listener.close()

    def now(self, connection: Connection) -> float:
        """See ``Database``."""
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def size(self, connection: Connection) -> int:
        """See ``Database``."""
        tables = ", ".join(f"('{name}')" for name in METADATA.tables)
        query = f"SELECT sum(pg_total_relation_size(to_regclass(name))) FROM (VALUES {tables}) AS ledger (name)"  # noqa: S608
        return int(connection.execute(text(query)).scalar() or 0)

    def damage(self, connection: Connection) -> str | None:
        """See ``Database``. Checking its files is the server's own business (checksums, amcheck)."""
        return None

    def close(self) -> None:
        """See ``Database``."""
        self._engine.dispose()

    def _listen(self) -> psycopg.Connection:
        """A connection of its own, outside the pool: it is held for as long as somebody follows the log."""
        _, options = self._engine.dialect.create_connect_args(self._engine.url)
        connection: psycopg.Connection = psycopg.connect(**options, autocommit=True)
        connection.execute(f"LISTEN {_CHANNEL}")
        return connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if not isinstance(error.orig, psycopg.Error):
                raise
            raise explain(self.place, error.orig) from error
        except psycopg.Error as error:
            raise explain(self.place, error) from error
        except PoolTimeout as error:
            raise StoreUnavailable(
                f"the log in {self.place} cannot be used: all connections of this process are busy",
                mend="read it from fewer threads at a time",
            ) from error


class _Listener:
    """Waits for notifications. Where they cannot be had, it just waits."""

    def __init__(self, listen: Callable[[], psycopg.Connection]) -> None:
        self._listen = listen
        self._connection: psycopg.Connection | None = None
        self._owner = 0
        # Before the first look at the log: what is appended after it is heard of.
        with suppress(psycopg.Error):
            self._connected()

    def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or as soon as something was appended."""
        until = time.monotonic() + seconds
        try:
            for _ in self._connected().notifies(timeout=seconds, stop_after=1):
                pass
        except psycopg.Error:  # the server went away, or a pooler in between cannot pass notifications on
            self.close()
            time.sleep(max(until - time.monotonic(), 0.0))

    def close(self) -> None:
        """Close the connection, if it is this process's own."""
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = None

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._owner != os.getpid():
            # In a forked child, the parent's connection is dropped without a word to the server.
            self._connection, self._owner = self._listen(), os.getpid()
        return self._connection


def _driver(connection: Connection) -> psycopg.Connection:
    found = connection.connection.driver_connection
    assert isinstance(found, psycopg.Connection)  # noqa: S101 - tells mypy which of the drivers it is
    return found


def _parsed(url: str) -> URL:
    """Errors do not quote the URL: it may hold a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(
            "the PostgreSQL URL cannot be understood",
            mend="write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for an @ in the password, %2F for a /",
        ) from None
    if parsed.drivername not in _SCHEMES:
        raise UsageError(
            f"Ledger does not speak to PostgreSQL through {parsed.drivername.partition('+')[2]}",
            mend="write postgresql://… or postgresql+psycopg://…",
        )
    return parsed.set(drivername=_DRIVER)


def _place(url: URL) -> str:
    """What people call it."""
    host = url.host or url.query.get("host") or os.environ.get("PGHOST") or "this host"
    host = host if isinstance(host, str) else ", ".join(host)
    return f"PostgreSQL database {url.database or url.username or 'of the user'} on {host}" + (
        f":{url.port}" if url.port else ""
    )
