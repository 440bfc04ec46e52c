"""What the tests of all SQL databases share."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ledger.codec import Codec
from ledger.store.base import ANY
from ledger.store.sql import SqlStore
from ledger.testing.stores import BaseEventStoreTests

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
