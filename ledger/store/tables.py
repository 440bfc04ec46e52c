"""The tables of a ledger: ``event`` is the log itself, ``stream_head`` an index of it.

``journal_position`` and ``lease`` are about writers, ``mirror_cursor`` is about other trackers: no facts. Plain tables,
not SQLModel's classes: no object is ever made of a row one by one, and what declares them would be half of what every
command needs to start.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, MetaData, Table, Text, UniqueConstraint

METADATA: Final = MetaData()
"""Ledger's own: other code may have an ``event`` table, too."""
# SQLite numbers rows by itself only in a column whose type is exactly INTEGER.
_BIG: Final = BigInteger().with_variant(Integer(), "sqlite")
# By code point in every database: PostgreSQL would sort by the language of whoever created it.
_TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")


def _column(name: str, type_: Any = _TEXT, *, null: bool = False) -> Column[Any]:
    return Column(name, type_, nullable=null)


EVENT: Final = Table(
    "event",
    METADATA,
    Column("global_position", _BIG, primary_key=True),
    _column("event_id"),
    _column("stream"),
    _column("position", _BIG),
    _column("type"),
    _column("schema_version", Integer),
    _column("payload"),
    _column("metadata"),
    _column("recorded_at"),
    _column("previous_digest"),
    _column("digest"),
    _column("packed", LargeBinary, null=True),
    UniqueConstraint("event_id"),
    UniqueConstraint("stream", "position"),
    sqlite_autoincrement=True,
)
"""One fact a row. Triggers refuse to change or remove a row, or to put another one in its place.

``payload`` is canonical JSON, byte for byte what was digested, hence text and not the database's own JSON type; so is
``recorded_at``. A long payload is in ``packed``, compressed; ``payload`` is empty then.
"""

STREAM_HEAD: Final = Table(
    "stream_head",
    METADATA,
    Column("stream", _TEXT, primary_key=True),
    _column("version", _BIG),
    _column("digest"),
    _column("attempt", Integer, null=True),
)
"""Where each stream stands: a mutable index of the log, kept in the transaction of every append.

It saves a search for the end of the stream, and carries the highest attempt that may still append.
"""

RUN_NAME: Final = Table(
    "run_name",
    METADATA,
    Column("number", _BIG, primary_key=True),
    _column("stream"),
    UniqueConstraint("stream"),
    sqlite_autoincrement=True,
)
"""The number of each run. Autoincrement keeps a number from ever being given twice."""

JOURNAL_POSITION: Final = Table(
    "journal_position",
    METADATA,
    Column("journal", _TEXT, primary_key=True),
    _column("position", _BIG),
    _column("digest"),
)
"""How far each writer's journal has been taken over, moved in the transaction that appends what it held.

No event says so as well: ``digest`` (see ``places``) is how a change is seen.
"""

LEASE: Final = Table(
    "lease",
    METADATA,
    Column("stream", _TEXT, primary_key=True),
    _column("holder"),
    _column("attempt", Integer),
    _column("ends_at", Float),
)
"""Until when the writer of a stream is taken to be alive: Unix seconds by the clock of the database."""

MIRROR_CURSOR: Final = Table(
    "mirror_cursor",
    METADATA,
    Column("mirror", _TEXT, primary_key=True),
    Column("target", _TEXT, primary_key=True),
    Column("stream", _TEXT, primary_key=True),
    _column("position", _BIG),
    _column("holder"),
    _column("ends_at", Float),
)
"""How far each run was delivered to each other tracker; who delivers it until when, as in ``lease``."""
