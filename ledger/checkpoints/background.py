"""Checkpoints behind training: it stands still while its state is copied, not while the copy is stored."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
import traceback
from concurrent import futures
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, Self

from ledger.checkpoints.keeper import Run as KeptRun
from ledger.errors import CheckpointUnavailable, FencedAttempt, LedgerError, Unavailable
from ledger.events import NOT_STORED
from ledger.files import Lent, write_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    from ledger.checkpoints.keeper import Keeper
    from ledger.checkpoints.policy import Due

BACKOFF_S: Final = (1.0, 3.0, 10.0)
"""Pauses before another try to store a checkpoint whose store is out of reach."""
_LOOK_S: Final = 0.02
_WORTH_SAYING_S: Final = 1.0
"""A wait as short as this is only counted."""


class Run(KeptRun, Protocol):
    """What a background keeper needs of a run; ``ledger.Run`` is one."""

    @property
    def rank(self) -> int | None:
        """Of this process among those that train together."""

    @property
    def scratch(self) -> Path:
        """Where checkpoints lie until they are stored."""

    def annotate(self, text: str, tags: Sequence[str] = ()) -> None:
        """Record something about the run."""


@dataclass
class Costs:
    """What checkpoints have cost so far, in seconds."""

    written: int = 0
    """Checkpoints stored."""
    staged: float = 0.0
    """Training stood still for copies of its state."""
    waited: float = 0.0
    """Training stood still because the checkpoint before was not stored yet."""
    behind: float = 0.0
    """The thread was at work while training went on."""


@dataclass(frozen=True)
class _Task:
    """What is done behind one step."""

    step: float
    due: tuple[Due, ...]
    directory: Path
    metrics: Mapping[str, float]
    holds: tuple[str, ...]
    lent: Lent = field(default_factory=Lent)
    """Files of the directory that are in memory."""

    @property
    def name(self) -> str:
        names = " and ".join(one.name for one in self.due)
        return f"checkpoint {names}" if names else f"fingerprint of step {self.step:.15g}"

    @property
    def last(self) -> bool:
        return any(one.trigger == "last" for one in self.due)


class BackgroundKeeper:
    """Stores what a ``Keeper`` finds due in a thread of its own, while training goes on.

    ::

        def save(directory):                           # a copy, while training stands still …
            state = copy.deepcopy(model.state_dict())
            return lambda: torch.save(state, directory / "model.pt")  # … is written while it goes on

        keeper = ledger.Keeper(run, ledger.Policy(every=500, best="val/loss", keep_last=3))
        with ledger.BackgroundKeeper(run, keeper) as background:
            for step in range(1, steps + 1):
                ...
                if due := keeper.due(step, metrics, last=step == steps):
                    background.keep(save, due, step=step, metrics=metrics)

    One checkpoint at a time: where the one before is not stored yet when the next is due, training waits, which is
    said and noted in the log. A store that is out of reach is tried again. A checkpoint that cannot be stored is
    a warning in the log and training goes on, save at the last step: there it is an error. Leaving the ``with``
    waits for what is under way.

    ``say`` gets each of these messages, by default on standard error; ``waiting`` wraps a wait that is long enough to
    be said. ``anyone`` tells whether any of the processes that train together is at work still: each of them has a
    background keeper and makes the same calls, only that of rank 0 is given what is due.
    """

    def __init__(
        self,
        run: Run,
        keeper: Keeper,
        *,
        say: Callable[[str], None] | None = None,
        waiting: Callable[[str], AbstractContextManager[object]] | None = None,
        anyone: Callable[[bool], bool] = bool,
        backoff: Sequence[float] = BACKOFF_S,
    ) -> None:
        self.costs = Costs()
        self.failure: Exception | None = None
        """Why the newest checkpoint that is not under way any more was not stored; None where it was."""
        self._run = run
        self._keeper = keeper
        self._leads = not run.rank
        self._say = say or _to_stderr
        self._waiting = waiting or self._said
        self._anyone = anyone
        self._backoff = tuple(backoff)
        self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="ledger-checkpoints")
        self._task: _Task | None = None
        self._future: futures.Future[None] | None = None
        self._fenced: FencedAttempt | None = None
        if self._leads:
            shutil.rmtree(run.scratch, ignore_errors=True)  # what a process that was killed while saving has left

    @property
    def busy(self) -> bool:
        """Whether this process has something under way."""
        return self._future is not None and not self._future.done()

    def keep(
        self,
        save: Callable[[Path], Callable[[], object]],
        due: Sequence[Due],
        *,
        step: float,
        metrics: Mapping[str, float],
        holds: Sequence[str] = (),
    ) -> None:
        """Take a copy of the state by ``save`` and let training go on; the rest follows behind.

        ``save`` gets a directory, and returns what writes the copy to it. That may leave large files in memory, and
        return them as ``ledger.files.Lent``, to stay as they are until ``save`` is called again. With nothing ``due``
        it is carried out and nothing stored. Raises ``FencedAttempt`` where another attempt has taken over the run.
        """
        self._make_room(step)
        began = time.monotonic()
        task = _Task(step, tuple(due), self._run.scratch / f"step-{step:.15g}", metrics, tuple(holds))
        if due:
            task.directory.mkdir(parents=True, exist_ok=True)
        write = save(task.directory)
        self.costs.staged += time.monotonic() - began
        self._task, self._future = task, self._pool.submit(self._work, task, write)

    def close(self) -> None:
        """Wait for what is under way. Raises where the checkpoint of the last step could not be stored.

        On every rank, like ``keep``.
        """
        self._wait(self._anyone, "at the end, waiting")
        self._end()
        self._raise_if_fenced()
        if self.failure and self._task and self._task.last:
            raise CheckpointUnavailable(
                f"the {self._task.name}, the last one, was not stored: {self.failure}",
                mend=f"its files are in {self._task.directory}: keep a copy, mend the cause, and go on from there",
            ) from self.failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            # The others may not come here at all, so that there is nothing to ask them.
            self._wait(bool, "before it ends, waiting")
            self._end()

    def _end(self) -> None:
        self._pool.shutdown()
        if self._leads:
            with contextlib.suppress(OSError):  # not empty: the last checkpoint could not be stored
                self._run.scratch.rmdir()

    def _make_room(self, step: float) -> None:
        before = self._task
        seconds = self._wait(self._anyone, f"step {step:.15g} waits")
        self.costs.waited += seconds
        self._raise_if_fenced()
        if before and seconds >= _WORTH_SAYING_S:
            self._note(f"training waited {seconds:.1f} s at step {step:.15g} for the {before.name}")

    def _wait(self, anyone: Callable[[bool], bool], who: str) -> float:
        """Seconds until nobody was at work any more."""
        began = time.monotonic()
        with contextlib.ExitStack() as shown:
            said = False
            while anyone(self.busy):
                if self.busy and self._future:
                    futures.wait([self._future], timeout=_LOOK_S)
                else:
                    time.sleep(_LOOK_S)
                if not said and time.monotonic() - began >= _WORTH_SAYING_S:
                    said = True
                    if self._leads and self._task:
                        shown.enter_context(self._waiting(f"{who} for the {self._task.name}"))
        return time.monotonic() - began

    # --- behind training --------------------------------------------------------------------------------------

    def _work(self, task: _Task, write: Callable[[], object]) -> None:
        began = time.monotonic()
        told = f"the {task.name} was not {'stored' if task.due else 'taken'}"
        failure = self._failure(partial(_written, task, write), told, *([NOT_STORED] if task.due else []))
        if task.due:
            self.failure = failure or self._store(task)
            if self.failure and task.last:
                self._failure(partial(write_out, task.lent, task.directory), f"{task.directory} is not whole")
            else:
                shutil.rmtree(task.directory, ignore_errors=True)
        task.lent.clear()
        self.costs.behind += time.monotonic() - began

    def _store(self, task: _Task) -> Exception | None:
        failure = None
        for one in task.due:
            store = partial(
                self._keeper.store,
                task.directory,
                [one],
                step=task.step,
                metrics=task.metrics,
                holds=task.holds,
                lent=task.lent,
            )
            tried = partial(self._tried, store, f"storing the checkpoint {one.name}")
            failed = self._failure(tried, f"the checkpoint {one.name} was not stored")
            self.costs.written += failed is None
            failure = failure or failed
        tidied = partial(self._tried, self._keeper.tidy, "deleting superseded checkpoints")
        self._failure(tidied, "superseded checkpoints were not deleted")
        return failure

    def _failure(self, action: Callable[[], None], what: str, *tags: str) -> Exception | None:
        """Carry out ``action``; what it fails with is told as ``what``, and may end nothing but a last checkpoint."""
        try:
            action()
        except FencedAttempt as error:
            self._fenced = error
            return error
        except Exception as error:  # noqa: BLE001 - see above
            if not isinstance(error, LedgerError | OSError):
                traceback.print_exception(error)
            self._say(f"warning: {what}: {_told(error)}")
            self._note(f"warning: {what}: {_told(error)}", *tags)
            return error
        return None

    def _tried(self, action: Callable[[], object], what: str) -> None:
        """Carry out ``action``, and again where it failed for a reason that may pass."""
        for pause in self._backoff:
            try:
                action()
            except (Unavailable, OSError) as error:
                self._say(f"{what} failed: {_told(error)}; trying again in {pause:g} s")
                time.sleep(pause)
            else:
                return
        action()

    # --- what is said -----------------------------------------------------------------------------------------

    def _note(self, text: str, *tags: str) -> None:
        if not self._leads:
            return
        try:
            self._run.annotate(text, ["checkpoint", *tags])
        except LedgerError as error:
            self._say(f"that is not in the log: {_told(error)}")

    def _said(self, text: str) -> AbstractContextManager[object]:
        self._say(text)
        return contextlib.nullcontext()

    def _raise_if_fenced(self) -> None:
        if self._fenced:
            raise self._fenced


def _written(task: _Task, write: Callable[[], object]) -> None:
    lent = write()
    if isinstance(lent, Lent):  # what else it may return, a number of bytes, is nobody's business
        task.lent.update(lent)


def _told(error: Exception) -> str:
    """An error as one line; what Ledger itself raises needs no class in front."""
    mend = f" ({error.mend})" if isinstance(error, LedgerError) and error.mend else ""
    return f"{error}{mend}" if isinstance(error, LedgerError) else f"{type(error).__name__}: {error}"


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
