"""The projections in an SQL database, brought up to date by every append; apart, since to ask them takes much less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from sqlalchemy import and_, bindparam, delete, insert, select, update

from ledger.store.projections.fold import fold
from ledger.store.projections.history import count_again, folded, parts, size
from ledger.store.projections.rows import numbers, rows_of
from ledger.store.projections.sql import chunks, unpacked
from ledger.store.projections.summary import RunSummary
from ledger.store.projections.tables import CHECKPOINT, CONFIG, DATA, METRIC, SUMMARY, TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection, Table

    from ledger.store.projections.fold import Changes
    from ledger.store.projections.intake import Logged, Told
    from ledger.store.projections.measured import Measured
    from ledger.store.projections.rows import Row

# Built once: to put a statement together takes longer than the database takes to carry it out.
_KEPT: Final = select(SUMMARY).where(SUMMARY.c.stream == bindparam("of"))
_STANDS: Final = update(SUMMARY).where(SUMMARY.c.stream == bindparam("of"))
_METRICS: Final = select(METRIC).where(
    METRIC.c.stream == bindparam("of"), METRIC.c.name.in_(bindparam("named", expanding=True))
)
_MEASURED: Final = update(METRIC).where(METRIC.c.stream == bindparam("of"), METRIC.c.name == bindparam("named"))
_INSERTS: Final = {table: insert(table) for table in TABLES}


def apply(connection: Connection, stream: str, facts: Sequence[Told | Logged], *, after: int) -> None:
    """Bring the projections up to date with facts that this transaction appends to ``stream``.

    Their global positions count from ``after``, the end of the log before them.
    """
    if facts:
        changes = fold(stream, _kept(connection, stream), facts, after=after)
        if changes:
            _write(connection, changes)


def rebuild(connection: Connection, progress: Callable[[int, int], None] | None = None) -> None:
    """Throw the projections away and fold them again from the log.

    ``progress`` is told now and then how many events of how many are done.
    """
    for table in TABLES:
        connection.execute(delete(table))
    done, total = 0, size(connection)
    for part in parts(connection):
        for changes in folded(connection, part):
            _add(connection, rows_of(changes))
        done += part.events
        if progress:
            progress(done, total)


def _kept(connection: Connection, stream: str) -> RunSummary | None:
    row = connection.execute(_KEPT, {"of": stream}).first()
    if row is None:
        return None
    columns = dict(row._mapping)
    columns["segment"] = row.segment and tuple(orjson.loads(row.segment))
    columns["tags"] = tuple(orjson.loads(row.tags))
    columns["resumed"] = {int(attempt): step for attempt, step in orjson.loads(row.resumed).items()}
    return RunSummary(**columns)


def _write(connection: Connection, changes: Changes) -> None:
    count_again(connection, changes)
    rows = rows_of(changes)
    if not changes.began:
        _change(connection, changes, rows)
    _add(connection, rows)


def _change(connection: Connection, changes: Changes, rows: dict[Table, list[Row]]) -> None:
    """Change and remove what is kept about the run; what has to be added is left in ``rows``."""
    stream = changes.summary.stream
    for columns in rows.pop(SUMMARY):
        connection.execute(_STANDS, {"of": stream, **columns})
    if changes.anew or changes.taken_back:
        connection.execute(delete(METRIC).where(METRIC.c.stream == stream))
    else:
        rows[METRIC] = _measure(connection, stream, changes.metrics, rows[METRIC])
    if changes.config is not None:
        connection.execute(delete(CONFIG).where(CONFIG.c.stream == stream))
    if changes.data:
        again = (DATA.c.stream == stream) & DATA.c.name.in_(sorted(changes.data))
        connection.execute(delete(DATA).where(again))
    for uri, digest in changes.deleted:
        gone = and_(CHECKPOINT.c.stream == stream, CHECKPOINT.c.uri == uri, CHECKPOINT.c.digest == digest)
        connection.execute(update(CHECKPOINT).where(gone).values(deleted=True))


def _measure(connection: Connection, stream: str, metrics: Mapping[str, Measured], rows: Sequence[Row]) -> list[Row]:
    """Add these points to metrics that are kept; the rows of those that are not yet."""
    kept: dict[str, Measured] = {}
    for some in chunks(list(metrics)):
        found = connection.execute(_METRICS, {"of": stream, "named": some})
        kept |= {name: unpacked(values) for _, name, *values in found}
    moved = [{"of": stream, "named": name, **numbers(before.then(metrics[name]))} for name, before in kept.items()]
    if moved:
        connection.execute(_MEASURED, moved)
    return [row for row in rows if row["name"] not in kept]


def _add(connection: Connection, rows: Mapping[Table, Sequence[Row]]) -> None:
    for table, new in rows.items():
        if new:
            connection.execute(_INSERTS[table], new)
