"""A state machine over the store: whatever is done to it and goes wrong with it, it ends where the reference does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ledger.codec import Codec, Draft, Recorded
from ledger.errors import LedgerError
from ledger.store.base import ANY, EventStore, JournalSpan, run_stream
from ledger.store.memory import MemoryStore
from ledger.store.sql import SqlStore
from ledger.testing.stores import chained, draft
from tests import postgres

STREAMS = [run_stream(f"0190000{n}-0000-7000-8000-00000000000{n}") for n in range(3)]
streams = st.sampled_from(STREAMS)
journals = st.sampled_from(["one", "two"])
attempts = st.sampled_from([None, 1, 2, 3])


class StoresAgree(RuleBasedStateMachine):
    """Does the same to the reference, in memory, and to the store at a URL."""

    drafts = Bundle("drafts")

    def __init__(self, url: str) -> None:
        super().__init__()
        self.reference = MemoryStore(Codec())
        self.store = SqlStore(url, Codec())

    @rule(target=drafts, text=st.text(st.characters(codec="utf-8"), max_size=8) | st.just("x" * 5000), attempt=attempts)
    def make(self, text: str, attempt: int | None) -> Draft:
        return draft(text, attempt=attempt)

    @rule(stream=streams, batch=st.lists(drafts, max_size=4), expected=st.sampled_from([ANY, ANY, -1, 0, 1, 2]))
    def append(self, stream: str, batch: list[Draft], expected: int) -> None:
        """A draft that was drawn before is a writer's second try."""
        self.same(lambda store: content(store.append(stream, batch, expected_version=expected)))

    @rule(
        stream=streams,
        batch=st.lists(drafts, max_size=3),
        journal=journals,
        start=st.none() | st.sampled_from([0, 10, 20]),
        length=st.sampled_from([10, 20]),
    )
    def carry(self, stream: str, batch: list[Draft], journal: str, start: int | None, length: int) -> None:
        """From where the log stands in the journal or, like a carrier that does not know it, from elsewhere."""
        start = self.reference.journal_position(journal) if start is None else start
        span = JournalSpan(journal, start, start + length)
        self.same(lambda store: content(store.append(stream, batch, span=span)))
        self.same(lambda store: store.journal_position(journal))

    @rule(stream=streams, holder=st.sampled_from("ab"), attempt=st.integers(1, 3), seconds=st.sampled_from([-60, 60]))
    def renew_lease(self, stream: str, holder: str, attempt: int, seconds: float) -> None:
        self.same(lambda store: store.renew_lease(stream, holder, attempt, seconds))

    @rule(stream=streams)
    def name(self, stream: str) -> None:
        self.same(lambda store: store.name_run(stream))

    @rule(reference=st.sampled_from(["latest", "run-1", "run-2", "run-3", "0190", "01900001", *STREAMS]))
    def find(self, reference: str) -> None:
        self.same(lambda store: store.find_streams(reference))

    @rule(stream=streams, after=st.integers(-1, 5), limit=st.none() | st.integers(0, 4))
    def read(self, stream: str, after: int, limit: int | None) -> None:
        self.same(lambda store: content(store.read(stream, after=after, limit=limit)))

    @rule(after=st.integers(0, 9), types=st.none() | st.lists(st.sampled_from(["run.annotated", "run.failed"])))
    def read_all(self, after: int, types: list[str] | None) -> None:
        self.same(lambda store: content(store.read_all(after=after, types=types)))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = SqlStore(self.store.url, Codec())

    @rule(stream=streams, batch=st.lists(drafts, min_size=1, max_size=4), when=st.sampled_from(["before", "after"]))
    def crash(self, stream: str, batch: list[Draft], when: Literal["before", "after"]) -> None:
        """A writer dies just before or after the commit; another does it again, not knowing whether it was done."""
        child = os.fork()
        if child == 0:
            try:
                if when == "after":
                    self.store.append(stream, batch)
                with self.store._database.writing() as connection:
                    self.store._add(connection, stream, batch, ANY, None, None)
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:  # where the append was refused
                os._exit(1)
        os.waitpid(child, 0)
        self.append(stream, batch, ANY)

    @invariant()
    def same_log(self) -> None:
        self.same(lambda store: content(store.read_all()))
        for stream in STREAMS:
            self.same(lambda store: _lease(store, stream))  # noqa: B023 - called at once
            for store in (self.reference, self.store):
                events = list(store.read(stream))
                assert chained(events)
                assert store.head(stream)[0] == len(events) - 1

    def same(self, act: Callable[[EventStore], object]) -> None:
        assert _outcome(act, self.store) == _outcome(act, self.reference)

    def teardown(self) -> None:
        self.store.close()


def content(events: Any) -> list[tuple[object, ...]]:
    """All of the events but the time they were recorded, and the digests that depend on it."""
    return [_content(event) for event in events]


def _content(e: Recorded) -> tuple[object, ...]:
    return e.global_position, e.stream, e.position, e.event_id, e.payload, e.metadata


def _lease(store: EventStore, stream: str) -> object:
    lease = store.lease(stream)
    return lease and (lease.holder, lease.attempt, lease.left > 0)


def _outcome(act: Callable[[EventStore], object], store: EventStore) -> object:
    try:
        return act(store)
    except LedgerError as error:
        return type(error), str(error)


@pytest.fixture
def extent(request: pytest.FixtureRequest) -> settings:
    examples = 100 if request.config.getoption("faults", "sample") == "all" else 10
    return settings(max_examples=examples, stateful_step_count=25, deadline=None)


def test_sqlite_agrees_with_the_reference(tmp_path: Path, extent: settings) -> None:
    urls = (f"sqlite:///{tmp_path / str(n)}/ledger.db" for n in range(10**9))
    run_state_machine_as_test(lambda: StoresAgree(next(urls)), settings=extent)


def test_postgresql_agrees_with_the_reference(pg_server: postgres.Server, extent: settings) -> None:
    template = postgres.ledger_template(pg_server)
    made: list[str] = []

    def machine() -> StoresAgree:
        if made:
            pg_server.drop(made.pop())
        made.append(pg_server.create(template))
        return StoresAgree(pg_server.url(made[0]))

    run_state_machine_as_test(machine, settings=extent)
