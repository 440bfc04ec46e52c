"""Asking strangers' code: what it may do to the process that asks is contained here, as far as that can be.

What it prints goes to standard error under its name, for standard output is data. A child process that it forks and
that comes back from the hook is ended: it would go on with the work of its parent a second time. An exception that
asks for the end of the process becomes a failure like any other. ``bounded`` also limits the time.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class Escaped(Exception):
    """The code asked for the end of the process."""


class Terminated(SystemExit):
    """This process was asked to end from outside, by a signal: whatever code that comes upon, it is not to blame."""


class TooLong(Exception):
    """The code has not answered in time; the thread that it runs in is left alone and holds up no exit."""


def contained(who: str, ask: Callable[[], T]) -> T:
    """What ``ask`` answers in this thread; ``who`` names the code, for people.

    Raises what it raises, but ``Escaped`` for what is no ``Exception``. ``KeyboardInterrupt`` and ``Terminated`` pass:
    they are the user's.
    """
    try:
        with _aside(who):
            return _by_one_process(who, ask)
    except (Exception, KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:
        raise Escaped(f"it raised {type(error).__name__}, which ends a process: {error}") from error


def _by_one_process(who: str, ask: Callable[[], T]) -> T:
    process = os.getpid()
    code = 1
    try:
        answer = ask()
        code = 0
        return answer
    finally:
        if os.getpid() != process:
            try:
                os.write(2, f"{who}: it forked, and the child came back: that child has been ended\n".encode())
            finally:  # though nobody can be told
                os._exit(code)


def bounded(who: str, ask: Callable[[], T], limit_s: float) -> T:
    """Like ``contained``, in a thread of its own. Raises ``TooLong`` after ``limit_s`` seconds.

    A process that can have no more threads, for one because it is about to end, waits as long as it takes.
    """
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(contained(who, ask))
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
            answer.set_exception(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name=f"ledger asks {who}", daemon=True)
    if not _started(thread):
        return contained(who, ask)
    thread.join(limit_s)
    if not answer.done():
        raise TooLong(f"no answer within {limit_s:g} s")
    return answer.result()


@contextmanager
def noticed(after_s: float, say: Callable[[], None]) -> Iterator[None]:
    """Call ``say``, from another thread, if the block has not ended after so many seconds."""
    timer = threading.Timer(after_s, say)
    timer.daemon = True
    _started(timer)
    try:
        yield
    finally:
        timer.cancel()


def _started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


# --- what it prints ----------------------------------------------------------------------------------------


class _Voice:
    """Lines of one stranger, each with its name in front."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._fresh = True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            with suppress(OSError, AttributeError):  # the reader of standard error has left, or there is none: None
                sys.stderr.write(f"{self._who}: {line}" if self._fresh else line)
            self._fresh = line.endswith("\n")
        return len(text)


class _Routed:
    """Standard output, but not for threads that carry out strangers' code.

    Other threads may print at the same time, a training's own among them: so the thread decides.
    """

    def __init__(self, usual: IO[str]) -> None:
        self._usual = usual

    def write(self, text: str) -> int:
        voice = _VOICES.get(threading.get_ident())
        return voice.write(text) if voice else self._usual.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if threading.get_ident() in _VOICES else self._usual, name)


_VOICES: Final[dict[int, _Voice]] = {}
"""Of the threads that carry out strangers' code: there is one standard output in a process, too."""
_TURN = threading.RLock()


@contextmanager
def _aside(who: str) -> Iterator[None]:
    """Send what this thread prints to standard error."""
    me = threading.get_ident()
    outer = _VOICES.get(me)
    with _TURN:
        _VOICES[me] = _Voice(who)
        if sys.stdout is not None and not isinstance(sys.stdout, _Routed):
            sys.stdout = _Routed(sys.stdout)
    try:
        yield
    finally:
        with _TURN:
            if outer:
                _VOICES[me] = outer
            else:
                del _VOICES[me]
            if not _VOICES and isinstance(sys.stdout, _Routed):
                sys.stdout = sys.stdout._usual


def _after_fork_in_child() -> None:
    """Forget the threads that stayed with the parent: one may hold the lock, another thread get the number of one."""
    global _TURN
    _TURN = threading.RLock()
    me = threading.get_ident()
    for gone in [each for each in _VOICES if each != me]:
        del _VOICES[gone]


os.register_at_fork(after_in_child=_after_fork_in_child)
