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
_POLL_S: Final = 0.1


def tell_of_mirrors(book: Book, *runs: str) -> None:
    """Wait a little for the mirrors of these runs, then say which are behind, and what catches them up.

    The runs are on record: whatever goes wrong here is said, and changes nothing.
    """
    deadline = time.monotonic() + _PATIENCE_S
    for name in book.settings.mirrors:
        for run in runs:
            try:
                _tell(book, name, run, deadline)
            except LedgerError as error:
                render.talk(f"how far {name} is cannot be told: {error}")


def _tell(book: Book, name: str, run: str, deadline: float) -> None:
    from ledger.mirror.cursor import behind
    from ledger.record.mirroring import mirror_log

    with closing(book.plugins.mirror(name, book.settings)) as mirror:
        with suppress(KeyboardInterrupt):  # whoever is tired of waiting is told all the same
            while behind(book, mirror, run) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        if events := behind(book, mirror, run):
            known = book.names()[run]
            render.talk(
                f"{name} is {render.count(events, 'event')} behind {known}: nothing is lost, "
                f"`ledger mirror {known} --to {name}` catches it up{render.DOT}why: {mirror_log(book.settings)}"
            )
