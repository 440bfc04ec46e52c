"""A raw reading of the log in an SQL database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select

from ledger.store.raw import fetch
from ledger.store.reference import run_name
from ledger.store.scan import Extent, Row
from ledger.store.tables import EVENT, JOURNAL_POSITION, RUN_NAME, STREAM_HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

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
            ((first, size),) = fetch(connection, ends)
            columns = (STREAM_HEAD.c.stream, STREAM_HEAD.c.version, STREAM_HEAD.c.digest, STREAM_HEAD.c.attempt)
            heads = {stream: tuple(head) for stream, *head in fetch(connection, select(*columns))}
            names = {
                stream: run_name(n) for n, stream in fetch(connection, select(RUN_NAME.c.number, RUN_NAME.c.stream))
            }
        return Extent(1 if first is None else first, size or 0, heads, names)

    def rows(self, first: int, last: int) -> Sequence[Raw]:
        """See ``Scan``."""
        query = _ROWS.where(EVENT.c.global_position.between(first, last)).order_by(EVENT.c.global_position)
        with self._database.reading() as connection:
            return fetch(connection, query)

    def stream(self, stream: str, after: int, limit: int) -> Sequence[Raw]:
        """See ``Scan``."""
        above = (EVENT.c.stream == stream) & (EVENT.c.position > after)
        with self._database.reading() as connection:
            return fetch(connection, _ROWS.where(above).order_by(EVENT.c.position).limit(limit))

    def digests(self, first: int, last: int) -> Sequence[str]:
        """See ``Scan``."""
        within = EVENT.c.global_position.between(first, last)
        query = select(EVENT.c.digest).where(within).order_by(EVENT.c.global_position)
        with self._database.reading() as connection:
            return [digest for (digest,) in fetch(connection, query)]

    def find(self, event_id: str) -> int | None:
        """See ``Scan``."""
        with self._database.reading() as connection:
            rows = fetch(connection, select(EVENT.c.global_position).where(EVENT.c.event_id == event_id))
        return rows[0][0] if rows else None

    def places(self) -> Sequence[Raw]:
        """See ``Scan``."""
        query = select(JOURNAL_POSITION.c.journal, JOURNAL_POSITION.c.position, JOURNAL_POSITION.c.digest)
        with self._database.reading() as connection:
            return fetch(connection, query.order_by(JOURNAL_POSITION.c.journal))

    def damage(self) -> str | None:
        """See ``Scan``."""
        with self._database.reading() as connection:
            return self._database.damage(connection)


_ROWS: Final = select(*(EVENT.c[name] for name in Row._fields))
