"""The log in an SQL database; what is particular to one of them is in ``sqlite`` and ``postgres``."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, func, insert, select, update

from ledger.errors import Conflict, IntegrityError, JournalMoved
from ledger.store.base import ANY, NO_STREAM, Lease
from ledger.store.database import open_database
from ledger.store.head import Head, Link, admit_holder, foreign_event, utc_now
from ledger.store.places import checked_place, place_digest
from ledger.store.projections.sql import SqlProjections
from ledger.store.raw import fetch
from ledger.store.reference import LATEST, as_number, as_stream_prefix, run_name
from ledger.store.rows import recorded, row
from ledger.store.schema import prepare
from ledger.store.sqlcursors import SqlCursors
from ledger.store.sqlscan import SqlScan
from ledger.store.tables import EVENT, JOURNAL_POSITION, LEASE, RUN_NAME, STREAM_HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from sqlalchemy import Connection, Select

    from ledger.codec import Codec, Draft, Recorded
    from ledger.store.base import JournalSpan
    from ledger.store.projections.checking import Difference
    from ledger.store.projections.intake import Logged, Told

_BATCH: Final = 256
"""Events read in one transaction; a reader holds nothing of the database between two batches."""
_IDS: Final = 500
"""Values in one IN list; databases limit their number."""
_STREAMS: Final = 1000
"""Streams whose end is remembered; a process writes one, rarely a few."""


class SqlStore:
    """An ``EventStore`` in an SQLite file or a PostgreSQL database; the tables are created where there are none."""

    def __init__(self, url: str, codec: Codec) -> None:
        """Raises ``StoreUnavailable``, or ``SchemaMismatch`` for a log of another version of Ledger."""
        self.url = url
        self._codec = codec
        self._database = open_database(url)
        self._heads: dict[str, Head] = {}
        self.projections = SqlProjections(self._database)
        self.cursors = SqlCursors(self._database)
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
        # Digesting and compressing take longer than anything else here, and need no lock.
        ready = self._foreseen(stream, drafts, expected_version)
        if ready is not None:
            try:
                return self._append(stream, drafts, expected_version, span, ready)
            except IntegrityError:
                pass  # one of them is stored already; or the tables were changed from outside, and it comes up again
        return self._append(stream, drafts, expected_version, span, None)

    def read(
        self, stream: str, *, after: int = -1, limit: int | None = None, types: Collection[str] | None = None
    ) -> Iterator[Recorded]:
        """See ``EventStore.read``."""

        def following(after: int, size: int) -> Select[Any]:
            above = (EVENT.c.stream == stream) & (EVENT.c.position > after)
            if types is not None:
                above &= EVENT.c.type.in_(sorted(types))
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
        seen = None
        with self._database.waiting() as wait:
            while True:
                # Looked at before reading: what is committed in between costs a second look, and is never missed.
                end = self._end()
                if end != seen:
                    for event in self.read_all(after=after) if stream is None else self.read(stream, after=position):
                        after, position = event.global_position, event.position
                        yield event
                    seen = end
                yield None
                wait(poll)

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
            head, _ = _standing(connection, stream)
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

    def differences(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Difference]:
        """See ``EventStore.differences``."""
        from ledger.store.projections.checking import differences

        return differences(self._database.reading, progress)

    def rebuild(self, progress: Callable[[int, int], None] | None = None) -> dict[str, int]:
        """See ``EventStore.rebuild``."""
        from ledger.store.projections import keeping
        from ledger.store.projections.checking import differences

        with self._database.writing() as connection:
            wrong = Counter(found.table for found in differences(lambda: nullcontext(connection), progress))
            if wrong:
                keeping.rebuild(connection, progress)
        return dict(wrong)

    def scan(self) -> SqlScan:
        """See ``EventStore.scan``."""
        return SqlScan(self._database, self.url)

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
            for columns in rows:
                event = recorded(columns, self._codec)
                after = place(event)
                yield event
            if len(rows) < size:
                return
            left = None if left is None else left - size

    def _foreseen(self, stream: str, drafts: Sequence[Draft], expected_version: int) -> _Extension | None:
        """What these drafts add to the stream if none is stored yet and it ends where this process left it.

        None where that is not known, or where it would be refused: then the log itself must be asked.
        """
        head = self._heads.get(stream)
        if head is None:
            return None
        try:
            return _extension(head, drafts, expected_version)
        except Conflict:
            return None

    def _append(
        self,
        stream: str,
        drafts: Sequence[Draft],
        expected_version: int,
        span: JournalSpan | None,
        ready: _Extension | None,
    ) -> list[Recorded]:
        with self._database.writing() as connection:
            added, last, events = self._add(connection, stream, drafts, expected_version, span, ready)
        self._remember(added.after)
        events |= {event.event_id: event for event in self._recorded(added, last)}
        return [events[draft.event_id] for draft in drafts]

    def _add(
        self,
        connection: Connection,
        stream: str,
        drafts: Sequence[Draft],
        expected_version: int,
        span: JournalSpan | None,
        ready: _Extension | None,
    ) -> tuple[_Extension, int, dict[str, Recorded]]:
        """What was added, the global position before it, and those of the drafts that were stored already."""
        from ledger.store.projections import keeping  # with the vocabulary, which no reader needs

        if span:
            _move_journal(connection, span)
        stored: dict[str, Recorded] = {}
        head, last = _standing(connection, stream)
        if ready is None or ready.before != head:
            stored = self._stored(connection, stream, drafts)
            ready = _extension(head, [draft for draft in drafts if draft.event_id not in stored], expected_version)
        if ready.links:
            self._database.insert(connection, [(n, *columns) for n, columns in enumerate(ready.rows, last + 1)])
            _move(connection, ready)
            keeping.apply(connection, stream, ready.facts, after=last)
        return ready, last, stored

    def _recorded(self, added: _Extension, last: int) -> Iterator[Recorded]:
        return (link.recorded(number, self._codec) for number, link in enumerate(added.links, last + 1))

    def _remember(self, head: Head) -> None:
        if len(self._heads) >= _STREAMS:
            self._heads.clear()
        self._heads[head.stream] = head

    def _stored(self, connection: Connection, stream: str, drafts: Sequence[Draft]) -> dict[str, Recorded]:
        """Those of the drafts that the stream holds already."""
        found: dict[str, Recorded] = {}
        for start in range(0, len(drafts), _IDS):
            some = [draft.event_id for draft in drafts[start : start + _IDS]]
            for columns in connection.execute(select(EVENT).where(EVENT.c.event_id.in_(some))):
                event = recorded(columns, self._codec)
                found[event.event_id] = event
        for draft in drafts:
            held = found.get(draft.event_id)
            if held and held.stream != stream:
                raise foreign_event(held.event_id, held.stream, stream)
        return found

    def _end(self) -> int:
        """The highest global position."""
        with self._database.reading() as connection:
            return connection.execute(select(_END)).scalar() or 0

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


class _Extension(NamedTuple):
    """What an append adds to a stream."""

    before: Head
    after: Head
    links: list[Link]
    rows: list[tuple[Any, ...]]
    facts: list[Told | Logged]
    """For the projections; global positions count from 1."""


def _extension(head: Head, drafts: Iterable[Draft], expected_version: int) -> _Extension:
    """The drafts, each once, after ``head``. Raises ``ConcurrentAppend`` and ``FencedAttempt``."""
    from ledger.store.projections.intake import take_in

    new = {draft.event_id: draft for draft in drafts}
    if new:
        head.require(expected_version)
    links, after = head.extend(new.values(), utc_now())
    facts = take_in(link.entry(number) for number, link in enumerate(links, 1))
    return _Extension(head, after, links, [row(link) for link in links], list(facts))


# Built once: to put a statement together takes longer than the database takes to carry it out.
_PLACE: Final = select(JOURNAL_POSITION.c.position, JOURNAL_POSITION.c.digest).where(
    JOURNAL_POSITION.c.journal == bindparam("of")
)
_BEGIN_JOURNAL: Final = insert(JOURNAL_POSITION)
_MOVE_JOURNAL: Final = update(JOURNAL_POSITION).where(JOURNAL_POSITION.c.journal == bindparam("of"))


def _position_of(connection: Connection, journal: str) -> int | None:
    rows = fetch(connection, _PLACE, {"of": journal})
    return checked_place(journal, *rows[0]) if rows else None


def _move_journal(connection: Connection, span: JournalSpan) -> None:
    stands = _position_of(connection, span.journal)
    if (stands or 0) != span.start:
        raise JournalMoved(span.journal, stands or 0)
    place = {"position": span.end, "digest": place_digest(span.journal, span.end)}
    if stands is None:
        connection.execute(_BEGIN_JOURNAL, {"journal": span.journal, **place})
    else:
        connection.execute(_MOVE_JOURNAL, {"of": span.journal, **place})


# The end of the log and, where there is a stream of this name, its head: one row in any case.
_END: Final = func.max(EVENT.c.global_position)
_LOG: Final = select(_END.label("last")).subquery()
_LAST: Final = (EVENT.c.stream == STREAM_HEAD.c.stream) & (EVENT.c.position == STREAM_HEAD.c.version)
_STANDING: Final = select(
    _LOG.c.last, STREAM_HEAD.c.version, STREAM_HEAD.c.digest, STREAM_HEAD.c.attempt, EVENT.c.recorded_at
).select_from(_LOG.outerjoin(STREAM_HEAD.join(EVENT, _LAST), STREAM_HEAD.c.stream == bindparam("stream")))
_BEGIN: Final = insert(STREAM_HEAD)
_MOVE: Final = update(STREAM_HEAD).where(STREAM_HEAD.c.stream == bindparam("at"))


def _standing(connection: Connection, stream: str) -> tuple[Head, int]:
    """The head of a stream, and the highest global position of the log."""
    last, version, *rest = connection.execute(_STANDING, {"stream": stream}).one()
    return Head(stream) if version is None else Head(stream, version, *rest), last or 0


def _move(connection: Connection, added: _Extension) -> None:
    after = added.after
    values = {"version": after.version, "digest": after.digest, "attempt": after.attempt}
    if added.before.version == NO_STREAM:
        connection.execute(_BEGIN, {"stream": after.stream, **values})
    else:
        connection.execute(_MOVE, {"at": after.stream, **values})


def _in_log_order(after: int, size: int, types: list[str] | None) -> Select[Any]:
    """The next ``size`` events of the log; ``types`` are looked for along it, since an index costs every append."""
    query = select(EVENT).where(EVENT.c.global_position > after)
    if types is not None:
        query = query.where(EVENT.c.type.in_(types))
    return query.order_by(EVENT.c.global_position).limit(size)


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
