"""The append-only log: ``open_store`` opens the one behind a URL, ``base`` is the port that all speak."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger.codec import Codec
    from ledger.store.base import EventStore


def open_store(url: str, codec: Codec) -> EventStore:
    """The log behind ``url``: ``sqlite:///PATH``, ``postgresql://…``, or ``memory:``, which ends with the process.

    The tables are created where there are none. Raises ``UsageError`` for any other URL, ``StoreUnavailable`` where
    the log cannot be opened and ``SchemaMismatch`` where an older or newer version of Ledger wrote it.
    """
    # Imported here: `ledger --help` and a ledger in memory have no use for SQLAlchemy.
    if url in ("memory:", "memory://"):
        from ledger.store.memory import MemoryStore

        return MemoryStore(codec)
    from ledger.store.sql import SqlStore

    return SqlStore(url, codec)
