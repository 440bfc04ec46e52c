"""The projections in an SQL database, as lists and searches ask them; ``keeping`` keeps them up to date."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from sqlalchemy import and_, func, or_, select

from ledger.store.base import run_stream
from ledger.store.projections.measured import Measured
from ledger.store.projections.query import Names, RunQuery, Unended, WrittenCheckpoint, names_ending, shortened
from ledger.store.projections.sql_query import ORIGINAL, Asking
from ledger.store.projections.summary import RunSummary
from ledger.store.projections.tables import (
    CHECKPOINT,
    CHECKPOINT_FILE,
    CONFIG,
    METRIC,
    SUMMARY,
)
from ledger.store.tables import LEASE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Row, Select, Table


BATCH: Final = 256
"""Events, or runs, of one query: databases limit the number of parameters, and memory the number of events."""
_WHOLE: Final = 64
"""Characters of a digest that is not shortened."""
_LISTED: Final = tuple(SUMMARY.c[column.name] for column in fields(RunSummary) if column.name in SUMMARY.c)[:-2]
"""In the order of ``RunSummary``, without ``rank`` and ``resumed``, which are of no use in a list."""


class Database(Protocol):
    """Where the tables are."""

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the log."""

    def now(self, connection: Connection) -> float:
        """Unix seconds by the clock of the database."""


class SqlProjections:
    """See ``Projections``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(self, query: RunQuery) -> list[RunSummary]:
        """See ``Projections.runs``."""
        with self._database.reading() as connection:
            asking = Asking(query, connection.dialect.name)
            chosen = asking.arranged(_listing(asking))
            found = [_listed(row, len(query.asked)) for row in connection.execute(chosen).all()]
        if query.order is None and query.limit is not None:
            found.reverse()
        return found

    def metrics(self, streams: Collection[str]) -> dict[str, dict[str, Measured]]:
        """See ``Projections.metrics``."""
        found: dict[str, dict[str, Measured]] = {stream: {} for stream in streams}
        wanted = select(METRIC).order_by(METRIC.c.stream, METRIC.c.name)
        with self._database.reading() as connection:
            for some in chunks(list(found)):
                for stream, name, *numbers in connection.execute(wanted.where(METRIC.c.stream.in_(some))):
                    found[stream][name] = unpacked(numbers)
        return found

    def run_names(self) -> dict[str, str]:
        """See ``Projections.run_names``."""
        with self._database.reading() as connection:
            return dict(_pairs(connection, select(SUMMARY.c.stream, SUMMARY.c.name).order_by(SUMMARY.c.opened)))

    def find(self, name: str | None = None) -> Names:
        """See ``Projections.find``."""
        metrics = select(METRIC.c.name).distinct()
        configs = select(CONFIG.c.path, func.count(CONFIG.c.number)).group_by(CONFIG.c.path)
        if name is not None:
            metrics = metrics.where(METRIC.c.name == name)
            configs = configs.where(CONFIG.c.leaf == leaf(name))
        with self._database.reading() as connection:
            paths = {path: bool(numbers) for path, numbers in connection.execute(configs)}
            known = frozenset(connection.execute(metrics).scalars())
        return Names(known, paths if name is None else names_ending(name, paths))

    def unended(self) -> list[Unended]:
        """See ``Projections.unended``."""
        writer = (SUMMARY.c.stream, SUMMARY.c.host, SUMMARY.c.pid, SUMMARY.c.process_started)
        query = (
            select(*writer, LEASE.c.ends_at)
            .join_from(SUMMARY, LEASE, LEASE.c.stream == SUMMARY.c.stream, isouter=True)
            .where(SUMMARY.c.status == "running")
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            now = self._database.now(connection) if rows else 0.0
        return [
            Unended(stream, host, pid, started, None if ends is None else ends - now)
            for stream, host, pid, started, ends in rows
        ]

    def checkpoints(self, digests: Collection[str]) -> list[WrittenCheckpoint]:
        """See ``Projections.checkpoints``."""
        run = (CHECKPOINT.c.position, CHECKPOINT.c.stream, SUMMARY.c.name, SUMMARY.c.replay_of)
        written = select(*run).join_from(CHECKPOINT, SUMMARY, SUMMARY.c.stream == CHECKPOINT.c.stream)
        whole = written.where(_begins(CHECKPOINT, digests))
        part = (
            written.add_columns(func.min(CHECKPOINT_FILE.c.path))
            .join(CHECKPOINT_FILE, CHECKPOINT_FILE.c.checkpoint == CHECKPOINT.c.position)
            .where(_begins(CHECKPOINT_FILE, digests))
            .group_by(*run)
        )
        with self._database.reading() as connection:
            found = {row[0]: row for row in connection.execute(part)}
            found |= {row[0]: (*row, None) for row in connection.execute(whole)}
        matches = [
            WrittenCheckpoint(at, stream, name, bool(original), file)
            for at, stream, name, original, file in found.values()
        ]
        return sorted(matches, key=lambda match: (match.replay, match.position))


def unpacked(numbers: Iterable[Any]) -> Measured:
    """The numbers of a metric out of its row, where NaN is NULL."""
    return Measured._make(math.nan if number is None else number for number in numbers)


def leaf(path: str) -> str:
    """The last part of a dotted path."""
    return path.rpartition(".")[2]


def _listing(asking: Asking) -> Select[Any]:
    """What is listed of each run; the value of the headline's metric comes from beside it."""
    columns = (asking.status.label("status") if column.name == "status" else column for column in _LISTED)
    shown = (METRIC.c.stream == SUMMARY.c.stream) & (METRIC.c.name == SUMMARY.c.headline)
    original = ORIGINAL.c.stream == run_stream("") + SUMMARY.c.replay_of
    return (
        select(*columns, METRIC.c.last, ORIGINAL.c.name, *asking.asked())
        .join_from(SUMMARY, METRIC, shown, isouter=True)
        .join(ORIGINAL, original, isouter=True)
    )


def _listed(row: Row[Any], asked: int) -> RunSummary:
    width = len(_LISTED)
    summary = RunSummary(*row[:width])
    summary.segment = summary.segment and tuple(orjson.loads(summary.segment))  # type: ignore[arg-type]
    summary.tags = tuple(orjson.loads(summary.tags)) if summary.tags != "[]" else ()  # type: ignore[arg-type,comparison-overlap]
    if summary.headline is not None:
        summary.metrics = {summary.headline: math.nan if row[width] is None else row[width]}
    summary.original = row[width + 1]
    if asked:
        values = iter(row[width + 2 :])
        summary.asked = tuple(text if number is None else number for number, text in zip(values, values, strict=True))
    return summary


def _pairs(connection: Connection, query: Select[Any]) -> Iterator[tuple[str, str]]:
    yield from connection.execute(query)


def _begins(table: Table, digests: Collection[str]) -> Any:
    whole = [digest.lower() for digest in digests if len(digest) == _WHOLE]
    short = [shortened(digest) for digest in digests if len(digest) < _WHOLE]
    # As one list: a thousand of them take a twentieth of the time that as many ranges do.
    return or_(table.c.digest.in_(whole), *(and_(table.c.digest >= low, table.c.digest < high) for low, high in short))


def chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """The values, as many at a time as a query takes."""
    for start in range(0, len(values), BATCH):
        yield values[start : start + BATCH]
