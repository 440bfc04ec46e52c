"""Beginning a new attempt of a run: of several who try at once, one succeeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import ConcurrentAppend, Conflict
from ledger.record.saving import discard_unsaved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.book import Book
    from ledger.events import Event
    from ledger.read.state import RunState


def take(book: Book, state: RunState, facts: Sequence[Event], attempt: int) -> None:
    """Append the first facts of the new attempt, and clear away what those before it were saving.

    Raises ``Conflict`` where somebody else has begun it.
    """
    version = state.version
    while True:
        try:
            book.append(state.id, *facts, attempt=attempt, expected_version=version)
        except ConcurrentAppend as error:
            # A note, or a process of the old attempt that still lives, is no reason to give up.
            now = book.run(state.id)
            if now.attempt.number >= attempt:
                raise Conflict(
                    f"{state.name} was resumed by another process at the same moment",
                    mend=f"`ledger show {state.name}` tells where it runs",
                ) from error
            version = now.version
        else:
            discard_unsaved(book, state.id, attempt=attempt)
            return
