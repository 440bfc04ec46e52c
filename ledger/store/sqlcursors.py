"""Cursors in the database of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from ledger.errors import CursorHeld
from ledger.store.cursors import START, Cursor
from ledger.store.tables import MIRROR_CURSOR

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from ledger.store.cursors import CursorKey
    from ledger.store.database import Database


class SqlCursors:
    """Implements ``Cursors``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def at(self, key: CursorKey) -> Cursor | None:
        """See ``Cursors.at``."""
        with self._database.reading() as connection:
            return self._at(connection, key)

    def take(self, key: CursorKey, holder: str, seconds: float, *, instead_of: str | None = None) -> int:
        """See ``Cursors.take``."""
        with self._database.writing() as connection:
            held = self._at(connection, key)
            now = {"holder": holder, "ends_at": self._database.now(connection) + seconds}
            if held is None:
                row = {"mirror": key.mirror, "target": key.target, "stream": key.stream, "position": START}
                connection.execute(insert(MIRROR_CURSOR).values(row | now))
                return START
            held.admit(key, holder, instead_of)
            connection.execute(update(MIRROR_CURSOR).where(_is(key)).values(now))
            return held.position

    def move(self, key: CursorKey, holder: str, position: int) -> None:
        """See ``Cursors.move``."""
        if not self._change(key, holder, position=position):
            held = self.at(key)
            raise CursorHeld(key.stream, key.mirror, held.holder if held else "nobody")

    def release(self, key: CursorKey, holder: str) -> None:
        """See ``Cursors.release``."""
        self._change(key, holder, ends_at=0.0)

    def _change(self, key: CursorKey, holder: str, **values: float) -> bool:
        """Change the cursor if the holder has it; whether it has."""
        mine = _is(key) & (MIRROR_CURSOR.c.holder == holder)
        with self._database.writing() as connection:
            return connection.execute(update(MIRROR_CURSOR).where(mine).values(values)).rowcount == 1

    def _at(self, connection: Connection, key: CursorKey) -> Cursor | None:
        row = connection.execute(select(MIRROR_CURSOR).where(_is(key))).first()
        if row is None:
            return None
        return Cursor(row.position, row.holder, row.ends_at - self._database.now(connection))


def _is(key: CursorKey) -> ColumnElement[Any]:
    columns = MIRROR_CURSOR.c
    return (columns.mirror == key.mirror) & (columns.target == key.target) & (columns.stream == key.stream)
