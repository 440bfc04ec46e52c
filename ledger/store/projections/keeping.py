"""The projections in an SQL database, brought up to date by every append; apart, since to ask them takes much less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import and_, bindparam, delete, insert, select, update

from ledger.codec import Metadata
from ledger.store.base import run_stream
from ledger.store.head import Entry
from ledger.store.packing import unpack
from ledger.store.projections.fold import fold, measured_again
from ledger.store.projections.intake import MEASURING, TYPES, take_in
from ledger.store.projections.sql import BATCH, chunks, leaf, unpacked
from ledger.store.projections.summary import RunSummary
from ledger.store.projections.tables import (
    CHECKPOINT,
    CHECKPOINT_FILE,
    CONFIG,
    DATA,
    METRIC,
    SUMMARY,
    TABLES,
    TAG,
)
from ledger.store.tables import EVENT, STREAM_HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from sqlalchemy import Connection, Table

    from ledger.store.projections.fold import Changes
    from ledger.store.projections.intake import Logged, Told
    from ledger.store.projections.measured import Measured

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

    ``progress`` is told, after each stream, how many events of how many are done.
    """
    for table in TABLES:
        connection.execute(delete(table))
    runs = STREAM_HEAD.c.stream.startswith(run_stream(""), autoescape=True)
    streams = connection.execute(select(STREAM_HEAD.c.stream, STREAM_HEAD.c.version).where(runs)).all()
    done, total = 0, sum(version + 1 for _, version in streams)
    for stream, version in streams:
        changes = fold(stream, None, take_in(_entries(connection, stream, TYPES)))
        if changes:
            _write(connection, changes)
        done += version + 1
        if progress:
            progress(done, total)


def _entries(connection: Connection, stream: str, types: Collection[str]) -> Iterator[Entry]:
    """Events of one stream in order."""
    columns = (EVENT.c.global_position, EVENT.c.type, EVENT.c.schema_version, EVENT.c.payload, EVENT.c.packed)
    query = (
        select(EVENT.c.position, *columns, EVENT.c.metadata, EVENT.c.recorded_at)
        .where(EVENT.c.stream == stream, EVENT.c.position > bindparam("after"), EVENT.c.type.in_(sorted(types)))
        .order_by(EVENT.c.position)
        .limit(BATCH)
    )
    after = -1
    while rows := connection.execute(query, {"after": after}).all():
        after = rows[-1].position
        for _, number, kind, version, payload, packed, metadata, at in rows:
            yield Entry(number, kind, version, unpack(payload, packed), Metadata(**orjson.loads(metadata)), at)


def _kept(connection: Connection, stream: str) -> RunSummary | None:
    row = connection.execute(_KEPT, {"of": stream}).first()
    if row is None:
        return None
    columns = dict(row._mapping)
    columns["tags"] = tuple(orjson.loads(row.tags))
    columns["resumed"] = {int(attempt): step for attempt, step in orjson.loads(row.resumed).items()}
    return RunSummary(**columns)


def _write(connection: Connection, changes: Changes) -> None:
    summary, stream = changes.summary, changes.summary.stream
    if changes.taken_back:
        # Rare, and worth a look at the whole run: which of the points that are left is the lowest, nothing kept tells.
        changes.metrics = measured_again(summary, take_in(_entries(connection, stream, MEASURING)))
    columns: dict[str, Any] = {column.name: getattr(summary, column.name) for column in SUMMARY.c}
    columns["tags"] = orjson.dumps(summary.tags).decode()
    columns["resumed"] = orjson.dumps(summary.resumed, option=orjson.OPT_NON_STR_KEYS).decode()
    if changes.began:
        _add(connection, SUMMARY, [columns])
    else:
        connection.execute(_STANDS, {"of": stream, **columns})
    _add(connection, TAG, [{"stream": stream, "tag": tag} for tag in changes.tags])
    _write_metrics(connection, changes)
    if changes.config is not None:
        connection.execute(delete(CONFIG).where(CONFIG.c.stream == stream))
        _add(connection, CONFIG, [_configured(stream, *pair) for pair in changes.config.items()])
    if changes.data:
        again = (DATA.c.stream == stream) & DATA.c.name.in_(sorted(changes.data))
        connection.execute(delete(DATA).where(again))
        _add(connection, DATA, [{"stream": stream, **data._asdict()} for data in changes.data.values()])
    for uri, digest in changes.deleted:
        gone = and_(CHECKPOINT.c.stream == stream, CHECKPOINT.c.uri == uri, CHECKPOINT.c.digest == digest)
        connection.execute(update(CHECKPOINT).where(gone).values(deleted=True))
    for position, uri, digest, deleted, files in changes.checkpoints:
        _add(
            connection,
            CHECKPOINT,
            [{"position": position, "stream": stream, "uri": uri, "digest": digest, "deleted": deleted}],
        )
        _add(
            connection,
            CHECKPOINT_FILE,
            [{"checkpoint": position, "path": path, "digest": digest} for path, digest in files],
        )


def _write_metrics(connection: Connection, changes: Changes) -> None:
    stream = changes.summary.stream
    kept: dict[str, Measured] = {}
    if changes.anew or changes.taken_back:
        connection.execute(delete(METRIC).where(METRIC.c.stream == stream))
    elif changes.metrics and not changes.began:
        for some in chunks(list(changes.metrics)):
            rows = connection.execute(_METRICS, {"of": stream, "named": some})
            kept |= {name: unpacked(numbers) for _, name, *numbers in rows}
    new, moved = [], []
    for name, measured in changes.metrics.items():
        if name in kept:
            moved.append({"of": stream, "named": name, **_numbers(kept[name].then(measured))})
        else:
            new.append({"stream": stream, "name": name, **_numbers(measured)})
    _add(connection, METRIC, new)
    if moved:
        connection.execute(_MEASURED, moved)


def _add(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        connection.execute(_INSERTS[table], rows)


def _numbers(measured: Measured) -> dict[str, float | None]:
    return {name: None if number != number else number for name, number in measured._asdict().items()}


def _configured(stream: str, path: str, value: float | str) -> dict[str, Any]:
    text = value if isinstance(value, str) else None
    number = None if isinstance(value, str) else value
    return {"stream": stream, "path": path, "leaf": leaf(path), "number": number, "text": text}
