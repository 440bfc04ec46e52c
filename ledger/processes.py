"""Processes, named so that none is taken for another, however clocks are set and pids used again."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

_LINUX: Final = sys.platform == "linux"


def start_of(pid: int) -> str | None:
    """What tells this process from all others that had, have or will have its pid; None where it has ended.

    Linux: ticks from the start of the machine to that of the process, which start of the machine it was, and the
    namespace of the pid. No Unix time: that of a process moves when the clock is set. Elsewhere what psutil tells, and
    the name of the host.
    """
    if not _LINUX:
        return _told_by_psutil(pid)
    try:
        told = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *numbers = told.rpartition(")")[2].split()
    return None if state in ("Z", "X") else _named(numbers[18])


def lives(pid: int, start: str) -> bool | None:
    """Whether the process with that ``start_of`` runs.

    None where that cannot be seen from here: it is of another machine, of this one before it was started again, or
    of a container whose pids mean other processes.
    """
    if start.partition(" ")[2] != _place():
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's, of which /proc may show nothing
        return start_of(pid) in (start, None)
    return start_of(pid) == start


@cache
def _place() -> str:
    """Which pids are meant: those of this start of this machine, in this namespace.

    Where that is told the name of the host would not do: containers may share it, and not see each other's processes.
    """
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _named(start: str) -> str:
    return f"{start} {_place()}"


def _told_by_psutil(pid: int) -> str | None:
    import psutil

    try:
        found = psutil.Process(pid)
        return None if found.status() == psutil.STATUS_ZOMBIE else _named(repr(found.create_time()))
    except psutil.Error:
        return None
