"""What is said at the end of a run about the mirrors that did not keep up with it."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from ledger.cli import render
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from ledger.book import Book

_PATIENCE_S: Final = 10.0
"""A client may take several seconds to import; a tracker that is away is not waited for."""
_QUIET_S: Final = 2.0
"""Who waits for longer is told for what."""
_POLL_S: Final = 0.1


def tell_of_mirrors(book: Book, *runs: str) -> None:
    """Wait a little for the mirrors of these runs, then say which are behind, and what catches them up.

    The runs are on record: whatever goes wrong here is said, and changes nothing.
    """
    wait = _Wait()
    for name in book.settings.mirrors:
        for run in runs:
            try:
                _tell(book, name, run, wait)
            except LedgerError as error:
                render.talk(f"how far {name} is cannot be told: {error}")


class _Wait:
    """One wait, for all mirrors together."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._told = False

    def goes_on(self, name: str) -> bool:
        """Whether there is still patience, after a moment of it."""
        waited = time.monotonic() - self._began
        if waited >= _PATIENCE_S:
            return False
        if waited >= _QUIET_S and not self._told:
            render.talk(f"waiting for {name}, {_PATIENCE_S:.0f} s at most; Ctrl-C ends the wait, and nothing else")
            self._told = True
        time.sleep(_POLL_S)
        return True


def _tell(book: Book, name: str, run: str, wait: _Wait) -> None:
    from ledger.mirror.cursor import at_work, behind
    from ledger.record.mirroring import mirror_log

    with closing(book.plugins.mirror(name, book.settings)) as mirror:
        with suppress(KeyboardInterrupt):  # whoever is tired of waiting is told all the same
            while behind(book, mirror, run) and at_work(book, mirror, run) != "waiting" and wait.goes_on(name):
                pass
        if events := behind(book, mirror, run):
            known = book.names()[run]
            tries = "its mirror still tries, and " if at_work(book, mirror, run) else ""
            render.talk(
                f"{name} is {render.count(events, 'event')} behind {known}: nothing is lost, {tries}"
                f"`ledger mirror {known} --to {name}` catches it up{render.DOT}why: {mirror_log(book.settings)}"
            )
