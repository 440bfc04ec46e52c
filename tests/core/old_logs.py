"""Logs as older versions of Ledger left them."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from ledger.codec import Recorded, metadata_json, new_id
from ledger.events import MetricsLogged, RunCompleted
from ledger.store import schema
from ledger.store.database import open_database
from ledger.testing import builders

_INSERT = (
    "INSERT INTO event (global_position, event_id, stream, position, type, schema_version, payload, metadata, "
    "recorded_at, previous_digest, digest) VALUES (:global_position, :event_id, :stream, :position, :type, "
    ":schema_version, :payload, :metadata, :recorded_at, :previous_digest, :digest)"
)


def old_log(url: str) -> list[Recorded]:
    """Make a log of schema 0001 at ``url``, with one run in it, completed; its events."""
    long = MetricsLogged(step=tuple(range(300)), time=(1e9,) * 300, values={"train/loss": (0.25,) * 300})
    facts = [builders.run_started(), builders.logged({1: {"train/loss": 0.5}}), long, RunCompleted(step=299)]
    events = builders.stream(facts, run_id=new_id())
    with closing(open_database(url)) as database, database.writing() as connection:
        config = Config()
        config.set_main_option("script_location", str(schema.migrations()))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text(_INSERT), [_row(event) for event in events])
        end = events[-1]
        head = {"stream": end.stream, "version": end.position, "digest": end.digest, "attempt": end.metadata.attempt}
        connection.execute(text("INSERT INTO stream_head VALUES (:stream, :version, :digest, :attempt)"), head)
        connection.execute(text("INSERT INTO run_name (stream) VALUES (:stream)"), head)
    return events


def _row(event: Recorded) -> dict[str, Any]:
    columns = ("global_position", "event_id", "stream", "position", "type", "schema_version", "recorded_at")
    digests = ("previous_digest", "digest")
    return {name: getattr(event, name) for name in (*columns, *digests)} | {
        "payload": event.payload.decode(),
        "metadata": metadata_json(event.metadata).decode(),
    }
