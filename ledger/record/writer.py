"""Between ``Run.log()`` and the log: rows wait in memory and are appended in batches by a thread of their own."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from ledger.errors import FencedAttempt, LedgerError, UsageError
from ledger.events import MetricsLogged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ledger.codec import Recorded
    from ledger.events import Event

Row = tuple[float, float, dict[str, float]]
"""Step, Unix time, values by metric."""

_INTERVAL_S: Final = 0.25
_BATCH: Final = 10_000


class Writer:
    """Appends one process's facts about one run, in the order in which they were given.

    A log that cannot be written for a while delays metrics but loses none and never stops training; they wait here
    and are tried again. A fenced attempt is another matter: every further call raises ``FencedAttempt``.
    """

    def __init__(self, append: Callable[[Sequence[Event]], list[Recorded]]) -> None:
        self._append = append
        self._rows: deque[Row] = deque()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._fenced: FencedAttempt | None = None
        self._thread: threading.Thread | None = None

    def log(self, row: Row) -> None:
        """Take a row; it is in the log soon, and before any fact that is appended later."""
        if self._fenced:
            raise self._fenced
        if self._closed:
            raise UsageError("the run has ended: nothing more can be logged", mend="log before finish(), inside `with`")
        self._rows.append(row)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
            self._thread.start()

    def append(self, *events: Event) -> list[Recorded]:
        """Append facts now; they are committed when this returns. Raises what the store raises."""
        with self._writing:
            self._drain()
            return self._append(events)

    def flush(self) -> None:
        """Append all rows taken so far. Raises what the store raises; the rows are then still here."""
        with self._writing:
            self._drain()

    def close(self) -> None:
        """Flush and end the thread."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _run(self) -> None:
        warned = False
        while not self._closed:
            self._wake.wait(_INTERVAL_S)
            try:
                self.flush()
                warned = False
            except FencedAttempt as error:
                self._fenced = error
                return
            except LedgerError as error:
                if not warned:
                    warnings.warn(f"metrics wait in memory, training goes on: {error}", RuntimeWarning, stacklevel=1)
                warned = True

    def _drain(self) -> None:
        while self._rows:
            # Only this method removes rows, under the lock: what is copied here stays at the left end until then.
            count = min(len(self._rows), _BATCH)
            self._append([columns(list(islice(self._rows, count)))])
            for _ in range(count):
                self._rows.popleft()


def columns(rows: Sequence[Row]) -> MetricsLogged:
    """Rows as columns, None where a row lacks a metric that another row has."""
    names = dict.fromkeys(name for _, _, values in rows for name in values)
    return MetricsLogged(
        step=tuple(step for step, _, _ in rows),
        time=tuple(when for _, when, _ in rows),
        values={name: tuple(values.get(name) for _, _, values in rows) for name in names},
    )
