"""Between what is kept about a run and the rows of the tables that keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ledger.store.projections.sql import leaf
from ledger.store.projections.tables import CHECKPOINT, CHECKPOINT_FILE, CONFIG, DATA, METRIC, SUMMARY, TAG

if TYPE_CHECKING:
    from sqlalchemy import Table

    from ledger.store.projections.fold import Changes
    from ledger.store.projections.measured import Measured
    from ledger.store.projections.summary import RunSummary

    Row = dict[str, Any]


def rows_of(changes: Changes) -> dict[Table, list[Row]]:
    """What is new in each table; all that is kept about the run, where the changes are its whole stream's."""
    stream = changes.summary.stream
    return {
        SUMMARY: [_summary(changes.summary)],
        TAG: [{"stream": stream, "tag": tag} for tag in changes.tags],
        METRIC: [{"stream": stream, "name": name, **numbers(found)} for name, found in changes.metrics.items()],
        CONFIG: [_configured(stream, *pair) for pair in (changes.config or {}).items()],
        DATA: [{"stream": stream, **data._asdict()} for data in changes.data.values()],
        CHECKPOINT: [
            {
                "position": kept.position,
                "stream": stream,
                "uri": kept.uri,
                "digest": kept.digest,
                "deleted": kept.deleted,
            }
            for kept in changes.checkpoints
        ],
        CHECKPOINT_FILE: [
            {"checkpoint": kept.position, "path": path, "digest": digest}
            for kept in changes.checkpoints
            for path, digest in kept.files
        ],
    }


def numbers(measured: Measured) -> dict[str, float | None]:
    """The columns of a metric, where NaN is NULL."""
    return {name: None if number != number else number for name, number in measured._asdict().items()}


def _summary(summary: RunSummary) -> Row:
    row = {column.name: getattr(summary, column.name) for column in SUMMARY.c}
    row["segment"] = summary.segment and orjson.dumps(summary.segment).decode()
    row["tags"] = orjson.dumps(summary.tags).decode()
    row["resumed"] = orjson.dumps(summary.resumed, option=orjson.OPT_NON_STR_KEYS).decode()
    return row


def _configured(stream: str, path: str, value: float | str) -> Row:
    text = value if isinstance(value, str) else None
    number = None if isinstance(value, str) else value
    return {"stream": stream, "path": path, "leaf": leaf(path), "number": number, "text": text}
