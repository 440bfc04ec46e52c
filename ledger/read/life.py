"""Whether a run goes on, from its events alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.events import RunCompleted, RunFailed, RunInterrupted, RunStarted, TrainingResumed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.codec import Recorded
    from ledger.events import Process

LIFE: Final = frozenset(event.type for event in (RunStarted, TrainingResumed, RunCompleted, RunFailed, RunInterrupted))
"""Types of the events that begin or end an attempt."""


@dataclass
class Life:
    """The latest attempt: who makes it, and whether it has ended."""

    process: Process | None = None
    over: bool = False

    def see(self, recorded: Recorded) -> None:
        """Take in the next event of the stream."""
        if recorded.type not in LIFE:
            return
        match recorded.event:
            case RunStarted() | TrainingResumed() as begun:
                self.process, self.over = begun.process, False
            case _:
                self.over = True


def life_of(stream: Iterable[Recorded]) -> Life:
    """What the events of one stream come to."""
    life = Life()
    for recorded in stream:
        life.see(recorded)
    return life
