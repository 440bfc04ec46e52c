"""The append-only log, the heads of its streams, the names of its runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("global_position", BIG, primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("position", BIG, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("recorded_at", sa.Text, nullable=False),
        sa.Column("previous_digest", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.UniqueConstraint("event_id"),
        sa.UniqueConstraint("stream", "position"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_type", "event", ["type"])
    op.create_table(
        "stream_head",
        sa.Column("stream", sa.Text, primary_key=True),
        sa.Column("version", BIG, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer),
    )
    op.create_table(
        "run_name",
        sa.Column("number", BIG, primary_key=True),
        sa.Column("stream", sa.Text, nullable=False),
        sa.UniqueConstraint("stream"),
        sqlite_autoincrement=True,
    )
    for trigger in SQLITE_TRIGGERS:
        op.execute(trigger)


SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER event_refuses_update BEFORE UPDATE ON event BEGIN
        SELECT RAISE(ABORT, 'the log is append-only: an event cannot be changed');
    END
    """,
    """
    CREATE TRIGGER event_refuses_delete BEFORE DELETE ON event BEGIN
        SELECT RAISE(ABORT, 'the log is append-only: an event cannot be deleted');
    END
    """,
    # INSERT OR REPLACE deletes the row in its way without firing the trigger above (unless the connection
    # has asked for recursive_triggers), so it is stopped before it finds that row.
    """
    CREATE TRIGGER event_refuses_replace BEFORE INSERT ON event
    WHEN EXISTS (SELECT 1 FROM event WHERE global_position = NEW.global_position)
        OR EXISTS (SELECT 1 FROM event WHERE event_id = NEW.event_id)
        OR EXISTS (SELECT 1 FROM event WHERE stream = NEW.stream AND position = NEW.position)
    BEGIN
        SELECT RAISE(ABORT, 'the log is append-only: an event cannot be replaced');
    END
    """,
)
