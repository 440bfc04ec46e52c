"""Bringing a run to another tracker: what is new, batch by batch, again and again while the tracker is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import tenacity

from ledger.errors import CursorHeld, PluginUnavailable, StoreUnavailable, Unavailable
from ledger.hooks.pages import page_of, whole_page
from ledger.mirror import asking
from ledger.mirror.batches import batches
from ledger.mirror.cursor import Held
from ledger.read.life import LIFE, Life, life_of
from ledger.store.base import run_stream
from ledger.store.cursors import START

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.book import Book
    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation
    from ledger.hooks.ports import Mirror

PATIENCE_S: Final = 10.0
"""How long a tracker may be away before it is given up, where nothing else is to come."""
_LONGEST_WAIT_S: Final = 15.0
_PASSING: Final = (CursorHeld, Unavailable)
"""What may be otherwise in a moment: another process is at it, the tracker or the log is away."""
_POLL_S: Final = 1.0
"""A tracker is no terminal: what comes within a second goes there together."""

Told = Callable[[str], None]
"""Hears what goes wrong and is tried again."""


class Delivery:
    """One run on its way to one mirror.

    ``patience_s`` is for a tracker that is away, and for another process that brings the run there at this moment.
    """

    def __init__(
        self, book: Book, mirror: Mirror, run: str, *, patience_s: float = PATIENCE_S, told: Told | None = None
    ) -> None:
        self.events = 0
        """How many were delivered."""
        self.adaptations: dict[Adaptation, None] = {}
        """What was adapted to the tracker, in order and each once."""
        self._book = book
        self._mirror = mirror
        self._run = run
        self._patience_s = patience_s
        self._told = told or (lambda _: None)
        self._life = Life()

    def catch_up(self, *, again: bool = False, progress: Callable[[int], None] | None = None) -> None:
        """Deliver all that the run has; ``again`` from its beginning, whatever was delivered before.

        ``progress`` hears the position of the last event that was delivered. Raises ``Unavailable`` where the tracker
        cannot be had, ``Conflict`` where it has another run in the place of this one.
        """

        def bring() -> None:
            with Held(self._book, self._mirror, self._run) as held:
                if again and not self.events:
                    held.move(START)
                events = self._book.store.read(run_stream(self._run), after=held.position)
                for position in self._brought(held, events):
                    if progress:
                        progress(position)

        self._patiently(bring, lambda: True)
        self._hear_what_was_noted(lambda: True)

    def follow(self) -> None:
        """Deliver all that the run has and all that is to come, until it has ended.

        As long as it goes on, nothing is given up: neither a tracker nor a log that is away. Raises as ``catch_up``.
        """
        self._has_ended()  # a log that goes away at once leaves it known whose run this is

        def bring() -> None:
            with Held(self._book, self._mirror, self._run) as held:
                events = self._book.follow(self._run, after=held.position, poll=_POLL_S)
                for _ in self._brought(held, events):
                    pass

        self._patiently(bring, self._has_ended)
        self._hear_what_was_noted(self._has_ended)

    def _brought(self, held: Held, events: Iterable[Recorded | None]) -> Iterable[int]:
        """Positions as they are reached."""
        for batch in batches(events):
            asking.deliver(self._mirror, batch)
            held.move(batch[-1].position)
            self.events += len(batch)
            self.adaptations |= dict.fromkeys(asking.adapt(self._mirror, whole_page(map(page_of, batch)))[1])
            yield held.position

    def _hear_what_was_noted(self, done: Callable[[], bool]) -> None:
        def ask() -> None:
            self.adaptations |= dict.fromkeys(asking.noted(self._mirror, self._run))

        if self.events:
            self._patiently(ask, done)

    def _patiently(self, bring: Callable[[], None], done: Callable[[], bool]) -> None:
        """Try again after what passes: for ever while the run is not ``done``, then as long as there is patience.

        The patience begins anew with each event that arrives. Between two tries the cursor is anybody's.
        """

        def passes(error: BaseException) -> bool:
            return isinstance(error, _PASSING) and not isinstance(error, PluginUnavailable)

        since: float | None = None
        events = 0

        def given_up(state: tenacity.RetryCallState) -> bool:
            nonlocal since, events
            if not done():
                since = None
                return False
            if since is None or events != self.events:
                since, events = time.monotonic(), self.events
            return time.monotonic() + state.upcoming_sleep - since >= self._patience_s

        def say(state: tenacity.RetryCallState) -> None:
            if state.outcome:
                self._told(f"{state.outcome.exception()}; trying again")

        tenacity.Retrying(
            retry=tenacity.retry_if_exception(passes),
            stop=given_up,
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S),
            before_sleep=say,
            reraise=True,
        )(bring)

    def _has_ended(self) -> bool:
        try:
            self._life = life_of(self._book.store.read(run_stream(self._run), types=LIFE))
            process = self._life.process
            return self._life.over or process is None or not self._book.lives(self._run, process)
        except StoreUnavailable:  # while the log is away, what was known of the run before must do
            process = self._life.process
            return process is None or self._book.alive(process) is False
