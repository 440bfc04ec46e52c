"""Between a run and the log: facts go to a journal at once, and from there to the log by a thread of their own."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

from ledger.errors import FencedAttempt, LedgerError, StoreUnavailable, UsageError
from ledger.journal.carry import carry, refuse
from ledger.journal.facts import RowWriter, fact_frame
from ledger.journal.file import Journal
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.book import Book
    from ledger.codec import Draft, Metadata, Recorded
    from ledger.events import Event
    from ledger.store.base import JournalSpan

_SOON_S: Final = 0.5
_LATER_S: Final = 2.0
_SLOWING: Final = 0.05
"""Between two carries: somebody looks at a run that has just begun; a long one must cost its training nothing."""
_LARGE: Final = 64 << 20
"""A journal of this many bytes, all of them in the log, makes room for a fresh one."""


class Writer:
    """Records one process's facts about one run, in the order in which they are given. Any thread may use it.

    A log that cannot be reached never stops training: what was given waits in the journal, and is carried over when
    the log is back, by this process or, once it is dead, by any other that opens the ledger. A fenced attempt is
    another matter: every further call raises ``FencedAttempt``. After a fork the child has a journal of its own.
    """

    _journal: Journal | None
    _rows: RowWriter | None
    _position: int
    """How far the log stands in the journal."""
    _opening: bool
    """Whether this thread is at work in ``_open``: what a signal handler logs meanwhile must wait."""
    _backlog: deque[tuple[float, float, Mapping[str, float]]]
    """Rows that could not be written to the journal, or not yet."""
    _thread: threading.Thread | None

    def __init__(self, book: Book, run: str, *, attempt: int, rank: int | None = None, name: str = "run") -> None:
        self._book = book
        self._stream = run_stream(run)
        self._name, self._rank, self._attempt = name, rank, attempt
        self._closed = False
        self._fenced: FencedAttempt | None = None
        self._reset()
        _WRITERS.add(self)

    def log(self, step: float, values: Mapping[str, float]) -> None:
        """Take a row of metrics: it outlives this process, and is in the log soon.

        Where the disk is full it waits in memory instead, and a warning says so. Raises ``TypeError`` for a name that
        is no text or a step beyond 64 bits.
        """
        now = time.time()
        with self._giving:
            if self._opening:
                self._backlog.append((step, now, values))
                return
            try:
                if self._backlog:
                    self._give_backlog()
                (self._rows or self._open()).add(step, now, values)
            except StoreUnavailable as error:
                self._backlog.append((step, now, values))
                self._warn(f"metrics wait in memory only, training goes on: {error}")

    def append(self, *events: Event) -> None:
        """Record facts, after everything that was given before.

        They are in the log when this returns or, where the log cannot be reached, on this host's disk; if none of them
        is of a ``durable`` type, they outlive this process and are in the log soon. Raises ``StoreUnavailable`` where
        not even that can be done.
        """
        metadata = self._metadata()
        whole = b"".join(fact_frame(self._book.codec.draft(event, metadata)) for event in events)
        with self._giving:
            if self._journal is None:
                self._open()
            self._give_backlog()
            journal = self._journal
            assert journal is not None  # noqa: S101 - mypy cannot see that _open() has made one
            journal.add(whole)
        if not any(event.durable for event in events):
            return
        if self._unreachable:  # the thread waits for the log already
            journal.sync()
            return
        try:
            self.flush()
        except FencedAttempt:
            raise
        except LedgerError as error:
            journal.sync()
            self._warn(f"facts wait in the journal, training goes on: {error}")

    def flush(self) -> None:
        """Return when everything given so far is in the log. Raises what the store raises; nothing is lost then."""
        with self._carrying:
            self._raise_if_fenced()
            if self._journal is None:
                return
            with self._giving:
                self._give_backlog()
            try:
                self._carry(self._journal)
            except FencedAttempt as error:
                self._refused(self._journal, error)
                raise
            except LedgerError:
                self._unreachable = True
                raise
            self._unreachable = False

    def close(self, *, patience_s: float = 10.0) -> None:
        """Bring everything into the log, and end.

        A log that stays out of reach for ``patience_s`` seconds gets it later: the journal stays, durable, and a
        warning names it. Raises ``FencedAttempt``.
        """
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        deadline = time.monotonic() + patience_s
        while self._journal is not None:
            try:
                self.flush()
            except FencedAttempt:
                raise
            except LedgerError as error:
                if time.monotonic() < deadline:
                    time.sleep(min(1.0, patience_s / 10))
                    continue
                self._leave(self._journal, error)
            else:
                self._journal.remove()
            self._journal = self._rows = None

    # --- the journal ------------------------------------------------------------------------------------------

    def _open(self) -> RowWriter:
        self._raise_if_fenced()
        if self._closed:
            raise UsageError("the run has ended: nothing more can be logged", mend="log before finish(), inside `with`")
        self._opening = True
        try:
            journal = Journal.create(self._book.settings.journals, self._stream, self._metadata())
        finally:
            self._opening = False
        if self._rows:  # a signal handler was quicker: it recorded a fact
            journal.remove()
            return self._rows
        self._use(journal)
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()
        assert self._rows is not None  # noqa: S101 - mypy cannot see through _use
        return self._rows

    def _use(self, journal: Journal) -> None:
        self._journal, self._rows, self._position = journal, RowWriter(journal), 0

    def _give_backlog(self) -> None:
        while self._backlog:
            row = self._backlog.popleft()  # first: a signal handler may give the rest in the middle of this one
            try:
                (self._rows or self._open()).add(*row)
            except BaseException:
                self._backlog.appendleft(row)
                raise

    def _leave(self, journal: Journal, error: LedgerError) -> None:
        journal.sync()
        journal.close()
        warnings.warn(
            f"the last facts wait in {journal.path}; the next command of Ledger on this host that reaches the log "
            f"takes them over: {error}",
            RuntimeWarning,
            stacklevel=3,
        )

    def _metadata(self) -> Metadata:
        return self._book.metadata(self._name, rank=self._rank, attempt=self._attempt)

    # --- from the journal to the log --------------------------------------------------------------------------

    def _run(self) -> None:
        began = time.monotonic()
        while not self._wake.wait(min(max((time.monotonic() - began) * _SLOWING, _SOON_S), _LATER_S)):
            try:
                self.flush()
            except FencedAttempt:
                return
            except LedgerError as error:
                self._warn(f"facts wait in the journal, training goes on: {error}")
            else:
                self._warned = False

    def _carry(self, journal: Journal) -> None:
        with self._giving:  # when no frame is half written
            size = journal.size()
        if self._position < size:
            self._position, damage = carry(journal, self._store, start=self._position, end=size)
            if damage:
                raise StoreUnavailable(
                    f"the journal {journal.path} is damaged at byte {damage.at}", mend="look after that disk"
                )
        if self._position >= _LARGE:
            self._renew(journal)

    def _store(self, drafts: Sequence[Draft], span: JournalSpan) -> list[Recorded]:
        return self._book.append_drafts(self._stream, drafts, span=span)

    def _renew(self, journal: Journal) -> None:
        fresh = Journal.create(self._book.settings.journals, self._stream, self._metadata())
        with self._giving:
            if journal.size() == self._position:
                self._use(fresh)
                journal.remove()
            else:  # somebody logged meanwhile: next time
                fresh.remove()

    def _refused(self, journal: Journal, error: FencedAttempt) -> None:
        with self._giving:
            self._fenced = error
            self._journal = self._rows = None
        try:
            refuse(journal, self._book.store, self._book.codec, self._book.metadata("ledger"), error)
        finally:
            journal.close()

    def _raise_if_fenced(self) -> None:
        if self._fenced:
            raise self._fenced

    def _warn(self, text: str) -> None:
        if not self._warned:
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        self._warned = True

    def _reset(self) -> None:
        self._journal = self._rows = self._thread = None
        self._position = 0
        self._opening = False
        self._backlog = deque()
        # Both reentrant: a signal handler may log while the code that it interrupts logs. Whoever wants both takes
        # _carrying first.
        self._giving = threading.RLock()
        self._carrying = threading.RLock()
        self._wake = threading.Event()
        self._unreachable = False
        self._warned = False


_WRITERS: Final[weakref.WeakSet[Writer]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_WRITERS):
        if writer._journal:
            writer._journal.close()  # the parent goes on with it
        writer._reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
