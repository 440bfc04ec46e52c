"""What ``SqlStore`` needs of a database; ``sqlite`` and ``postgres`` are the two there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from ledger.errors import StoreUnavailable, UsageError
from ledger.store.tables import EVENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

COLUMNS: Final = tuple(column.name for column in EVENT.c)
"""Of an event, in the order in which ``Database.insert`` takes them."""


class Database(Protocol):
    """One database, safe to use from any thread, and on both sides of a fork.

    A connection is never shared: whoever needs one has it for one transaction. Whatever the driver raises comes out as
    ``StoreUnavailable`` with the reason and the mend or, where the tables refuse what was written, ``IntegrityError``.
    """

    place: str
    """Where it is, for people; without credentials."""

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the log."""

    def writing(self) -> AbstractContextManager[Connection]:
        """The one transaction that writes; others wait for it. Durable when the block is left."""

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write events, ``COLUMNS`` each, in the transaction of ``writing``."""

    def waiting(self) -> AbstractContextManager[Callable[[float], None]]:
        """A function that returns after so many seconds, or earlier where something was appended since the last call.

        It may return for no reason, and need not notice an append: to wait is no substitute for a look.
        """

    def now(self, connection: Connection) -> float:
        """Unix seconds by the clock of the database, which all of its users share."""

    def size(self, connection: Connection) -> int:
        """Bytes that the log and its indexes take on the database's disk."""

    def damage(self, connection: Connection) -> str | None:
        """What the database finds wrong with its own tables and indexes; None for nothing, or where it cannot tell."""

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""


def open_database(url: str) -> Database:
    """The database behind ``url``.

    Raises ``UsageError`` for a URL that names none, ``StoreUnavailable`` where it cannot be had.
    """
    # Imported here: each needs a driver, and only one of them is used.
    if url.startswith("sqlite:"):
        from ledger.store.sqlite import SqliteFile

        return SqliteFile(url)
    if url.startswith("postgres"):
        try:
            from ledger.store.postgres import PostgresDatabase
        except ImportError as error:
            raise StoreUnavailable(
                f"PostgreSQL cannot be reached without psycopg: {error}",
                mend="pip install 'training-ledger[postgres]'",
            ) from error

        return PostgresDatabase(url)
    # Only the scheme is told: the rest of a database URL may hold a password.
    raise UsageError(
        f"no event store answers to {url.partition(':')[0] + ':' if ':' in url else url!r}",
        mend="use sqlite:///PATH, the path of a directory, postgresql://USER@HOST/DATABASE, or memory:",
    )
