"""The tables of the projections: what is folded from the log, and can be folded again (see ``projections``).

No object is ever made of one of their rows one by one, hence plain tables.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, Table, Text

from ledger.store.tables import METADATA

_BIG: Final = BigInteger().with_variant(Integer(), "sqlite")
# By code point in every database: PostgreSQL would sort by the language of whoever created it.
_TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")


def _key(name: str, type_: Any = _TEXT) -> Column[Any]:
    # Without autoincrement, which SQLAlchemy would give to a lone integer key on PostgreSQL.
    return Column(name, type_, primary_key=True, autoincrement=False)


def _column(name: str, type_: Any = _TEXT, *, null: bool = False) -> Column[Any]:
    return Column(name, type_, nullable=null)


SUMMARY: Final = Table(
    "run_summary",
    METADATA,
    _key("stream"),
    _column("opened", _BIG),
    _column("name"),
    _column("kind"),
    _column("started_at"),
    _column("host"),
    _column("pid", _BIG),
    _column("process_started"),
    _column("status"),
    _column("ended_at", null=True),
    _column("ended_step", Float, null=True),
    _column("reached", Float, null=True),
    _column("attempts", Integer),
    _column("project", null=True),
    _column("user", null=True),
    _column("replay_of", null=True),
    _column("segment", null=True),
    _column("verdict", null=True),
    _column("tags"),
    _column("headline", null=True),
    _column("rank", Integer, null=True),
    _column("resumed"),
    Index("ix_run_summary_opened", "opened"),
    Index("ix_run_summary_status", "status"),
)
"""``segment``, ``tags``, ``resumed`` are JSON; ``started_at`` and ``ended_at`` the ``recorded_at`` of their events."""

TAG: Final = Table("run_tag", METADATA, _key("stream"), _key("tag"))

METRIC: Final = Table(
    "run_metric",
    METADATA,
    _key("stream"),
    _key("name"),
    _column("last", Float, null=True),
    _column("last_step", Float),
    _column("lowest", Float, null=True),
    _column("lowest_step", Float),
    _column("highest", Float, null=True),
    _column("highest_step", Float),
    _column("points", _BIG),
    Index("ix_run_metric_name", "name"),
)
"""A value that is NULL is NaN: so it is in SQLite anyhow, and a comparison with it holds nowhere."""

CONFIG: Final = Table(
    "run_config",
    METADATA,
    _key("stream"),
    _key("path"),
    _column("leaf"),
    _column("number", Float, null=True),
    _column("text", null=True),
    Index("ix_run_config_leaf", "leaf", "path"),
)
"""One of ``number`` and ``text`` is NULL. ``leaf`` is the last part of ``path``."""

DATA: Final = Table(
    "run_data",
    METADATA,
    _key("stream"),
    _key("name"),
    _column("uri"),
    _column("commit"),
    _column("digest"),
    Index("ix_run_data_digest", "digest"),
    Index("ix_run_data_commit", "commit"),
)

CHECKPOINT: Final = Table(
    "run_checkpoint",
    METADATA,
    _key("position", _BIG),
    _column("stream"),
    _column("uri"),
    _column("digest"),
    _column("deleted", Boolean),
    Index("ix_run_checkpoint_stream", "stream"),
    Index("ix_run_checkpoint_digest", "digest"),
)
"""``position`` is the global position of the fact, which holds the rest."""

CHECKPOINT_FILE: Final = Table(
    "run_checkpoint_file",
    METADATA,
    _key("checkpoint", _BIG),
    _key("path"),
    _column("digest"),
    Index("ix_run_checkpoint_file_digest", "digest"),
)

TABLES: Final = (SUMMARY, TAG, METRIC, CONFIG, DATA, CHECKPOINT, CHECKPOINT_FILE)
