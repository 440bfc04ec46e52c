"""The cursor of one run on its way to one tracker, held by this process as long as it delivers."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, Self

from ledger.book import this_process
from ledger.errors import CursorHeld, Unavailable
from ledger.events import Process
from ledger.store.base import run_stream
from ledger.store.cursors import START, CursorKey

if TYPE_CHECKING:
    from types import TracebackType

    from ledger.book import Book
    from ledger.hooks.ports import Mirror

HELD_S: Final = 60.0
"""How long a host that died keeps others from delivering what it delivered."""
_BEAT_S: Final = 15.0
_HOLDER: Final = re.compile(r"process (\d+) on (.+), started (.+)")


class Held:
    """A context in which this process, and no other, delivers the run to the mirror.

    Entering raises ``CursorHeld`` where another process does, on this host or elsewhere; one that is dead gives way.
    """

    def __init__(self, book: Book, mirror: Mirror, run: str) -> None:
        self.position = START
        """Of the last event that was delivered."""
        self._book = book
        self._cursors = book.store.cursors
        self._key = key_of(mirror, run)
        me = this_process()
        self._holder = f"process {me.pid} on {me.host}, started {me.started}"
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="ledger-mirror-cursor", daemon=True)

    def move(self, position: int) -> None:
        """Events up to ``position`` are delivered. Raises ``CursorHeld`` where another process has taken over."""
        self._cursors.move(self._key, self._holder, position)
        self.position = position

    def __enter__(self) -> Self:
        try:
            self.position = self._take()
        except CursorHeld as held:
            if _is_alive(self._book, held.holder) is not False:
                raise
            self.position = self._take(instead_of=held.holder)
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._keeper.join(_BEAT_S)  # it must not take the cursor once more
        with suppress(Unavailable):  # then it ends by itself
            self._cursors.release(self._key, self._holder)

    def _take(self, *, instead_of: str | None = None) -> int:
        return self._cursors.take(self._key, self._holder, HELD_S, instead_of=instead_of)

    def _keep(self) -> None:
        with suppress(CursorHeld):  # whoever moves it next learns of it
            while not self._stopped.wait(_BEAT_S):
                with suppress(Unavailable):
                    self._take()


def key_of(mirror: Mirror, run: str) -> CursorKey:
    """Which cursor says how far the run with this UUID was delivered to the mirror."""
    return CursorKey(mirror.name, mirror.target, run_stream(run))


def behind(book: Book, mirror: Mirror, run: str) -> int:
    """How many events of the run the mirror has not had."""
    at = delivered(book, mirror, run)
    version, _ = book.store.head(run_stream(run))
    return version - at


def delivered(book: Book, mirror: Mirror, run: str) -> int:
    """The position of the last event of the run that the mirror has had."""
    cursor = book.store.cursors.at(key_of(mirror, run))
    return cursor.position if cursor else START


def at_work(book: Book, mirror: Mirror, run: str) -> Literal["delivering", "waiting"] | None:
    """What the process of this host does that delivered the run to the mirror last; None where it does not live.

    ``waiting``: it could not, and will try again.
    """
    cursor = book.store.cursors.at(key_of(mirror, run))
    if cursor is None or not _is_alive(book, cursor.holder):
        return None
    return "delivering" if cursor.left > 0 else "waiting"


def _is_alive(book: Book, holder: str) -> bool | None:
    """None where it cannot be known."""
    told = _HOLDER.fullmatch(holder)
    return book.alive(Process(pid=int(told[1]), host=told[2], started=told[3])) if told else None
