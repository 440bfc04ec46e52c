"""One command, started, watched and ended: signals passed on, nothing left behind, its end told apart."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from ledger.errors import UsageError
from ledger.record.keyboard import Keyboard
from ledger.record.tracebacks import last_line, root_cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

    from ledger.record.capture.console import Console

    _Handler = Callable[[int, FrameType | None], None] | signal.Handlers

_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK_S: Final = 0.1
_LINUX: Final = sys.platform == "linux"
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37


@dataclass(frozen=True)
class Exit:
    """How a command ended: with a ``code``, or by a ``signal``; exactly one of the two is None."""

    code: int | None
    signal: str | None
    """Name of the signal that it died of: ``SIGKILL``."""
    stopped: bool
    """Whether ``on_tick`` asked for its end."""
    interrupted_by: str | None
    """Name of the signal that this process was sent and passed on."""
    last_traceback: str | None
    """Of a command that failed: the Python traceback that tells why, if it printed one. Secrets masked."""
    last_line: str | None
    """The last line with anything on it that the command printed. Secrets masked."""


def supervise(
    argv: Sequence[str],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    console: Console,
    on_tick: Callable[[], bool] | None = None,
    grace_s: float = 20,
) -> Exit:
    """Run ``argv``, without a shell, to its end.

    SIGINT, SIGTERM and SIGHUP that reach this process are passed on to the command's process group, the
    first of them only; what still runs ``grace_s`` seconds later is killed. ``on_tick`` is called about ten
    times a second from this thread; False ends the command in the same way, and what it then still prints is
    kept and not shown. An exception ends it, too, and then propagates. The command dies with this process
    (on Linux). A process that it leaves behind when it ends by itself is left alone; one that it leaves
    behind when it is ended, or dies of a signal, is ended too.

    Outside the main thread no signal can be caught, so none is passed on. Raises ``UsageError`` where the
    command cannot be started.
    """

    def ticked() -> bool:
        go_on = on_tick is None or on_tick()
        if not go_on:
            console.hush()  # it is ended because nothing is wanted of it any more: no reader cares how it takes that
        return go_on

    with _adopting() as family:
        watched = _Watched(grace_s, family)
        with _handling(watched.on_signal):
            watched.start(argv, cwd, environ, console)
            try:
                watched.wait(ticked)
            finally:
                watched.end()
                console.drain()
    return watched.exit(console)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal that ends a process come between the end of a command and the record of it.

    ``supervise`` inside catches signals all the same. Outside the main thread this does nothing.
    """
    with _handling(signal.SIG_IGN):
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Where ``undisturbed`` holds and no command runs yet: signals end what is done here by ``KeyboardInterrupt``.

    It carries the name of the signal.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    with _handling(interrupt):
        yield


@contextmanager
def _handling(handler: _Handler) -> Iterator[None]:
    """Handle the forwarded signals so, and afterwards as before; other threads than the main one cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, old in before.items():
            # None is a handler that C code has set, which Python cannot set again.
            signal.signal(number, signal.SIG_DFL if old is None else old)


class _Watched:
    """A command while it runs."""

    def __init__(self, grace_s: float, family: _Family) -> None:
        self._grace_s = grace_s
        self._family = family
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline: float | None = None
        self._interrupted_by: signal.Signals | None = None
        self._stopped = False
        self._keyboard = Keyboard()

    def start(self, argv: Sequence[str], cwd: Path, environ: Mapping[str, str], console: Console) -> None:
        if not argv:
            raise UsageError("there is no command to run", mend="write it after --: ledger run -- python train.py")
        out, err = console.open()
        try:
            self._process = _popen(argv, cwd, environ, self._keyboard.command_end(), out, err)
        except OSError as error:
            raise _cannot_start(argv[0], cwd, error) from error
        finally:
            console.pump()
            self._keyboard.relay()
        if self._interrupted_by is not None:  # it came before there was anybody to pass it on to
            self._ask(self._interrupted_by)

    def wait(self, on_tick: Callable[[], bool]) -> None:
        """Until the command itself has ended."""
        while self._poll(_TICK_S) is None:
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._kill()
            if not self._stopped and not on_tick():
                self._stopped = True
                self._ask(signal.SIGTERM)

    def end(self) -> None:
        """See to it that nothing goes on that should not: the command itself, and what it leaves behind."""
        self._keyboard.close()
        if self._process is None:
            return
        code = self._poll(0)
        if self._deadline is None and (code is None or (code < 0 and self._family.alive())):
            self._ask(signal.SIGTERM)
            self._family.ask()
        while self._deadline is not None and (self._poll(0) is None or self._family.alive()):
            if time.monotonic() > self._deadline:
                self._kill()
                return
            time.sleep(_TICK_S / 4)

    def exit(self, console: Console) -> Exit:
        code = self._poll(0)
        assert code is not None  # noqa: S101 - end() has waited for it
        printed = console.tail()
        return Exit(
            code=code if code >= 0 else None,
            signal=_signal_name(-code) if code < 0 else None,
            stopped=self._stopped,
            interrupted_by=self._interrupted_by.name if self._interrupted_by else None,
            last_traceback=root_cause(printed) if code else None,
            last_line=last_line(printed),
        )

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Pass the first signal on."""
        if self._interrupted_by is None:
            self._interrupted_by = signal.Signals(number)
            if self._process is not None:
                self._ask(self._interrupted_by)

    def _ask(self, number: signal.Signals) -> None:
        """Pass a signal on, and start the clock for those who do not heed it."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace_s
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        # The group exists as long as one of its members does, so this reaches those whose leader has gone;
        # and as long as the leader is there or one of the family is, its number has not gone to somebody
        # else.
        if self._process is not None and (self._process.returncode is None or self._family.alive()):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _kill(self) -> None:
        self._send(signal.SIGKILL)
        # torchrun gives its workers sessions of their own.
        self._family.kill()
        if self._process is not None:
            self._process.wait()

    def _poll(self, timeout_s: float) -> int | None:
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_s) if timeout_s else self._process.poll()
        except subprocess.TimeoutExpired:
            return None


class _Family:
    """What the command started, and what that started in turn."""

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._before = set(self._me.children(recursive=True))
        self._group = os.getpgrp()

    def alive(self) -> bool:
        """Whether any of them, the command itself included, has not ended."""
        return bool(self._members())

    def ask(self) -> None:
        """SIGTERM to each."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to each, and to what they start meanwhile."""
        deadline = time.monotonic() + 5
        while self._send(signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(_TICK_S / 4)

    def _send(self, number: signal.Signals) -> bool:
        members = self._members()
        for member in members:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                member.send_signal(number)
        return bool(members)

    def _members(self) -> list[psutil.Process]:
        return [p for p in self._me.children(recursive=True) if p not in self._before and self._belongs(p)]

    def _belongs(self, process: psutil.Process) -> bool:
        # What this process itself starts beside the command stays in its group; what the command starts
        # never is.
        try:
            return os.getpgid(process.pid) != self._group and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, PermissionError, psutil.Error):
            return False


@contextmanager
def _adopting() -> Iterator[_Family]:
    """On Linux, become the parent of the command's orphans, so that they are still known for its family."""
    if not _LINUX:
        yield _Family()
        return
    before = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.addressof(before))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    family = _Family()
    try:
        yield family
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, before.value)


def _prctl(option: int, argument: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(argument), 0, 0, 0)


def _popen(
    argv: Sequence[str], cwd: Path, environ: Mapping[str, str], stdin: int | None, out: int, err: int
) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    # Loaded before the fork: the child of a process with threads does as little as it can.
    prctl = ctypes.CDLL(None).prctl if _LINUX else None

    def prepare() -> None:
        # It runs in a group of its own, in the background as the terminal sees it: to touch the terminal's
        # settings or to read from it directly must fail at once, not stop the command for ever.
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # it died before that took effect
                os.kill(os.getpid(), signal.SIGTERM)

    return subprocess.Popen(
        list(argv),
        cwd=cwd,
        # Python holds back what it prints into a pipe: nothing live, and lost when the command is killed.
        env={"PYTHONUNBUFFERED": "1", **environ},
        stdin=stdin,
        stdout=out,
        stderr=err,
        process_group=0,
        preexec_fn=prepare,
    )


def _cannot_start(command: str, cwd: Path, error: OSError) -> UsageError:
    if not cwd.is_dir():
        return UsageError(f"cannot run {command}: the directory {cwd} does not exist", mend="name one that does")
    here = cwd / command
    if error.errno == errno.ENOENT and "/" in command and here.exists():
        return UsageError(
            f"cannot run {command}: the interpreter that its first line names does not exist",
            mend=f"correct the first line of {command}, or name the interpreter: python {command}",
        )
    if error.errno == errno.ENOENT:
        mend = f"run the file of that name as ./{command}, or by its interpreter: python {command}"
        if not here.is_file():
            mend = "check the spelling, and that it is installed and on PATH"
        return UsageError(f"cannot run {command}: there is no such command", mend=mend)
    if error.errno == errno.EACCES:
        return UsageError(
            f"cannot run {command}: it is not executable", mend=f"chmod +x {command}, or: python {command}"
        )
    if error.errno == errno.ENOEXEC:
        return UsageError(
            f"cannot run {command}: it is no program, and its first line names no interpreter",
            mend=f"add a first line such as #!/usr/bin/env python3, or: python {command}",
        )
    return UsageError(f"cannot run {command}: {error.strerror}", mend="run it by hand to see what it needs")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"
