"""A raw reading of the log in an SQL database."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from ledger.store.reference import run_name
from ledger.store.scan import Extent, Row
from ledger.store.tables import EVENT, RUN_NAME, STREAM_HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Select

    from ledger.store.database import Database
    from ledger.store.scan import Raw


class SqlScan:
    """A ``Scan`` of an SQL database."""

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self.url: str | None = url

    def extent(self) -> Extent:
        """See ``Scan``."""
        with self._database.reading() as connection:
            ends = select(func.min(EVENT.c.global_position), func.max(EVENT.c.global_position))
            ((first, size),) = _fetch(connection, ends)
            columns = (STREAM_HEAD.c.stream, STREAM_HEAD.c.version, STREAM_HEAD.c.digest, STREAM_HEAD.c.attempt)
            heads = {stream: tuple(head) for stream, *head in _fetch(connection, select(*columns))}
            names = {
                stream: run_name(n) for n, stream in _fetch(connection, select(RUN_NAME.c.number, RUN_NAME.c.stream))
            }
        return Extent(1 if first is None else first, size or 0, heads, names)

    def rows(self, first: int, last: int) -> Sequence[Raw]:
        """See ``Scan``."""
        query = _ROWS.where(EVENT.c.global_position.between(first, last)).order_by(EVENT.c.global_position)
        with self._database.reading() as connection:
            return _fetch(connection, query)

    def stream(self, stream: str, after: int, limit: int) -> Sequence[Raw]:
        """See ``Scan``."""
        above = (EVENT.c.stream == stream) & (EVENT.c.position > after)
        with self._database.reading() as connection:
            return _fetch(connection, _ROWS.where(above).order_by(EVENT.c.position).limit(limit))

    def digests(self, first: int, last: int) -> Sequence[str]:
        """See ``Scan``."""
        within = EVENT.c.global_position.between(first, last)
        query = select(EVENT.c.digest).where(within).order_by(EVENT.c.global_position)
        with self._database.reading() as connection:
            return [digest for (digest,) in _fetch(connection, query)]

    def find(self, event_id: str) -> int | None:
        """See ``Scan``."""
        with self._database.reading() as connection:
            rows = _fetch(connection, select(EVENT.c.global_position).where(EVENT.c.event_id == event_id))
        return rows[0][0] if rows else None

    def damage(self) -> str | None:
        """See ``Scan``."""
        with self._database.reading() as connection:
            return self._database.damage(connection)


_ROWS: Final = select(*(EVENT.c[name] for name in Row._fields))


def _fetch(connection: Connection, query: Select[Any]) -> Sequence[Raw]:
    """All rows, straight from the driver: SQLAlchemy's own row objects take as long as everything else together."""
    raw = connection.connection.driver_connection
    try:
        return _driver_rows(connection, query)
    except DBAPIError as error:
        if not isinstance(raw, sqlite3.Connection) or not isinstance(error.orig, sqlite3.OperationalError):
            raise
    # Text that is no UTF-8 stops SQLite's driver in the middle of a result. Read so that it can be told where it is.
    raw.text_factory = _as_far_as_it_goes
    try:
        return _driver_rows(connection, query)
    finally:
        raw.text_factory = str


def _driver_rows(connection: Connection, query: Select[Any]) -> Sequence[Raw]:
    result = connection.execute(query)
    try:
        rows: Sequence[Raw] = result.cursor.fetchall()
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(str(query), None, error) from error
    result.close()
    return rows


def _as_far_as_it_goes(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
