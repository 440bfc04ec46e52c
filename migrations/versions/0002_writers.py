"""Compressed payloads; how far the journals of writers have been taken over; the leases that tell who lives."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("event", sa.Column("packed", sa.LargeBinary))
    op.create_table(
        "journal_position",
        sa.Column("journal", TEXT, primary_key=True),
        sa.Column("position", BIG, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
    )
    op.create_table(
        "lease",
        sa.Column("stream", TEXT, primary_key=True),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("ends_at", sa.Float, nullable=False),
    )
