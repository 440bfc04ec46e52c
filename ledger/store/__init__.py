"""The append-only log: ``open_store`` opens the one behind a URL, ``base`` is the port that all speak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import UsageError

if TYPE_CHECKING:
    from ledger.codec import Codec
    from ledger.store.base import EventStore


def open_store(url: str, codec: Codec) -> EventStore:
    """The log behind ``url``: ``memory:``, a fresh one that ends with the process, or ``sqlite:///PATH``.

    An SQLite ledger is created, or upgraded to this version's schema, on the way. Raises ``UsageError`` for
    any other URL, ``StoreUnavailable`` where the log cannot be opened and ``SchemaMismatch`` where it is
    too new.
    """
    # Imported here: `ledger --help` and a ledger in memory have no use for SQLAlchemy.
    if url in ("memory:", "memory://"):
        from ledger.store.memory import MemoryStore

        return MemoryStore(codec)
    if url.startswith("sqlite:"):
        from ledger.store.sql import SqlStore

        return SqlStore(url, codec)
    raise UsageError(
        f"no event store answers to {_scheme(url)!r}",
        mend="use sqlite:///PATH, the path of a directory, or memory:",
    )


def _scheme(url: str) -> str:
    """Only the scheme: the rest of a database URL may hold a password."""
    return url.partition(":")[0] + ":" if ":" in url else url
