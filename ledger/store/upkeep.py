"""What one does to a log as a whole, whichever version of Ledger made it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from ledger.errors import NotFound
from ledger.store import schema
from ledger.store.database import open_database
from ledger.store.tables import EVENT, RUN_NAME, STREAM_HEAD

if TYPE_CHECKING:
    from sqlalchemy import Table


@dataclass(frozen=True)
class Status:
    """How a log stands."""

    place: str
    database: str
    """The kind of database, and its version."""
    revision: str
    """Of the log's schema."""
    newest: str
    """The revision that this version of Ledger works on."""
    events: int
    streams: int
    runs: int
    """Names that were given to runs."""
    bytes: int
    """On the disk, with the indexes."""


def exists(url: str) -> bool:
    """Whether there is a log at ``url``. Raises ``StoreUnavailable`` where the database cannot be asked."""
    with closing(open_database(url)) as database:
        return schema.stored(database) is not None


def status(url: str) -> Status:
    """How the log at ``url`` stands, of whatever schema. Raises ``NotFound`` and ``StoreUnavailable``."""
    with closing(open_database(url)) as database:
        revision = schema.stored(database)
        if revision is None:
            raise _no_log(database.place)
        with database.reading() as connection:

            def count(table: Table) -> int:
                return connection.execute(select(func.count()).select_from(table)).scalar_one()

            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            return Status(
                place=database.place,
                database=f"{connection.dialect.name} {version}".strip(),
                revision=revision,
                newest=schema.HEAD,
                events=count(EVENT),
                streams=count(STREAM_HEAD),
                runs=count(RUN_NAME),
                bytes=database.size(connection),
            )


def upgrade(url: str) -> tuple[str, str]:
    """Bring the log at ``url`` to the schema of this version, in one transaction; the revisions before and after.

    Raises ``NotFound`` where there is no log, ``SchemaMismatch`` for one of a newer version, ``StoreUnavailable``.
    """
    with closing(open_database(url)) as database:
        if schema.stored(database) is None:
            raise _no_log(database.place)
        return schema.upgrade(database), schema.HEAD


def _no_log(place: str) -> NotFound:
    return NotFound(f"there is no ledger in {place}", mend="`ledger init` starts one")
