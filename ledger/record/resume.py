"""Going on with a run that was killed, stopped or failed, as a new attempt."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.book import Book, this_process
from ledger.errors import CheckpointUnavailable, ConcurrentAppend, Conflict, LedgerError
from ledger.events import TrainingResumed
from ledger.hooks.ports import Launch
from ledger.record.capture.code import changed_since
from ledger.record.capture.interpreter import interpreter_of
from ledger.record.capture.secret_shapes import WITHHELD
from ledger.record.command import Outcome, Started, Watch, carry_out
from ledger.record.data import data_places, place
from ledger.record.facts import environment
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.events import CheckpointWritten, Event
    from ledger.read.state import RunState


def resume_command(
    book: Book,
    reference: str,
    *,
    watch: Watch | None = None,
    on_start: Callable[[Started], None] | None = None,
) -> Outcome:
    """Go on with a run from its newest whole checkpoint, as a new attempt.

    Raises ``Conflict`` where the run still trains or another process resumes it at this moment, ``LedgerError``
    where there is nothing to resume or the code is no longer what was recorded.
    """
    state = book.run(reference)
    _must_be_resumable(book, state)
    directory = Path(state.started.directory)
    attempt = state.attempt.number + 1
    # Before the new attempt is on record: data that cannot be had must not leave it behind, never begun.
    environ = data_places({name: place(book, committed) for name, committed in state.data.items()})
    with _restored(book, state, attempt) as (checkpoint, fetched, skipped):
        resumed = TrainingResumed(
            attempt=attempt,
            step=checkpoint.step if checkpoint else None,
            checkpoint=checkpoint.digest if checkpoint else None,
            uri=checkpoint.uri if checkpoint else None,
            skipped=skipped,
            process=this_process(),
        )
        facts: list[Event] = [resumed, environment(book, interpreter_of(state.started.command, directory=directory))]
        _take(book, state, facts, attempt)
        run = Started(state.id, state.name, attempt)
        if on_start:
            on_start(run)
        if checkpoint:
            environ |= {"LEDGER_RESUME_FROM": str(fetched), "LEDGER_RESUME_STEP": repr(checkpoint.step)}
        launch = Launch(state.started.command, directory, environ)
        outputs = [Path(path) for path in state.started.outputs]
        return carry_out(book, run, launch, state.world, outputs=outputs, watch=watch)


def _take(book: Book, state: RunState, facts: list[Event], attempt: int) -> None:
    """Append the first facts of the new attempt, unless somebody else has begun it."""
    version = state.version
    while True:
        try:
            book.append(state.id, *facts, attempt=attempt, expected_version=version)
        except ConcurrentAppend as error:
            # A note, or a process of the old attempt that still lives, is no reason to give up.
            now = book.run(state.id)
            if now.attempt.number >= attempt:
                raise Conflict(
                    f"{state.name} was resumed by another process at the same moment",
                    mend=f"`ledger show {state.name}` tells where it runs",
                ) from error
            version = now.version
        else:
            return


def _must_be_resumable(book: Book, state: RunState) -> None:
    name = state.name
    if state.started.kind == "replay":
        raise LedgerError(
            f"{name} is a replay", mend=f"replay its original once more: `ledger replay {state.started.replay_of}`"
        )
    if state.status == "completed":
        raise LedgerError(
            f"{name} has completed: there is nothing to resume", mend=f"`ledger replay {name}` repeats it"
        )
    if state.status == "running":
        process = state.attempt.process
        lease = book.store.lease(run_stream(state.id))
        elsewhere = f" there, or wait {lease.left:.0f} seconds if that host is dead" if lease else " there"
        raise Conflict(
            f"{name} still trains: process {process.pid} on {process.host}",
            mend=f"stop it first: kill {process.pid}{'' if book.alive(process) else elsewhere}",
        )
    if not Path(state.started.directory).is_dir():
        raise LedgerError(
            f"{name} ran in {state.started.directory}, which is gone",
            mend=f"`ledger replay {name} --to DIR` rebuilds its code elsewhere",
        )
    if any(WITHHELD in word for word in state.started.command):
        raise LedgerError(
            f"{name} cannot be resumed: its command line holds a secret, which is not on record",
            mend="start it anew, with the secret in an environment variable",
        )
    if state.code is None:
        raise LedgerError(f"{name} cannot be resumed: its code was not captured", mend="start it anew")
    if changed := changed_since(state.code, book.objects, book.hasher):
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise LedgerError(
            f"the code has changed since {name} started ({shown}): what went on would be another run",
            mend="restore those files, or start a new run",
        )


@contextmanager
def _restored(
    book: Book, state: RunState, attempt: int
) -> Iterator[tuple[CheckpointWritten | None, Path, tuple[str, ...]]]:
    """The newest whole checkpoint, fetched and verified, and why newer ones were passed over."""
    place = book.settings.scratch / "resume" / f"{state.id}-{attempt}-{os.getpid()}"
    place.parent.mkdir(parents=True, exist_ok=True)
    skipped: list[str] = []
    chosen = None
    try:
        for checkpoint in reversed(state.checkpoints):
            try:
                book.checkpoints().read(checkpoint, place)
            except LedgerError as error:
                if not isinstance(error, CheckpointUnavailable) and error.exit_code != 1:
                    raise
                skipped.append(f"{checkpoint.name}: {error}")
            else:
                chosen = checkpoint
                break
        yield chosen, place, tuple(skipped)
    finally:
        shutil.rmtree(place, ignore_errors=True)
