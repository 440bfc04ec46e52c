"""The append-only log, the heads of its streams, the names of its runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# By code point in every database: PostgreSQL would sort by the language of whoever created it, and take its time.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    on_sqlite = op.get_context().dialect.name == "sqlite"
    op.create_table(
        "event",
        # Numbers are given by whoever appends. SQLite gets its counter because AUTOINCREMENT was there first.
        sa.Column("global_position", BIG, primary_key=True, autoincrement=on_sqlite),
        sa.Column("event_id", TEXT, nullable=False),
        sa.Column("stream", TEXT, nullable=False),
        sa.Column("position", BIG, nullable=False),
        sa.Column("type", TEXT, nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("payload", TEXT, nullable=False),
        sa.Column("metadata", TEXT, nullable=False),
        sa.Column("recorded_at", TEXT, nullable=False),
        sa.Column("previous_digest", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.UniqueConstraint("event_id"),
        sa.UniqueConstraint("stream", "position"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_type", "event", ["type"])
    op.create_table(
        "stream_head",
        sa.Column("stream", TEXT, primary_key=True),
        sa.Column("version", BIG, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("attempt", sa.Integer),
    )
    op.create_table(
        "run_name",
        sa.Column("number", BIG, primary_key=True),
        sa.Column("stream", TEXT, nullable=False),
        sa.UniqueConstraint("stream"),
        sqlite_autoincrement=True,
    )
    for statement in SQLITE_TRIGGERS if on_sqlite else POSTGRESQL_TRIGGERS:
        op.execute(statement)


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

# An INSERT cannot take the place of a row here: ON CONFLICT DO UPDATE and MERGE fire these triggers, too.
POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'the log is append-only: % of % is refused', lower(TG_OP), TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END $$
    """,
    """
    CREATE TRIGGER event_refuses_change BEFORE UPDATE OR DELETE OR TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()
    """,
    # ALWAYS: also for a session that calls itself a replica.
    "ALTER TABLE event ENABLE ALWAYS TRIGGER event_refuses_change",
)
