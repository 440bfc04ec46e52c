"""Connections and ``fork``: no child may inherit one.

SQLite keeps the file locks of a process in that process's memory. A forked child inherits the belief in
locks that the operating system did not give it, even for connections that it opens afresh, and the parent
may then drop the write-ahead log under the child (https://sqlite.org/howtocorrupt.html, section 2.6). So
connections are closed just before a fork, and opened again on their next use on either side.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ForkGate:
    """Whoever uses a connection passes through it; a fork waits until nobody does, then closes them all."""

    def __init__(self, close: Callable[[], None], *, patience: float) -> None:
        """``close`` closes idle connections; a fork waits at most ``patience`` seconds for the busy ones."""
        self._close = close
        self._patience = patience
        self._reset()
        _GATES.add(self)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Hold off forks by other threads. Must not be nested."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            self._inside.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(me)
                self._changed.notify_all()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._inside: list[int] = []
        self._forking = False

    def _before_fork(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._forking = True
            self._changed.wait_for(lambda: all(user == me for user in self._inside), self._patience)
        self._close()

    def _after_in_parent(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()


_GATES: Final[weakref.WeakSet[ForkGate]] = weakref.WeakSet()


def _before_fork() -> None:
    for gate in list(_GATES):
        gate._before_fork()


def _after_in_parent() -> None:
    for gate in list(_GATES):
        gate._after_in_parent()


def _after_in_child() -> None:
    for gate in list(_GATES):
        gate._reset()


# A handler cannot be unregistered: one for the module, and gates that come and go.
os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
