"""Being told to stop: noted at once, obeyed after the step that is under way."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


class Interruption:
    """Notes SIGINT and SIGTERM from now on, and the death of the process that started this one.

    A signal that comes again changes nothing: a launcher passes on what the terminal has sent already.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._parent = os.getppid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    @property
    def signal(self) -> int:
        """The signal that asks to stop; 0 while nothing does. A parent that is gone counts as SIGTERM."""
        if not self._signal and os.getppid() != self._parent:
            self._signal = signal.SIGTERM
        return self._signal

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or number
