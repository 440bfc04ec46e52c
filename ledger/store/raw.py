"""Rows straight from the driver, and whole even where the database is damaged."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Select

    from ledger.store.scan import Raw


def fetch(connection: Connection, query: Select[Any], values: Mapping[str, Any] | None = None) -> Sequence[Raw]:
    """All rows, straight from the driver: SQLAlchemy's own row objects take as long as everything else together."""
    raw = connection.connection.driver_connection
    try:
        return _driver_rows(connection, query, values)
    except DBAPIError as error:
        if not isinstance(raw, sqlite3.Connection) or not isinstance(error.orig, sqlite3.OperationalError):
            raise
    # Text that is no UTF-8 stops SQLite's driver in the middle of a result. Read so that it can be told where it is.
    raw.text_factory = _as_far_as_it_goes
    try:
        return _driver_rows(connection, query, values)
    finally:
        raw.text_factory = str


def _driver_rows(connection: Connection, query: Select[Any], values: Mapping[str, Any] | None) -> Sequence[Raw]:
    result = connection.execute(query, values)
    try:
        rows: Sequence[Raw] = result.cursor.fetchall()
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(str(query), None, error) from error
    result.close()
    return rows


def _as_far_as_it_goes(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
