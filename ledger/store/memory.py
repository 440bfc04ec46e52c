"""The log in memory: the reference that other stores are compared with, gone when the process ends."""

from __future__ import annotations

import time
from itertools import islice
from threading import Condition
from typing import TYPE_CHECKING

from ledger.codec import GENESIS
from ledger.errors import JournalMoved
from ledger.store.base import ANY, NO_STREAM, Lease
from ledger.store.cursors import MemoryCursors
from ledger.store.head import Head, admit_holder, foreign_event, utc_now
from ledger.store.projections.memory import MemoryProjections
from ledger.store.reference import LATEST, as_number, as_stream_prefix, run_name
from ledger.store.scan import Extent, MemoryScan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from ledger.codec import Codec, Draft, Recorded
    from ledger.store.base import JournalSpan
    from ledger.store.projections.checking import Difference


class MemoryStore:
    """An ``EventStore`` in this process's memory; a forked child goes on with a copy of its own."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._log: list[Recorded] = []
        self._streams: dict[str, list[Recorded]] = {}
        self._heads: dict[str, Head] = {}
        self._by_id: dict[str, Recorded] = {}
        self._named: list[str] = []
        self._journals: dict[str, int] = {}
        self._leases: dict[str, Lease] = {}
        self._changed = Condition()
        self.projections = MemoryProjections(self._changed, self.lease)
        self.cursors = MemoryCursors(self._changed)

    def append(
        self,
        stream: str,
        drafts: Sequence[Draft],
        *,
        expected_version: int = ANY,
        span: JournalSpan | None = None,
    ) -> list[Recorded]:
        """See ``EventStore.append``."""
        with self._changed:
            if span and self._journals.get(span.journal, 0) != span.start:
                raise JournalMoved(span.journal, self._journals.get(span.journal, 0))
            new = {d.event_id: d for d in drafts if not self._holds(stream, d.event_id)}
            if new:
                head = self._heads.get(stream, Head(stream))
                head.require(expected_version)
                links, self._heads[stream] = head.extend(new.values(), utc_now())
                added = [link.recorded(len(self._log) + n, self._codec) for n, link in enumerate(links, 1)]
                self._add(stream, added)
                self.projections.apply(stream, added, self._streams[stream])
            if span:
                self._journals[span.journal] = span.end
            return [self._by_id[draft.event_id] for draft in drafts]

    def journal_position(self, journal: str) -> int:
        """See ``EventStore.journal_position``."""
        with self._changed:
            return self._journals.get(journal, 0)

    def renew_lease(self, stream: str, holder: str, attempt: int, seconds: float) -> None:
        """See ``EventStore.renew_lease``."""
        with self._changed:
            held = self._leases.get(stream)
            admit_holder(stream, attempt, held.attempt if held else None)
            self._leases[stream] = Lease(holder, attempt, time.time() + seconds)

    def lease(self, stream: str) -> Lease | None:
        """See ``EventStore.lease``."""
        with self._changed:
            held = self._leases.get(stream)
            return Lease(held.holder, held.attempt, held.left - time.time()) if held else None

    def read(
        self, stream: str, *, after: int = -1, limit: int | None = None, types: Collection[str] | None = None
    ) -> Iterator[Recorded]:
        """See ``EventStore.read``."""
        with self._changed:
            events = self._streams.get(stream, [])[after + 1 :]
        return islice((e for e in events if types is None or e.type in types), limit)

    def read_all(
        self, *, after: int = 0, limit: int | None = None, types: Collection[str] | None = None
    ) -> Iterator[Recorded]:
        """See ``EventStore.read_all``."""
        with self._changed:
            events = self._log[after:]
        return islice((e for e in events if types is None or e.type in types), limit)

    def subscribe(self, *, after: int = 0, stream: str | None = None, poll: float = 0.1) -> Iterator[Recorded | None]:
        """See ``EventStore.subscribe``."""
        while True:
            for event in self.read_all(after=after):
                after = event.global_position
                if stream in (None, event.stream):
                    yield event
            yield None
            with self._changed:
                if len(self._log) == after:
                    self._changed.wait(poll)

    def name_run(self, stream: str) -> str:
        """See ``EventStore.name_run``."""
        with self._changed:
            if stream not in self._named:
                self._named.append(stream)
            return run_name(self._named.index(stream) + 1)

    def find_streams(self, reference: str) -> list[str]:
        """See ``EventStore.find_streams``."""
        with self._changed:
            if reference == LATEST:
                return [s for s in self._named if s in self._streams][-1:]
            if (number := as_number(reference)) is not None:
                return self._named[number - 1 : number]
            if (prefix := as_stream_prefix(reference)) is not None:
                return sorted(s for s in {*self._named, *self._streams} if s.startswith(prefix))
            return []

    def head(self, stream: str) -> tuple[int, str]:
        """See ``EventStore.head``."""
        with self._changed:
            head = self._heads.get(stream)
            return (head.version, head.digest) if head else (NO_STREAM, GENESIS)

    def differences(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Difference]:
        """See ``EventStore.differences``. Nobody from outside can have changed this process's memory."""
        return iter(())

    def rebuild(self, progress: Callable[[int, int], None] | None = None) -> dict[str, int]:
        """See ``EventStore.rebuild``."""
        with self._changed:
            self.projections.clear()
            for stream, events in self._streams.items():
                self.projections.apply(stream, events, events)
            if progress:
                progress(len(self._log), len(self._log))
        return {}

    def scan(self) -> MemoryScan:
        """See ``EventStore.scan``."""
        with self._changed:
            heads = {stream: (head.version, head.digest, head.attempt) for stream, head in self._heads.items()}
            names = {stream: run_name(number) for number, stream in enumerate(self._named, 1)}
            return MemoryScan(self._log[:], Extent(1, len(self._log), heads, names))

    def close(self) -> None:
        """See ``EventStore.close``."""

    def _holds(self, stream: str, event_id: str) -> bool:
        stored = self._by_id.get(event_id)
        if stored and stored.stream != stream:
            raise foreign_event(event_id, stored.stream, stream)
        return stored is not None

    def _add(self, stream: str, events: list[Recorded]) -> None:
        self._log.extend(events)
        self._streams.setdefault(stream, []).extend(events)
        self._by_id.update((event.event_id, event) for event in events)
        self._changed.notify_all()
