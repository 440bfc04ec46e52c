"""How far each run was delivered to each other tracker, and who delivers it now."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "mirror_cursor",
        sa.Column("mirror", TEXT, primary_key=True),
        sa.Column("target", TEXT, primary_key=True),
        sa.Column("stream", TEXT, primary_key=True),
        sa.Column("position", BIG, nullable=False),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("ends_at", sa.Float, nullable=False),
    )
