"""What lists and searches ask: summaries of runs, their metrics, configurations, data and checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.drop_index("ix_event_type", "event")  # nothing looks for types any more, and every append paid for it
    op.create_table(
        "run_summary",
        key("stream"),
        sa.Column("opened", BIG, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("started_at", TEXT, nullable=False),
        sa.Column("host", TEXT, nullable=False),
        sa.Column("pid", BIG, nullable=False),
        sa.Column("process_started", TEXT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("ended_at", TEXT),
        sa.Column("ended_step", sa.Float),
        sa.Column("reached", sa.Float),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("project", TEXT),
        sa.Column("user", TEXT),
        sa.Column("replay_of", TEXT),
        sa.Column("segment", TEXT),
        sa.Column("verdict", TEXT),
        sa.Column("tags", TEXT, nullable=False),
        sa.Column("headline", TEXT),
        sa.Column("rank", sa.Integer),
        sa.Column("resumed", TEXT, nullable=False),
    )
    op.create_index("ix_run_summary_opened", "run_summary", ["opened"])
    op.create_index("ix_run_summary_status", "run_summary", ["status"])
    op.create_table("run_tag", key("stream"), key("tag"))
    op.create_table(
        "run_metric",
        key("stream"),
        key("name"),
        sa.Column("last", sa.Float),
        sa.Column("last_step", sa.Float, nullable=False),
        sa.Column("lowest", sa.Float),
        sa.Column("lowest_step", sa.Float, nullable=False),
        sa.Column("highest", sa.Float),
        sa.Column("highest_step", sa.Float, nullable=False),
        sa.Column("points", BIG, nullable=False),
    )
    op.create_index("ix_run_metric_name", "run_metric", ["name"])
    op.create_table(
        "run_config",
        key("stream"),
        key("path"),
        sa.Column("leaf", TEXT, nullable=False),
        sa.Column("number", sa.Float),
        sa.Column("text", TEXT),
    )
    op.create_index("ix_run_config_leaf", "run_config", ["leaf", "path"])
    op.create_table(
        "run_data",
        key("stream"),
        key("name"),
        sa.Column("uri", TEXT, nullable=False),
        sa.Column("commit", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
    )
    op.create_index("ix_run_data_digest", "run_data", ["digest"])
    op.create_index("ix_run_data_commit", "run_data", ["commit"])
    op.create_table(
        "run_checkpoint",
        key("position", BIG),
        sa.Column("stream", TEXT, nullable=False),
        sa.Column("uri", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
    )
    op.create_index("ix_run_checkpoint_stream", "run_checkpoint", ["stream"])
    op.create_index("ix_run_checkpoint_digest", "run_checkpoint", ["digest"])
    op.create_table(
        "run_checkpoint_file",
        key("checkpoint", BIG),
        key("path"),
        sa.Column("digest", TEXT, nullable=False),
    )
    op.create_index("ix_run_checkpoint_file_digest", "run_checkpoint_file", ["digest"])


def key(name: str, type_: sa.types.TypeEngine = TEXT) -> sa.Column:
    return sa.Column(name, type_, primary_key=True, autoincrement=False)
