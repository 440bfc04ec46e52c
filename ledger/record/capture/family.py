"""A process with its descendants, and which of them speak for themselves."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ledger.book import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class Speakers:
    """The processes on this host that hold a run, and so account for themselves.

    Each leaves a file that is named after its pid. One that was killed leaves it behind, and is not counted.
    """

    def __init__(self, scratch: Path, run: str) -> None:
        self._place = scratch / "devices" / HOST / run

    def announce(self) -> None:
        """This process accounts for itself from now on."""
        with suppress(OSError):  # a scratch that is full or read-only: then time may be counted twice
            self._place.mkdir(parents=True, exist_ok=True)
            (self._place / str(os.getpid())).touch()

    def withdraw(self) -> None:
        """It does so no longer."""
        self._remove(os.getpid())

    def others(self) -> set[int]:
        """Pids of all others that live."""
        return {pid for pid in self._announced() if pid != os.getpid() and psutil.pid_exists(pid)}

    def forget(self) -> None:
        """Leave nothing behind of those that were killed."""
        for pid in self._announced():
            if not psutil.pid_exists(pid):
                self._remove(pid)

    def _announced(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(self._place)]
        except FileNotFoundError:
            return []

    def _remove(self, pid: int) -> None:
        with suppress(OSError):
            (self._place / str(pid)).unlink(missing_ok=True)
            self._place.rmdir()  # unless there are others


def family(without: Collection[int] = ()) -> list[int]:
    """Pids of this process and its descendants, those in ``without`` and theirs left out."""
    me = os.getpid()
    children = _told if os.path.exists(f"/proc/{me}/task/{me}/children") else _found()
    members = [me]
    for pid in members:
        members += [child for child in children(pid) if child not in without]
    return members


def _told(pid: int) -> list[int]:
    """Children of a process as Linux tells them, in microseconds."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        texts = [Path(f"/proc/{pid}/task/{task}/children").read_text() for task in tasks]
    except OSError:  # it, or one of its threads, has ended meanwhile
        return []
    return [int(child) for text in texts for child in text.split()]


def _found() -> Callable[[int], list[int]]:
    """The same where it must be put together from the parents of all processes."""
    children: dict[int, list[int]] = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            children.setdefault(process.ppid(), []).append(process.pid)
    return lambda pid: children.get(pid, [])
