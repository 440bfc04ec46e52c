"""Processes that their launcher has started again go on as a new attempt, begun by their rank 0."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.book import HOST
from ledger.errors import FencedAttempt, LedgerError, Unavailable
from ledger.journal.file import headers
from ledger.record.fetched import fetch_newest, note_attempt, place_of
from ledger.record.take import take
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.book import Book
    from ledger.read.state import Attempt, RunState

_POLL_S: Final = 0.2
_PATIENCE_S: Final = 600.0
"""Rank 0 may have to fetch a large checkpoint from far away first."""


class Restarted(NamedTuple):
    """The attempt that this process belongs to, and where it goes on."""

    attempt: int
    resumed_from: Path | None
    step: float | None


def restarts() -> int:
    """How often torchrun has started this process's group again.

    Of several nodes each counts for itself, so that nothing can be told from it: then 0.
    """
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if alone else 0


def launched_attempt() -> int:
    """The attempt as which this process's group was started first."""
    return int(os.environ.get("LEDGER_ATTEMPT", "1"))


def restarted(book: Book, run: str, *, leads: bool) -> Restarted:
    """Join the attempt that the restarted processes make; the one that ``leads`` begins it.

    Whatever the dead processes had acknowledged is in the log before it begins. Raises ``FencedAttempt`` where
    somebody else has gone on with the run meanwhile.
    """
    attempt = launched_attempt() + restarts()
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        state = book.run(run)
        if state.attempt.number >= attempt:
            return _joined(book, state, attempt)
        if leads:
            _begin(book, state, attempt)
        elif time.monotonic() > deadline:
            raise LedgerError(
                f"rank 0 did not begin attempt {attempt} of {state.name} within {_PATIENCE_S:.0f} seconds",
                mend=f"`ledger show {state.name}` and what rank 0 printed tell why; then `ledger resume {state.name}`",
            )
        else:
            time.sleep(_POLL_S)


def _begin(book: Book, state: RunState, attempt: int) -> None:
    _take_over_from_the_dead(book, state.id)
    state = book.run(state.id)
    fetched = fetch_newest(book, state, _place(book, state, attempt))
    # The process that launched them all ends this attempt, too.
    launched = _launched(state)
    take(book, state, [fetched.resumed(attempt, process=launched.process)], attempt)
    note_attempt(book, state.id, attempt, launched.number, launched.process)


def _joined(book: Book, state: RunState, attempt: int) -> Restarted:
    begun = next((one for one in state.attempts if one.number == attempt), None)
    if state.attempt.number > attempt or begun is None or begun.process != _launched(state).process:
        raise FencedAttempt(run_stream(state.id), attempt, state.attempt.number)
    step = begun.resumed.step if begun.resumed else None
    return Restarted(attempt, None if step is None else _place(book, state, attempt), step)


def _launched(state: RunState) -> Attempt:
    return next(attempt for attempt in state.attempts if attempt.number == launched_attempt())


def _place(book: Book, state: RunState, attempt: int) -> Path:
    launched = _launched(state)
    return place_of(book, state.id, attempt, launched.number, launched.process)


def _take_over_from_the_dead(book: Book, run: str) -> None:
    """Return when nothing of the dead processes waits on this host: once the new attempt has begun it is refused.

    Other processes, of which every one that opens the ledger does this, may be at it already.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        book.recover()
        if not _waiting(book, run):
            return
        if time.monotonic() > deadline:
            raise Unavailable(
                f"facts of processes that died still wait in {book.settings.journals}",
                mend="`ledger doctor` tells what keeps them from the log; then resume the run",
            )
        time.sleep(_POLL_S)


def _waiting(book: Book, run: str) -> bool:
    import psutil

    mine = run_stream(run)
    return any(
        header.stream == mine and header.metadata.host == HOST and not psutil.pid_exists(header.metadata.pid)
        for header in headers(book.settings.journals)
    )
