"""The log, read run by run for the projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, bindparam, exists, func, or_, select, true

from ledger.events import RunStarted
from ledger.store.head import Entry
from ledger.store.packing import unpack
from ledger.store.projections.fold import fold, measured_again
from ledger.store.projections.intake import MEASURING, TYPES, take_in
from ledger.store.projections.sql import BATCH
from ledger.store.rows import read_metadata
from ledger.store.tables import EVENT, STREAM_HEAD

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Column, ColumnElement, Connection

    from ledger.store.projections.fold import Changes

_STREAMS: Final = 100
"""Of a part: neither the memory that it takes, nor its transaction, grows with the log."""


@dataclass(frozen=True)
class Part:
    """Streams that follow each other by name, and all that has a name between theirs."""

    after: str | None = None
    """The last stream of the part before; None for the first part."""
    last: str | None = None
    """None where the part goes to the end."""
    events: int = 0

    def holds(self, stream: Column[str]) -> ColumnElement[bool]:
        """Whether a row is in this part. Every row is in one of them, whatever stands in it for a stream."""
        above = true() if self.after is None else stream > self.after
        within = and_(above, true() if self.last is None else stream <= self.last)
        return or_(within, stream.is_(None)) if self.after is None else within


def parts(connection: Connection) -> Iterator[Part]:
    """The whole log."""
    part: Part | None = None
    while part := next_part(connection, part):
        yield part


def next_part(connection: Connection, before: Part | None) -> Part | None:
    """The part after this one, the first for None; None where there are no more."""
    if before and before.last is None:
        return None
    after = before.last if before else None
    query = select(STREAM_HEAD.c.stream, STREAM_HEAD.c.version).order_by(STREAM_HEAD.c.stream).limit(_STREAMS)
    streams = connection.execute(query if after is None else query.where(STREAM_HEAD.c.stream > after)).all()
    last = streams[-1].stream if len(streams) == _STREAMS else None
    return Part(after, last, sum(version + 1 for _, version in streams))


def size(connection: Connection) -> int:
    """How many events there are in all parts."""
    return int(connection.execute(select(func.sum(STREAM_HEAD.c.version + 1))).scalar() or 0)


def folded(connection: Connection, part: Part) -> Iterator[Changes]:
    """What each run of this part comes to, from its first event to its last."""
    # Streams that are no run's may be long, and are not worth reading.
    began = exists().where(EVENT.c.stream == STREAM_HEAD.c.stream, EVENT.c.type == RunStarted.type)
    runs = select(STREAM_HEAD.c.stream).where(part.holds(STREAM_HEAD.c.stream), began).order_by(STREAM_HEAD.c.stream)
    for stream in connection.execute(runs).scalars().all():
        changes = fold(stream, None, take_in(_entries(connection, stream, TYPES)))
        if changes:
            count_again(connection, changes)
            yield changes


def count_again(connection: Connection, changes: Changes) -> None:
    """Measure the run's metrics anew, where points were taken back.

    Rare, and worth a look at the whole run: which of the points that are left is the lowest, nothing kept tells.
    """
    if changes.taken_back:
        facts = take_in(_entries(connection, changes.summary.stream, MEASURING))
        changes.metrics = measured_again(changes.summary, facts)


def _entries(connection: Connection, stream: str, types: Collection[str]) -> Iterator[Entry]:
    """Events of one stream in order."""
    columns = (EVENT.c.global_position, EVENT.c.type, EVENT.c.schema_version, EVENT.c.payload, EVENT.c.packed)
    query = (
        select(EVENT.c.position, *columns, EVENT.c.metadata, EVENT.c.recorded_at)
        .where(EVENT.c.stream == stream, EVENT.c.position > bindparam("after"), EVENT.c.type.in_(sorted(types)))
        .order_by(EVENT.c.position)
        .limit(BATCH)
    )
    rows = connection.execute(query, {"after": -1}).all()
    while rows:
        for _, number, kind, version, payload, packed, metadata, at in rows:
            yield Entry(number, kind, version, unpack(payload, packed), read_metadata(metadata), at)
        more = len(rows) == BATCH
        rows = connection.execute(query, {"after": rows[-1].position}).all() if more else []
