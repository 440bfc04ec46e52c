"""The sign of life of a run's writer: a lease in the log's database, renewed for as long as the process lives."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ledger.errors import FencedAttempt, Unavailable
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from ledger.book import Book

LEASE_S: Final = 60.0
"""How long a dead writer on another host may be taken for alive; a database that is away for less costs nothing."""
_BEAT_S: Final = 10.0


class Heartbeat:
    """Renews the lease of one attempt of a run from a thread of its own, from now until ``stop``.

    Raises what the store raises where not even the first sign of life gets through.
    """

    def __init__(self, book: Book, run: str, attempt: int) -> None:
        metadata = book.metadata("run", attempt=attempt)
        self._book = book
        self._stream = run_stream(run)
        self._holder = f"process {metadata.pid} on {metadata.host}"
        self._attempt = attempt
        self._stopped = threading.Event()
        self._renew()
        threading.Thread(target=self._run, name="ledger-heartbeat", daemon=True).start()

    def stop(self) -> None:
        """No more signs of life; the end of the run is on record."""
        self._stopped.set()

    def _run(self) -> None:
        # A newer attempt holds the lease: this one learns of it when it records something.
        with suppress(FencedAttempt):
            while not self._stopped.wait(_BEAT_S):
                with suppress(Unavailable):  # a log that is away is tried again at the next beat
                    self._renew()

    def _renew(self) -> None:
        self._book.store.renew_lease(self._stream, self._holder, self._attempt, LEASE_S)
