"""The tables of a ledger: ``event`` is the log itself, ``stream_head`` an index of it.

``journal_position`` and ``lease`` are about writers, not about facts.
"""

from __future__ import annotations

from typing import ClassVar, Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text, UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

# SQLite numbers rows by itself only in a column whose type is exactly INTEGER.
_BIG: Final = BigInteger().with_variant(Integer(), "sqlite")


class LedgerTable(SQLModel, registry=registry()):
    """Base of the tables, in a registry of its own: other code may have an ``event`` table, too."""


class EventRow(LedgerTable, table=True):
    """One fact. Triggers refuse to change or remove a row, or to put another one in its place."""

    __tablename__: ClassVar[str] = "event"
    __table_args__ = (
        UniqueConstraint("event_id"),
        UniqueConstraint("stream", "position"),
        Index("ix_event_type", "type"),
        {"sqlite_autoincrement": True},
    )

    global_position: int | None = Field(default=None, sa_column=Column(_BIG, primary_key=True))
    event_id: str = Field(sa_type=Text)
    stream: str = Field(sa_type=Text)
    position: int = Field(sa_type=_BIG)
    type: str = Field(sa_type=Text)
    schema_version: int
    payload: str = Field(sa_type=Text)
    """Canonical JSON, byte for byte what was digested: hence text and not the database's own JSON type."""
    metadata_: str = Field(sa_column=Column("metadata", Text, nullable=False))
    recorded_at: str = Field(sa_type=Text)
    """Text for the same reason: it is part of what was digested."""
    previous_digest: str = Field(sa_type=Text)
    digest: str = Field(sa_type=Text)
    packed: bytes | None = Field(default=None, sa_type=LargeBinary)
    """A long payload, compressed; ``payload`` is empty then."""


class StreamHead(LedgerTable, table=True):
    """Where each stream stands: a mutable index of the log, kept in the transaction of every append.

    It saves a search for the end of the stream, and carries the highest attempt that may still append.
    """

    __tablename__: ClassVar[str] = "stream_head"

    stream: str = Field(sa_column=Column(Text, primary_key=True))
    version: int = Field(sa_type=_BIG)
    digest: str = Field(sa_type=Text)
    attempt: int | None = Field(default=None)


class RunName(LedgerTable, table=True):
    """The number of each run. Autoincrement keeps a number from ever being given twice."""

    __tablename__: ClassVar[str] = "run_name"
    __table_args__ = (UniqueConstraint("stream"), {"sqlite_autoincrement": True})

    number: int | None = Field(default=None, sa_column=Column(_BIG, primary_key=True))
    stream: str = Field(sa_type=Text)


class JournalPosition(LedgerTable, table=True):
    """How far each writer's journal has been taken over, moved in the transaction that appends what it held."""

    __tablename__: ClassVar[str] = "journal_position"

    journal: str = Field(sa_column=Column(Text, primary_key=True))
    position: int = Field(sa_type=_BIG)


class WriterLease(LedgerTable, table=True):
    """Until when the writer of a stream is taken to be alive."""

    __tablename__: ClassVar[str] = "lease"

    stream: str = Field(sa_column=Column(Text, primary_key=True))
    holder: str = Field(sa_type=Text)
    attempt: int
    ends_at: float
    """Unix seconds by the clock of the database."""


def _table(model: type[LedgerTable]) -> Table:
    return LedgerTable.metadata.tables[str(model.__tablename__)]


EVENT: Final = _table(EventRow)
STREAM_HEAD: Final = _table(StreamHead)
RUN_NAME: Final = _table(RunName)
JOURNAL_POSITION: Final = _table(JournalPosition)
LEASE: Final = _table(WriterLease)
