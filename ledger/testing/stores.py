"""Conformance kit for event stores: every promise of ``ledger.store.base.EventStore``.

A test file is a subclass with a ``store`` fixture, ``late_append``, and ``reopen`` where the store outlives its
process::

    class TestMyStore(BaseEventStoreTests):
        @pytest.fixture
        def store(self, tmp_path):
            with closing(MyStore(tmp_path, Codec())) as store:
                yield store

        def late_append(self, store, stream, drafts):
            return store.append_and_commit_later(stream, drafts)
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import pytest

from ledger.codec import GENESIS, Codec, Metadata, chain_digest, new_id
from ledger.errors import ConcurrentAppend, Conflict, CursorHeld, FencedAttempt, JournalMoved
from ledger.events import MetricsLogged, RunAnnotated, RunCompleted
from ledger.store.base import NO_STREAM, JournalSpan, run_stream
from ledger.store.cursors import START, CursorKey
from ledger.store.packing import unpack
from ledger.store.scan import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ledger.codec import Draft, Recorded
    from ledger.events import Event
    from ledger.store.base import EventStore

PATIENCE: Final = 60.0
"""Seconds after which a test that waits for another thread gives up."""
_CODEC: Final = Codec()


def draft(event: Event | str = "a note", *, attempt: int | None = None, event_id: str | None = None) -> Draft:
    """A draft of ``event``, or of a note with that text, written by no program in particular."""
    fact = RunAnnotated(text=event) if isinstance(event, str) else event
    metadata = Metadata(writer="kit", host="höst", pid=7, version="0", rank=None, attempt=attempt)
    return _CODEC.draft(fact, metadata, event_id=event_id)


def stream() -> str:
    """The stream of a run that no store has heard of."""
    return run_stream(new_id())


def chained(events: list[Recorded]) -> bool:
    """Whether a whole stream's digests are right, computed here from the words of the contract alone."""
    previous = "0" * 64
    for position, event in enumerate(events):
        metadata = json.dumps(asdict(event.metadata), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        row = (
            f'{{"event_id":{json.dumps(event.event_id)},"metadata":{metadata},"payload":{event.payload.decode()},'
            f'"position":{position},"recorded_at":"{event.recorded_at}","schema_version":{event.schema_version},'
            f'"stream":{json.dumps(event.stream)},"type":"{event.type}"}}'
        )
        digest = hashlib.sha256((previous + row).encode()).hexdigest()
        if (event.previous_digest, event.digest) != (previous, digest):
            return False
        previous = digest
    return True


class BaseEventStoreTests:
    """Tests that every event store passes."""

    @pytest.fixture
    def store(self) -> Iterator[EventStore]:
        """An empty store, closed after the test."""
        raise NotImplementedError("provide the store")

    @property
    def reopen(self) -> Callable[[EventStore], EventStore] | None:
        """Capability: opens a store's log anew, as another process would; None where a log is not kept."""
        return None

    def late_append(self, store: EventStore, stream: str, drafts: list[Draft]) -> AbstractContextManager[object]:
        """An append that has given its events their numbers when the block begins, and commits when it is left."""
        raise NotImplementedError("provide the late append")

    # --- appending and reading

    def test_positions_are_gapless_in_a_stream_and_ascend_over_the_log(self, store: EventStore) -> None:
        one, two = stream(), stream()
        written = [
            *store.append(one, [draft("a"), draft("b")]),
            *store.append(two, [draft("c")]),
            *store.append(one, [draft("d")]),
        ]
        assert [(e.stream, e.position) for e in written] == [(one, 0), (one, 1), (two, 0), (one, 2)]
        assert list(store.read_all()) == written
        assert [e.global_position for e in written] == [1, 2, 3, 4]
        assert list(store.read(one)) == [written[0], written[1], written[3]]
        assert list(store.read(two)) == [written[2]]

    def test_appending_nothing_changes_nothing(self, store: EventStore) -> None:
        name = stream()
        assert store.append(name, []) == []
        assert store.head(name) == (NO_STREAM, GENESIS)
        assert list(store.read_all()) == []

    def test_a_stream_that_nobody_wrote_is_empty(self, store: EventStore) -> None:
        assert list(store.read(stream())) == []
        assert store.head(stream()) == (-1, GENESIS)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "naïve — 訓練 🧪",
            'quote " and \\ and / and \u0000\u001f\u007f',
            "\u2028\u2029\ufeff",
            "a\r\nb\tc ",
            "x" * 200_000,
        ],
        ids=["empty", "unicode", "escapes", "separators", "white space", "long"],
    )
    def test_a_payload_comes_back_byte_for_byte(self, store: EventStore, text: str) -> None:
        name, written = stream(), draft(text)
        [returned] = store.append(name, [written])
        [read] = store.read(name)
        assert read.payload == returned.payload == written.payload
        assert read.event == RunAnnotated(text=text)
        assert read.metadata == written.metadata

    def test_nan_and_infinities_come_back(self, store: EventStore) -> None:
        values = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1, None)
        written = draft(MetricsLogged(step=(1, 2.5) * 4, time=(1e9,) * 8, values={"train/loss": values}))
        store.append(name := stream(), [written])
        [read] = store.read(name)
        assert read.payload == written.payload
        assert isinstance(read.event, MetricsLogged)
        assert repr(read.event.values["train/loss"]) == repr(values)

    def test_reading_goes_on_after_a_position_and_stops_at_a_limit(self, store: EventStore) -> None:
        name, other = stream(), stream()
        for number in range(10):
            store.append(name, [draft(str(number))])
            store.append(other, [draft("noise")])
        events = list(store.read(name))
        assert list(store.read(name, after=3)) == events[4:]
        assert list(store.read(name, after=3, limit=2)) == events[4:6]
        assert list(store.read(name, after=9)) == []
        assert list(store.read(name, limit=0)) == []
        log = list(store.read_all())
        assert list(store.read_all(after=log[4].global_position)) == log[5:]
        assert list(store.read_all(after=log[4].global_position, limit=3)) == log[5:8]
        assert list(store.read_all(after=log[-1].global_position)) == []

    def test_the_log_is_read_by_type(self, store: EventStore) -> None:
        name = stream()
        metrics = MetricsLogged(step=(1,), time=(0.0,), values={})
        store.append(name, [draft("a"), draft(metrics), draft(RunCompleted(step=1)), draft("b")])
        log = list(store.read_all())
        assert list(store.read_all(types={"run.annotated"})) == [log[0], log[3]]
        assert list(store.read_all(types=["run.completed", "run.annotated"])) == [log[0], log[2], log[3]]
        assert list(store.read_all(types=("run.completed", "run.annotated"), limit=2)) == [log[0], log[2]]
        assert list(store.read_all(types={"run.annotated"}, after=log[0].global_position)) == [log[3]]
        assert list(store.read_all(types=["no.such.type"])) == []
        assert list(store.read_all(types=[])) == []

    def test_a_stream_is_read_by_type(self, store: EventStore) -> None:
        name = stream()
        done = draft(RunCompleted(step=1))
        events = store.append(name, [draft("a"), done, draft("b"), draft("c")])
        store.append(stream(), [draft("noise")])
        assert list(store.read(name, types={"run.annotated"})) == [events[0], *events[2:]]
        assert list(store.read(name, types=["run.completed", "run.annotated"])) == events
        assert list(store.read(name, types=("run.annotated",), after=0, limit=1)) == [events[2]]
        assert list(store.read(name, types=["no.such.type"])) == []
        assert list(store.read(name, types=[])) == []

    def test_long_logs_are_read_whole_and_in_order(self, store: EventStore) -> None:
        name, done = stream(), draft(RunCompleted(step=1))
        written = store.append(name, [draft(str(n)) for n in range(1500)])
        written += store.append(stream(), [done]) + store.append(name, [draft(str(n)) for n in range(700)])
        assert list(store.read_all()) == written
        assert [e.position for e in store.read(name)] == list(range(2200))
        assert list(store.read_all(types={"run.annotated", "run.completed"}, limit=2100)) == written[:2100]
        assert [e.event_id for e in store.read_all(types={"run.completed"})] == [done.event_id]

    # --- digests and times

    def test_digests_chain_the_events_of_a_stream(self, store: EventStore) -> None:
        one, two = stream(), stream()
        for number in range(5):
            store.append(one, [draft("é" * number, attempt=1), draft("\u0000")])
            store.append(two, [draft(MetricsLogged(step=(1,), time=(1e22,), values={"x": (math.nan,)}))])
        for name in (one, two):
            events = list(store.read(name))
            assert chained(events)
            assert store.head(name) == (len(events) - 1, events[-1].digest)

    def test_times_are_utc_with_microseconds_and_never_go_back(self, store: EventStore) -> None:
        name = stream()
        for _ in range(20):
            store.append(name, [draft(), draft()])
        times = [event.recorded_at for event in store.read(name)]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", t) for t in times)
        assert times == sorted(times)

    def test_refused_appends_leave_no_gap(self, store: EventStore) -> None:
        name, fact = stream(), draft(attempt=2)
        store.append(name, [fact])
        refused: list[Callable[[], object]] = [
            lambda: store.append(name, [draft()], expected_version=5),
            lambda: store.append(name, [draft(), draft(attempt=1)]),
            lambda: store.append(stream(), [draft(), fact]),
            lambda: store.append(name, [draft()], span=JournalSpan(new_id(), 9, 10)),
        ]
        for act in refused:
            with pytest.raises(Conflict):
                act()
            store.append(stream(), [draft()])
        assert [e.global_position for e in store.read_all()] == [1, 2, 3, 4, 5]

    # --- expected version

    def test_an_append_at_the_expected_version_succeeds(self, store: EventStore) -> None:
        name = stream()
        store.append(name, [draft(), draft()], expected_version=NO_STREAM)
        store.append(name, [draft()], expected_version=1)
        assert store.head(name)[0] == 2

    @pytest.mark.parametrize("expected", [NO_STREAM, 0, 2, 7])
    def test_an_append_at_another_version_is_refused_whole(self, store: EventStore, expected: int) -> None:
        name = stream()
        before = store.append(name, [draft(), draft()])
        with pytest.raises(ConcurrentAppend) as refused:
            store.append(name, [draft(), draft()], expected_version=expected)
        assert (refused.value.stream, refused.value.expected, refused.value.actual) == (name, expected, 1)
        assert list(store.read_all()) == before

    def test_of_writers_with_the_same_expectation_one_succeeds(self, store: EventStore) -> None:
        name, start = stream(), threading.Barrier(6)

        def write(number: int) -> bool:
            start.wait(PATIENCE)
            try:
                store.append(name, [draft(str(number))], expected_version=NO_STREAM)
            except ConcurrentAppend:
                return False
            return True

        with ThreadPoolExecutor(6) as threads:
            assert sum(threads.map(write, range(6))) == 1
        assert store.head(name)[0] == 0

    # --- idempotence

    def test_the_same_append_again_returns_what_is_stored(self, store: EventStore) -> None:
        name, drafts = stream(), [draft("a"), draft("b")]
        first = store.append(name, drafts, expected_version=NO_STREAM)
        store.append(name, [draft("c")])
        assert store.append(name, drafts, expected_version=NO_STREAM) == first
        assert store.append(name, drafts[::-1]) == first[::-1]
        assert store.head(name)[0] == 2

    def test_of_a_mixture_only_what_is_missing_is_appended(self, store: EventStore) -> None:
        name, old, new = stream(), draft("old"), draft("new")
        [stored] = store.append(name, [old])
        first, second = store.append(name, [new, old], expected_version=0)
        assert (second, first.position) == (stored, 1)
        assert list(store.read(name)) == [stored, first]
        assert chained([stored, first])

    def test_an_event_twice_in_one_append_is_stored_once(self, store: EventStore) -> None:
        name, twice = stream(), draft()
        returned = store.append(name, [twice, draft("between"), twice])
        assert [e.position for e in returned] == [0, 1, 0]
        assert store.head(name)[0] == 1

    def test_more_events_than_a_database_takes_parameters(self, store: EventStore) -> None:
        name, drafts = stream(), [draft(str(n)) for n in range(3000)]
        first = store.append(name, drafts[:2500])
        again = store.append(name, drafts)
        assert again[:2500] == first
        assert [e.position for e in again] == list(range(3000))

    def test_an_event_of_another_stream_is_refused(self, store: EventStore) -> None:
        one, two, fact = stream(), stream(), draft()
        store.append(one, [fact])
        with pytest.raises(Conflict, match=fact.event_id) as refused:
            store.append(two, [draft(), fact])
        assert one in str(refused.value)
        assert refused.value.mend
        assert list(store.read(two)) == []

    # --- fencing

    def test_an_older_attempt_is_fenced(self, store: EventStore) -> None:
        name = stream()
        store.append(name, [draft(attempt=1)])
        store.append(name, [draft(attempt=2), draft(attempt=2)])
        with pytest.raises(FencedAttempt) as fenced:
            store.append(name, [draft(), draft(attempt=1)])
        assert (fenced.value.stream, fenced.value.attempt, fenced.value.current) == (name, 1, 2)
        assert store.head(name)[0] == 2, "nothing of a refused append is stored"

    def test_attempts_within_one_append_are_looked_at_in_order(self, store: EventStore) -> None:
        name = stream()
        with pytest.raises(FencedAttempt):
            store.append(name, [draft(attempt=2), draft(attempt=1)])
        assert store.head(name) == (NO_STREAM, GENESIS)
        store.append(name, [draft(attempt=1), draft(attempt=2)])

    def test_a_fact_without_an_attempt_is_never_fenced(self, store: EventStore) -> None:
        name = stream()
        store.append(name, [draft(attempt=5)])
        store.append(name, [draft(attempt=None)])
        with pytest.raises(FencedAttempt):
            store.append(name, [draft(attempt=4)])
        store.append(name, [draft(attempt=5)])
        store.append(stream(), [draft(attempt=1)])

    def test_a_fenced_attempt_may_repeat_what_had_arrived(self, store: EventStore) -> None:
        name, arrived = stream(), [draft("arrived", attempt=1)]
        first = store.append(name, arrived)
        store.append(name, [draft(attempt=2)])
        assert store.append(name, arrived) == first

    # --- journals

    def test_an_append_moves_the_journal_that_it_carries(self, store: EventStore) -> None:
        name, journal = stream(), new_id()
        assert store.journal_position(journal) == 0
        store.append(name, [draft()], span=JournalSpan(journal, 0, 100))
        store.append(name, [], span=JournalSpan(journal, 100, 120))
        store.append(name, [draft()], span=JournalSpan(other := new_id(), 0, 7))
        assert (store.journal_position(journal), store.journal_position(other)) == (120, 7)
        assert store.head(name)[0] == 1

    @pytest.mark.parametrize("start", [0, 50, 101])
    def test_what_the_log_has_of_a_journal_is_not_appended_again(self, store: EventStore, start: int) -> None:
        name, journal = stream(), new_id()
        store.append(name, [draft()], span=JournalSpan(journal, 0, 100))
        with pytest.raises(JournalMoved) as moved:
            store.append(name, [draft()], span=JournalSpan(journal, start, 200))
        assert (moved.value.journal, moved.value.position) == (journal, 100)
        assert store.journal_position(journal) == 100
        assert store.head(name)[0] == 0

    def test_a_refused_append_moves_no_journal(self, store: EventStore) -> None:
        name, journal = stream(), new_id()
        store.append(name, [draft(attempt=2)])
        with pytest.raises(FencedAttempt):
            store.append(name, [draft(attempt=1)], span=JournalSpan(journal, 0, 100))
        with pytest.raises(ConcurrentAppend):
            store.append(name, [draft()], span=JournalSpan(journal, 0, 100), expected_version=7)
        assert store.journal_position(journal) == 0

    def test_what_two_carry_at_once_arrives_once(self, store: EventStore) -> None:
        """Each makes events of its own of the same bytes, as two processes do that recover one journal."""
        name, journal, steps = stream(), new_id(), 30
        carriers = [store, self.reopen(store) if self.reopen else store]

        def carry(carrier: EventStore) -> int:
            position, carried = 0, 0
            while position < steps:
                span = JournalSpan(journal, position, position + 1)
                try:
                    carrier.append(name, [draft(str(position))], span=span)
                except JournalMoved as moved:
                    position = moved.position
                else:
                    position, carried = span.end, carried + 1
            return carried

        with ThreadPoolExecutor(2) as threads:
            carried = list(threads.map(carry, carriers))
        facts = [event.event for event in store.read(name)]
        assert facts == [RunAnnotated(text=str(n)) for n in range(steps)]
        assert sum(carried) == steps
        assert store.journal_position(journal) == steps
        if self.reopen:
            carriers[1].close()

    # --- leases

    def test_a_lease_is_good_for_a_while(self, store: EventStore) -> None:
        name = stream()
        assert store.lease(name) is None
        store.renew_lease(name, "somebody", 1, 60)
        lease = store.lease(name)
        assert lease is not None
        assert (lease.holder, lease.attempt) == ("somebody", 1)
        assert 30 < lease.left <= 60
        store.renew_lease(name, "somebody", 1, 600)
        assert (lease := store.lease(name)) is not None
        assert lease.left > 500
        assert store.lease(stream()) is None
        assert store.head(name) == (NO_STREAM, GENESIS), "a lease is no event"

    def test_a_lease_ends(self, store: EventStore) -> None:
        name = stream()
        store.renew_lease(name, "somebody", 1, -5)
        assert (lease := store.lease(name)) is not None
        assert -60 < lease.left <= -5

    def test_the_lease_of_a_newer_attempt_is_not_taken_over(self, store: EventStore) -> None:
        name = stream()
        store.renew_lease(name, "first", 1, 60)
        store.renew_lease(name, "second", 2, -5)
        with pytest.raises(FencedAttempt) as fenced:
            store.renew_lease(name, "first", 1, 60)
        assert (fenced.value.attempt, fenced.value.current) == (1, 2)
        assert (lease := store.lease(name)) is not None
        assert (lease.holder, lease.attempt) == ("second", 2)

    # --- cursors

    def test_a_cursor_keeps_its_place(self, store: EventStore) -> None:
        cursors, key = store.cursors, CursorKey("mlflow", "https://example.org", stream())
        assert cursors.at(key) is None
        assert cursors.take(key, "me", 60) == START
        cursors.move(key, "me", 41)
        assert cursors.take(key, "me", 600) == 41
        held = cursors.at(key)
        assert held is not None
        assert (held.position, held.holder) == (41, "me")
        assert 500 < held.left <= 600
        cursors.move(key, "me", START)
        assert cursors.take(key, "me", 60) == START

    def test_cursors_are_apart(self, store: EventStore) -> None:
        name = stream()
        keys = [
            CursorKey("mlflow", "here", name),
            CursorKey("mlflow", "there", name),
            CursorKey("wandb", "here", name),
            CursorKey("mlflow", "here", stream()),
        ]
        for number, key in enumerate(keys):
            store.cursors.take(key, f"holder {number}", 60)
            store.cursors.move(key, f"holder {number}", number)
        assert [store.cursors.take(key, f"holder {number}", 60) for number, key in enumerate(keys)] == [0, 1, 2, 3]

    def test_a_cursor_has_one_holder(self, store: EventStore) -> None:
        cursors, key = store.cursors, CursorKey("mlflow", "here", stream())
        cursors.take(key, "first", 60)
        with pytest.raises(CursorHeld, match="first") as held:
            cursors.take(key, "second", 60)
        assert held.value.mend
        with pytest.raises(CursorHeld):
            cursors.move(key, "second", 7)
        cursors.release(key, "second")
        with pytest.raises(CursorHeld):
            cursors.take(key, "second", 60, instead_of="third")
        assert cursors.take(key, "second", 60, instead_of="first") == START
        with pytest.raises(CursorHeld, match="second"):
            cursors.move(key, "first", 7)
        assert cursors.take(key, "second", 60) == START

    def test_a_cursor_that_was_let_go_or_whose_time_is_over_is_anybodys(self, store: EventStore) -> None:
        cursors, key = store.cursors, CursorKey("mlflow", "here", stream())
        cursors.take(key, "first", 60)
        cursors.move(key, "first", 3)
        cursors.release(key, "first")
        assert cursors.take(key, "second", -1) == 3
        assert cursors.take(key, "third", 60) == 3

    def test_of_many_that_take_a_cursor_at_once_one_has_it(self, store: EventStore) -> None:
        key = CursorKey("mlflow", "here", stream())

        def taken(holder: str) -> bool:
            try:
                store.cursors.take(key, holder, 60)
            except CursorHeld:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(taken, map(str, range(8)))) == 1

    # --- many at once

    def test_a_late_commit_is_never_skipped(self, store: EventStore) -> None:
        """Two writers, the first of which has its number early and commits late, and a reader that follows the log."""
        late, prompt = stream(), stream()
        other = self.reopen(store) if self.reopen else store
        with ThreadPoolExecutor(2) as threads:
            with self.late_append(store, late, [draft("late")]):
                tail = threads.submit(_tail, other, 3)
                writing = threads.submit(other.append, prompt, [draft("a"), draft("b")])
                # Time for the second writer to overtake the first, if it can, and for the reader to see it.
                wait([writing], timeout=0.3)
            seen = tail.result(PATIENCE)
        assert [(e.stream, e.global_position) for e in seen] == [(late, 1), (prompt, 2), (prompt, 3)]
        if other is not store:
            other.close()

    def test_concurrent_writers_lose_nothing_and_a_tailing_reader_misses_nothing(self, store: EventStore) -> None:
        shared, own, rounds = stream(), [stream() for _ in range(4)], 25
        expected = 2 * rounds * len(own)

        def write(number: int) -> None:
            for _ in range(rounds):
                store.append(own[number], [draft()])
                store.append(shared, [draft()])

        with ThreadPoolExecutor(5) as threads:
            tail = threads.submit(_tail, store, expected)
            for writer in [threads.submit(write, n) for n in range(len(own))]:
                writer.result(PATIENCE)
            seen = tail.result(PATIENCE)
        assert seen == list(store.read_all())
        assert [e.global_position for e in seen] == sorted({e.global_position for e in seen})
        for name in (shared, *own):
            events = list(store.read(name))
            assert [e.position for e in events] == list(range(len(events)))
            assert chained(events)

    def test_readers_take_no_harm_from_a_writer(self, store: EventStore) -> None:
        name = stream()
        written = store.append(name, [draft(str(n)) for n in range(600)])
        seen = []
        for event in store.read_all():
            seen.append(event)
            if event.position % 200 == 0 and event.position < 600:
                written += store.append(name, [draft("more")])
        assert seen in (written, written[:600])

    # --- subscriptions

    def test_a_subscription_says_when_it_has_caught_up_and_goes_on(self, store: EventStore) -> None:
        name = stream()
        old = store.append(name, [draft("a"), draft("b")])
        events = store.subscribe(poll=0.01)
        assert [next(events) for _ in range(3)] == [*old, None]
        assert next(events) is None
        new = store.append(name, [draft("c")])
        assert _next(events) == new[0]
        assert next(events) is None
        _close(events)

    def test_a_subscription_starts_after_a_place(self, store: EventStore) -> None:
        one, two = stream(), stream()
        first = store.append(one, [draft()])[0]
        store.append(two, [draft()])
        later = store.append(one, [draft()])[0]
        everything = store.subscribe(after=first.global_position, poll=0.01)
        assert [_next(everything).position, _next(everything).position] == [0, 1]
        just_one = store.subscribe(after=first.global_position, stream=one, poll=0.01)
        assert _next(just_one) == later
        store.append(two, [draft()])
        last = store.append(one, [draft()])[0]
        assert _next(just_one) == last
        assert _next(store.subscribe(stream=one, poll=0.01)) == first

    def test_a_subscription_wakes_up_for_another_thread(self, store: EventStore) -> None:
        name, caught_up = stream(), threading.Event()

        def wait() -> Recorded:
            events = store.subscribe(stream=name, poll=0.01)
            assert next(events) is None
            caught_up.set()
            return _next(events)

        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(wait)
            assert caught_up.wait(PATIENCE)
            [written] = store.append(name, [draft()])
            assert waiting.result(PATIENCE) == written

    # --- names

    def test_a_run_keeps_its_name(self, store: EventStore) -> None:
        one, two = stream(), stream()
        assert [store.name_run(s) for s in (one, two, one)] == ["run-1", "run-2", "run-1"]

    def test_names_given_at_the_same_moment_differ(self, store: EventStore) -> None:
        streams = [stream() for _ in range(12)]
        with ThreadPoolExecutor(6) as threads:
            names = list(threads.map(store.name_run, streams * 2))
        assert names[:12] == names[12:]
        assert set(names) == {f"run-{n}" for n in range(1, 13)}

    def test_a_run_is_found_by_name_stream_and_uuid(self, store: EventStore) -> None:
        one = "run-0190aaaa-1111-7000-8000-000000000001"
        two = "run-0190aabb-2222-7000-8000-000000000002"
        unnamed = "run-0190cccc-3333-7000-8000-000000000003"
        for name in (one, two):
            store.name_run(name)
        for name in (one, unnamed):
            store.append(name, [draft()])
        found: dict[str, list[str]] = {
            "run-1": [one],
            "run-2": [two],
            "run-3": [],
            "run-01": [],
            "run-0": [],
            one: [one],
            one.removeprefix("run-"): [one],
            one.removeprefix("run-").upper(): [one],
            unnamed: [unnamed],
            "0190aaaa": [one],
            "0190aaaa-1111-7": [one],
            "0190aa": [one, two],
            "0190": [one, two, unnamed],
            "019": [],
            "": [],
            "01__": [],
            "0190%": [],
            "Run-1": [],
            "run-": [],
            "nonsense": [],
            "run-0190aaaa-1111-7000-8000-00000000000": [],
        }
        assert {reference: store.find_streams(reference) for reference in found} == found

    def test_the_latest_run_is_the_last_named_one_with_events(self, store: EventStore) -> None:
        assert store.find_streams("latest") == []
        first, second, third = stream(), stream(), stream()
        for name in (first, second, third):
            store.name_run(name)
        assert store.find_streams("latest") == []
        store.append(second, [draft()])
        store.append(first, [draft()])
        store.append(stream(), [draft()])
        assert store.find_streams("latest") == [second]

    # --- the end

    # --- for whoever checks it ----------------------------------------------------------------------------

    def test_a_scan_shows_every_row_as_it_was_digested(self, store: EventStore) -> None:
        one, two = stream(), stream()
        many = MetricsLogged(step=range(500), time=[1e9] * 500, values={"löss": [n / 7 for n in range(500)]})
        recorded = store.append(one, [draft("a", attempt=2), draft(many)])
        recorded += store.append(two, [draft('ü\n"')])
        name = store.name_run(two)
        scan = store.scan()
        extent = scan.extent()
        rows = [Row._make(raw) for raw in scan.rows(1, extent.size)]
        assert (extent.first, extent.size, extent.names) == (1, 3, {two: name})
        assert extent.heads == {one: (1, recorded[1].digest, 2), two: (0, recorded[2].digest, None)}
        assert [unpack(row.payload, row.packed) for row in rows] == [event.payload for event in recorded]
        for row in rows:
            keys = ("stream", "position", "event_id", "type", "schema_version", "recorded_at")
            columns: dict[str, Any] = {key: getattr(row, key) for key in keys}
            columns |= {"payload": unpack(row.payload, row.packed), "metadata": row.metadata.encode()}
            assert row.digest == chain_digest(row.previous_digest, **columns)
        assert [tuple(raw) for raw in scan.stream(one, 0, 10)] == [rows[1]]
        assert list(scan.digests(2, 3)) == [row.digest for row in rows[1:]]
        assert scan.find(rows[2].event_id) == 3
        assert scan.find("nothing") is None

    def test_closing_twice_is_fine(self, store: EventStore) -> None:
        store.append(stream(), [draft()])
        store.close()
        store.close()

    def test_a_log_that_is_opened_anew_goes_on(self, store: EventStore) -> None:
        if self.reopen is None:
            pytest.skip("this store keeps no log")
        name, facts = stream(), [draft(attempt=3), draft("naïve")]
        named = store.name_run(name)
        written = store.append(name, facts)
        store.close()
        again = self.reopen(store)
        assert list(again.read_all()) == written
        assert again.append(name, facts) == written
        assert again.head(name) == (1, written[-1].digest)
        assert (again.name_run(name), again.name_run(stream())) == (named, "run-2")
        with pytest.raises(FencedAttempt):
            again.append(name, [draft(attempt=2)])
        again.append(name, [draft(attempt=3)], expected_version=1)
        assert chained(list(again.read(name)))
        again.close()

    def test_two_open_stores_see_each_other(self, store: EventStore) -> None:
        if self.reopen is None:
            pytest.skip("this store keeps no log")
        other, name = self.reopen(store), stream()
        events = store.subscribe(poll=0.01)
        assert next(events) is None
        [written] = other.append(name, [draft()])
        assert _next(events) == written
        assert store.append(name, [draft()], expected_version=0)[0].previous_digest == written.digest
        assert other.head(name) == store.head(name)
        other.close()


def _tail(store: EventStore, expected: int) -> list[Recorded]:
    """What a reader sees that follows the log from its start until ``expected`` events have come."""
    seen: list[Recorded] = []
    deadline = time.monotonic() + PATIENCE
    for event in store.subscribe(poll=0.001):
        if event is not None:
            seen.append(event)
        if len(seen) == expected:
            return seen
        assert time.monotonic() < deadline, f"only {len(seen)} of {expected} events arrived"
    raise AssertionError("a subscription ended")


def _next(events: Iterator[Recorded | None]) -> Recorded:
    """The next event of a subscription, waited for."""
    deadline = time.monotonic() + PATIENCE
    for event in events:
        if event is not None:
            return event
        assert time.monotonic() < deadline, "no event arrived"
    raise AssertionError("a subscription ended")


def _close(events: Any) -> None:
    events.close()
