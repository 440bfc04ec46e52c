"""The log in an SQL database: an SQLite file, and written so that another database needs little more."""

from __future__ import annotations

import time
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import func, insert, select, union_all, update

from ledger.codec import Metadata, Recorded
from ledger.errors import JournalMoved
from ledger.store.base import ANY, NO_STREAM, Lease
from ledger.store.head import Head, Link, admit_holder, foreign_event, utc_now
from ledger.store.packing import pack, unpack
from ledger.store.reference import LATEST, as_number, as_stream_prefix, run_name
from ledger.store.schema import prepare
from ledger.store.sqlite import SqliteFile
from ledger.store.tables import EVENT, JOURNAL_POSITION, LEASE, RUN_NAME, STREAM_HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator, Sequence

    from sqlalchemy import Connection, Select

    from ledger.codec import Codec, Draft
    from ledger.store.base import JournalSpan

_BATCH: Final = 256
"""Events read in one transaction; a reader holds nothing of the database between two batches."""
_IDS: Final = 500
"""Values in one IN list; databases limit their number."""


class SqlStore:
    """An ``EventStore`` in an SQLite file, which opening it creates or upgrades."""

    def __init__(self, url: str, codec: Codec) -> None:
        """Raises ``StoreUnavailable``, or ``SchemaMismatch`` for a log of a newer version of Ledger."""
        self.url = url
        self._codec = codec
        self._database = SqliteFile(url)
        self._appends = count(1)
        self._appended = 0
        prepare(self._database)

    def append(
        self,
        stream: str,
        drafts: Sequence[Draft],
        *,
        expected_version: int = ANY,
        span: JournalSpan | None = None,
    ) -> list[Recorded]:
        """See ``EventStore.append``."""
        if not drafts and span is None:
            return []
        with self._database.writing() as connection:
            if span:
                _move_journal(connection, span)
            events = self._stored(connection, stream, drafts)
            new = {draft.event_id: draft for draft in drafts if draft.event_id not in events}
            if new:
                head = _head(connection, stream)
                head.require(expected_version)
                links, after = head.extend(new.values(), utc_now())
                events |= self._insert(connection, links)
                _move(connection, head, after)
        self._appended = next(self._appends)
        return [events[draft.event_id] for draft in drafts]

    def read(self, stream: str, *, after: int = -1, limit: int | None = None) -> Iterator[Recorded]:
        """See ``EventStore.read``."""

        def following(after: int, size: int) -> Select[Any]:
            above = (EVENT.c.stream == stream) & (EVENT.c.position > after)
            return select(EVENT).where(above).order_by(EVENT.c.position).limit(size)

        return self._batches(following, lambda event: event.position, after, limit)

    def read_all(
        self, *, after: int = 0, limit: int | None = None, types: Collection[str] | None = None
    ) -> Iterator[Recorded]:
        """See ``EventStore.read_all``."""
        wanted = None if types is None else sorted(set(types))
        if wanted == []:
            return iter(())
        return self._batches(lambda a, size: _in_log_order(a, size, wanted), lambda e: e.global_position, after, limit)

    def subscribe(self, *, after: int = 0, stream: str | None = None, poll: float = 0.1) -> Iterator[Recorded | None]:
        """See ``EventStore.subscribe``."""
        position = -1 if stream is None else self._position(stream, after)
        seen: Hashable = None
        while True:
            # Looked at before reading: what is committed in between costs a second look, and is never missed.
            now = self._mark()
            if now != seen:
                for event in self.read_all(after=after) if stream is None else self.read(stream, after=position):
                    after, position = event.global_position, event.position
                    yield event
                seen = now
            yield None
            time.sleep(poll)

    def name_run(self, stream: str) -> str:
        """See ``EventStore.name_run``."""
        number = select(RUN_NAME.c.number).where(RUN_NAME.c.stream == stream)
        with self._database.reading() as connection:
            named = connection.execute(number).scalar()
        if named is None:
            with self._database.writing() as connection:
                named = connection.execute(number).scalar()
                if named is None:
                    added = insert(RUN_NAME).values(stream=stream).returning(RUN_NAME.c.number)
                    named = connection.execute(added).scalar_one()
        return run_name(named)

    def find_streams(self, reference: str) -> list[str]:
        """See ``EventStore.find_streams``."""
        query = _search(reference)
        if query is None:
            return []
        with self._database.reading() as connection:
            return [stream for (stream,) in connection.execute(query)]

    def head(self, stream: str) -> tuple[int, str]:
        """See ``EventStore.head``."""
        with self._database.reading() as connection:
            head = _head(connection, stream)
        return head.version, head.digest

    def journal_position(self, journal: str) -> int:
        """See ``EventStore.journal_position``."""
        with self._database.reading() as connection:
            return _position_of(connection, journal) or 0

    def renew_lease(self, stream: str, holder: str, attempt: int, seconds: float) -> None:
        """See ``EventStore.renew_lease``."""
        with self._database.writing() as connection:
            holding = connection.execute(select(LEASE.c.attempt).where(LEASE.c.stream == stream)).scalar()
            admit_holder(stream, attempt, holding)
            values = {"holder": holder, "attempt": attempt, "ends_at": self._database.now(connection) + seconds}
            if holding is None:
                connection.execute(insert(LEASE).values(stream=stream, **values))
            else:
                connection.execute(update(LEASE).where(LEASE.c.stream == stream).values(**values))

    def lease(self, stream: str) -> Lease | None:
        """See ``EventStore.lease``."""
        query = select(LEASE.c.holder, LEASE.c.attempt, LEASE.c.ends_at).where(LEASE.c.stream == stream)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
            return Lease(row.holder, row.attempt, row.ends_at - self._database.now(connection)) if row else None

    def close(self) -> None:
        """See ``EventStore.close``."""
        self._database.close()

    def _batches(
        self,
        following: Callable[[int, int], Select[Any]],
        place: Callable[[Recorded], int],
        after: int,
        limit: int | None,
    ) -> Iterator[Recorded]:
        """Events that ``following(after, size)`` selects, batch by batch."""
        left = limit
        while left is None or left > 0:
            size = _BATCH if left is None else min(left, _BATCH)
            with self._database.reading() as connection:
                rows = connection.execute(following(after, size)).all()
            for row in rows:
                event = self._recorded(row)
                after = place(event)
                yield event
            if len(rows) < size:
                return
            left = None if left is None else left - size

    def _stored(self, connection: Connection, stream: str, drafts: Sequence[Draft]) -> dict[str, Recorded]:
        """Those of the drafts that the stream holds already."""
        found: dict[str, Recorded] = {}
        for start in range(0, len(drafts), _IDS):
            some = [draft.event_id for draft in drafts[start : start + _IDS]]
            for row in connection.execute(select(EVENT).where(EVENT.c.event_id.in_(some))):
                event = self._recorded(row)
                found[event.event_id] = event
        for draft in drafts:
            held = found.get(draft.event_id)
            if held and held.stream != stream:
                raise foreign_event(held.event_id, held.stream, stream)
        return found

    def _insert(self, connection: Connection, links: list[Link]) -> dict[str, Recorded]:
        """Write new events; numbered here and not by the database, whose numbers have gaps and are no promise."""
        last = connection.execute(select(func.max(EVENT.c.global_position))).scalar() or 0
        connection.execute(insert(EVENT), [_row(number, link) for number, link in enumerate(links, last + 1)])
        return {
            link.draft.event_id: link.recorded(number, self._codec) for number, link in enumerate(links, last + 1)
        }

    def _mark(self) -> Hashable:
        # A connection's own commits do not move its data_version, and appends share the pool: hence the
        # second part.
        with self._database.reading() as connection:
            return self._database.mark(connection), self._appended

    def _position(self, stream: str, after: int) -> int:
        """Position of the stream's last event up to a global position."""
        query = (
            select(EVENT.c.position)
            .where(EVENT.c.stream == stream, EVENT.c.global_position <= after)
            .order_by(EVENT.c.position.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            position = connection.execute(query).scalar()
        return -1 if position is None else position

    def _recorded(self, row: Sequence[Any]) -> Recorded:
        """The event in a row of ``event``."""
        number, event_id, stream, position, kind, version, payload, metadata, at, previous, digest, packed = row
        return Recorded(
            global_position=number,
            event_id=event_id,
            stream=stream,
            position=position,
            type=kind,
            schema_version=version,
            payload=unpack(payload, packed),
            metadata=_metadata(metadata),
            recorded_at=at,
            previous_digest=previous,
            digest=digest,
            codec=self._codec,
        )


@lru_cache(maxsize=256)
def _metadata(text: str) -> Metadata:
    """Cached, since all events of a process carry the same."""
    return Metadata(**orjson.loads(text))


def _row(number: int, link: Link) -> dict[str, Any]:
    payload, packed = pack(link.draft.payload)
    return {
        "global_position": number,
        "event_id": link.draft.event_id,
        "stream": link.stream,
        "position": link.position,
        "type": link.draft.type,
        "schema_version": link.draft.schema_version,
        "payload": payload,
        "packed": packed,
        "metadata": link.metadata.decode(),
        "recorded_at": link.recorded_at,
        "previous_digest": link.previous_digest,
        "digest": link.digest,
    }


def _position_of(connection: Connection, journal: str) -> int | None:
    query = select(JOURNAL_POSITION.c.position).where(JOURNAL_POSITION.c.journal == journal)
    return connection.execute(query).scalar()


def _move_journal(connection: Connection, span: JournalSpan) -> None:
    stands = _position_of(connection, span.journal)
    if (stands or 0) != span.start:
        raise JournalMoved(span.journal, stands or 0)
    if stands is None:
        connection.execute(insert(JOURNAL_POSITION).values(journal=span.journal, position=span.end))
    else:
        here = JOURNAL_POSITION.c.journal == span.journal
        connection.execute(update(JOURNAL_POSITION).where(here).values(position=span.end))


def _head(connection: Connection, stream: str) -> Head:
    last = (EVENT.c.stream == STREAM_HEAD.c.stream) & (EVENT.c.position == STREAM_HEAD.c.version)
    row = connection.execute(
        select(STREAM_HEAD.c.version, STREAM_HEAD.c.digest, STREAM_HEAD.c.attempt, EVENT.c.recorded_at)
        .join_from(STREAM_HEAD, EVENT, last)
        .where(STREAM_HEAD.c.stream == stream)
    ).first()
    return Head(stream, *row) if row else Head(stream)


def _move(connection: Connection, before: Head, after: Head) -> None:
    values = {"version": after.version, "digest": after.digest, "attempt": after.attempt}
    if before.version == NO_STREAM:
        connection.execute(insert(STREAM_HEAD).values(stream=after.stream, **values))
    else:
        connection.execute(update(STREAM_HEAD).where(STREAM_HEAD.c.stream == after.stream).values(**values))


def _in_log_order(after: int, size: int, types: list[str] | None) -> Select[Any]:
    """The next ``size`` events of the log.

    For several types, the next of each type merged: with a plain IN, SQLite would sort all the events that
    are left of these types for every batch.
    """

    def following(kind: str | None) -> Select[Any]:
        query = select(EVENT).where(EVENT.c.global_position > after)
        if kind is not None:
            query = query.where(EVENT.c.type == kind)
        return query.order_by(EVENT.c.global_position).limit(size)

    if types is None or len(types) == 1:
        return following(types[0] if types else None)
    merged = union_all(*(select(following(kind).subquery()) for kind in types)).subquery()
    return select(merged).order_by(merged.c.global_position).limit(size)


def _search(reference: str) -> Select[str] | None:
    """Streams that ``reference`` may mean; None where it can mean no run at all."""
    if reference == LATEST:
        return (
            select(RUN_NAME.c.stream)
            .join_from(RUN_NAME, STREAM_HEAD, RUN_NAME.c.stream == STREAM_HEAD.c.stream)
            .order_by(RUN_NAME.c.number.desc())
            .limit(1)
        )
    if (number := as_number(reference)) is not None:
        return select(RUN_NAME.c.stream).where(RUN_NAME.c.number == number)
    if (prefix := as_stream_prefix(reference)) is not None:
        both = select(STREAM_HEAD.c.stream).union(select(RUN_NAME.c.stream)).subquery()
        return select(both.c.stream).where(both.c.stream.startswith(prefix)).order_by(both.c.stream)
    return None
