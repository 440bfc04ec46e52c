"""Where checkpoints lie until they are stored: each attempt has a place of its own.

Processes of an attempt that was taken over may live on for a while, and write and remove files there.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.book import Book


def saving_place(book: Book, run: str, attempt: int) -> Path:
    """Of one attempt of the run with this UUID."""
    return book.settings.scratch / "saving" / f"{run}-{attempt}"


def discard_unsaved(book: Book, run: str, *, attempt: int) -> None:
    """Remove what all attempts but this one have left there."""
    own = saving_place(book, run, attempt)
    for place in own.parent.glob(f"{run}-*"):
        if place != own:
            shutil.rmtree(place, ignore_errors=True)
