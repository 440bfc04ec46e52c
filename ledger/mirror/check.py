"""Whether a tracker shows what the log says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.hooks.differences import Difference, differences
from ledger.hooks.pages import page_of, whole_page
from ledger.mirror import asking
from ledger.mirror.cursor import delivered
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.book import Book
    from ledger.hooks.pages import Adaptation
    from ledger.hooks.ports import Mirror


@dataclass(frozen=True)
class Checked:
    """What a tracker shows of a run, held against the log."""

    differences: Sequence[Difference]
    """None of them is an adaptation: what is expected is what the mirror's own rules make of the log."""
    adaptations: Sequence[Adaptation]
    behind: int
    """How many events the tracker had not had when it was asked, which explains differences."""


def check(book: Book, mirror: Mirror, run: str) -> Checked:
    """Read the run with this UUID back from the tracker and compare it with the whole log.

    Raises ``Unavailable`` where the tracker cannot be had.
    """
    # In this order: what arrives meanwhile is in the log by the time that is read, and counts as not delivered.
    before = delivered(book, mirror, run)
    shown = asking.shows(mirror, run)
    expected, adaptations = asking.adapt(mirror, whole_page(map(page_of, book.store.read(run_stream(run)))))
    version, _ = book.store.head(run_stream(run))
    found = [Difference("run", "there", "nothing")] if shown is None else differences(expected, shown)
    return Checked(found, [*adaptations, *asking.noted(mirror, run)], version - before)
