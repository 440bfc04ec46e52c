"""What the user types, passed on to a command that the terminal does not know for its own."""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import suppress
from typing import Final

_TERMINAL: Final = 0
_CHUNK: Final = 4096


class Keyboard:
    """Standard input of a recorded command: this process's own, or a relay where that is a terminal.

    The command is not in the terminal's foreground group, and a read of its own would stop it. Sequence of
    calls: ``command_end``, ``relay`` once the command has it, ``close``.
    """

    def __init__(self) -> None:
        self._theirs: int | None = None
        self._ours: int | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def command_end(self) -> int | None:
        """File descriptor for the command's standard input; None to inherit this process's."""
        if sys.stdin is not None and os.isatty(_TERMINAL):
            self._theirs, self._ours = os.pipe()
        return self._theirs

    def relay(self) -> None:
        """Let go of the command's end and begin to pass on."""
        if self._theirs is not None and self._ours is not None:
            os.close(self._theirs)
            self._thread = threading.Thread(
                target=self._pass_on, args=(self._ours,), name="ledger-keyboard", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop reading: what is typed from now on is somebody else's."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _pass_on(self, command: int) -> None:
        with suppress(OSError):  # the command has closed its input, or the terminal has gone
            while not self._closing.is_set():
                readable, _, _ = select.select([_TERMINAL], [], [], 0.1)
                # In the background (`ledger run … &`) a read would stop this process.
                if not readable or os.tcgetpgrp(_TERMINAL) != os.getpgrp():
                    self._closing.wait(0.1 if readable else 0)
                    continue
                typed = os.read(_TERMINAL, _CHUNK)
                if not typed:
                    break
                os.write(command, typed)
        os.close(command)
