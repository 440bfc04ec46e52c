"""What the tests of all SQL databases share."""

from __future__ import annotations

import multiprocessing
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from ledger.codec import Codec
from ledger.store.base import ANY
from ledger.store.sql import SqlStore
from ledger.testing.stores import PATIENCE, BaseEventStoreTests, chained, draft, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.codec import Draft
    from ledger.store.base import EventStore


class SqlStoreTests(BaseEventStoreTests):
    """The conformance kit for a log in an SQL database."""

    @property
    def reopen(self) -> Callable[[EventStore], EventStore]:
        return lambda store: SqlStore(store.url, Codec())  # type: ignore[attr-defined]

    @contextmanager
    def late_append(self, store: EventStore, stream: str, drafts: list[Draft]) -> Iterator[None]:
        assert isinstance(store, SqlStore)
        with store._database.writing() as connection:
            store._add(connection, stream, drafts, ANY, None, None)
            yield

    @pytest.fixture
    def new_url(self) -> str:
        """Of a database that holds nothing, not even tables."""
        raise NotImplementedError

    def test_processes_write_the_same_log(self, new_url: str) -> None:
        """They also create it, all at the same moment."""
        shared, own, rounds = stream(), [stream() for _ in range(3)], 30
        spawn = multiprocessing.get_context("spawn")
        writers = [spawn.Process(target=_write, args=(new_url, shared, name, rounds)) for name in own]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(PATIENCE)
        assert [writer.exitcode for writer in writers] == [0, 0, 0]
        with closing(SqlStore(new_url, Codec())) as store:
            assert [e.global_position for e in store.read_all()] == list(range(1, 3 * rounds * len(own) + 1))
            for name in (shared, *own):
                events = list(store.read(name))
                assert [e.position for e in events] == list(range(len(events)))
                assert chained(events)
            assert {store.name_run(name) for name in own} == {"run-1", "run-2", "run-3"}


def _write(url: str, shared: str, own: str, rounds: int) -> None:
    with closing(SqlStore(url, Codec())) as store:
        for _ in range(rounds):
            store.append(shared, [draft(), draft()])
            store.append(own, [draft()])
            store.name_run(own)
