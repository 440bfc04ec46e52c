"""How far each run was delivered to each other tracker, and who delivers it now.

No facts about a run: a cursor that is lost costs that its run is delivered again, which changes nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ledger.errors import CursorHeld

if TYPE_CHECKING:
    from threading import Condition

START: Final = -1
"""Where a cursor stands before the first event was delivered."""


@dataclass(frozen=True, slots=True)
class CursorKey:
    """Which cursor: of one run on its way to one place."""

    mirror: str
    target: str
    """Where the mirror delivers to, without credentials."""
    stream: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a cursor stands, and who moves it."""

    position: int
    """Of the last event of the stream that was delivered."""
    holder: str
    left: float
    """Seconds until it is anybody's, by the clock of the database; negative once it is."""

    def admit(self, key: CursorKey, holder: str, instead_of: str | None) -> None:
        """Raise ``CursorHeld`` where somebody else holds it, and not ``instead_of``."""
        if self.left > 0 and self.holder not in (holder, instead_of):
            raise CursorHeld(key.stream, key.mirror, self.holder)


class Cursors(Protocol):
    """The cursors of one ledger. Any thread and any process may ask; one holder at a time moves a cursor."""

    def at(self, key: CursorKey) -> Cursor | None:
        """Where a cursor stands; None for one that nobody ever took."""

    def take(self, key: CursorKey, holder: str, seconds: float, *, instead_of: str | None = None) -> int:
        """Hold the cursor for so long unless it is taken again; where it stands.

        Raises ``CursorHeld`` where somebody else holds it. One whose time is over gives way, as does ``instead_of``:
        a holder that is known to be dead.
        """

    def move(self, key: CursorKey, holder: str, position: int) -> None:
        """Put the cursor that ``holder`` took at ``position``. Raises ``CursorHeld`` where it is another's by now."""

    def release(self, key: CursorKey, holder: str) -> None:
        """Let others have it at once; nothing where it is another's."""


class MemoryCursors:
    """``Cursors`` in this process's memory: the reference."""

    def __init__(self, lock: Condition) -> None:
        self._lock = lock
        self._cursors: dict[CursorKey, Cursor] = {}
        """``left`` holds the time at which it ends."""

    def at(self, key: CursorKey) -> Cursor | None:
        """See ``Cursors.at``."""
        with self._lock:
            held = self._cursors.get(key)
            return Cursor(held.position, held.holder, held.left - time.time()) if held else None

    def take(self, key: CursorKey, holder: str, seconds: float, *, instead_of: str | None = None) -> int:
        """See ``Cursors.take``."""
        with self._lock:
            held = self.at(key)
            if held:
                held.admit(key, holder, instead_of)
            position = held.position if held else START
            self._cursors[key] = Cursor(position, holder, time.time() + seconds)
            return position

    def move(self, key: CursorKey, holder: str, position: int) -> None:
        """See ``Cursors.move``."""
        with self._lock:
            held = self._cursors.get(key)
            if held is None or held.holder != holder:
                raise CursorHeld(key.stream, key.mirror, held.holder if held else "nobody")
            self._cursors[key] = Cursor(position, holder, held.left)

    def release(self, key: CursorKey, holder: str) -> None:
        """See ``Cursors.release``."""
        with self._lock:
            held = self._cursors.get(key)
            if held and held.holder == holder:
                self._cursors[key] = Cursor(held.position, holder, time.time())
