"""Going on with a run that was killed, stopped or failed, as a new attempt."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.book import Book, this_process
from ledger.errors import Conflict, LedgerError, UsageError
from ledger.hooks.ports import Launch
from ledger.record.capture.code import changed_since
from ledger.record.capture.interpreter import interpreter_of
from ledger.record.capture.secret_shapes import WITHHELD
from ledger.record.capture.secrets import Redactor
from ledger.record.command import Outcome, Started, Watch, carry_out, require_launch
from ledger.record.data import data_places, place
from ledger.record.facts import environment, resolved_config
from ledger.record.fetched import Fetched, discard_fetched, fetch_newest, place_of
from ledger.record.mirroring import require_mirrors, start_mirrors
from ledger.record.take import take
from ledger.record.world import Asked, engine_of
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.events import Event, World
    from ledger.read.state import RunState


def resume_command(
    book: Book,
    reference: str,
    asked: Asked = Asked(),  # noqa: B008 - frozen
    *,
    watch: Watch | None = None,
    on_start: Callable[[Started], None] | None = None,
) -> Outcome:
    """Go on with a run from its newest whole checkpoint, as a new attempt.

    It is launched as the last attempt was, but for what is ``asked``; with another number of processes the trainer
    shares its recipe out anew. Raises ``Conflict`` where the run still trains or another process resumes it
    at this moment, ``LedgerError`` where there is nothing to resume or the code is no longer what was recorded.
    """
    state = book.run(reference)
    _must_be_resumable(book, state)
    attempt = state.attempt.number + 1
    world = world_to_resume(state, asked)
    resized = _resized(book, state, world)
    if state.started.kind == "train":
        book.require_checkpoint_place()
        if engine := engine_of(state.config):
            book.plugins.require_engine(engine)
    require_mirrors(book)
    require_launch(book, Launch(state.started.command, Path(state.started.directory), {}), world)
    # Before the new attempt is on record: data that cannot be had must not leave it behind, never begun.
    launch = launch_of(book, state)
    try:
        fetched = fetch_newest(book, state, place_of(book, state.id, attempt, attempt, this_process()))
        interpreter = interpreter_of(state.started.command, directory=launch.directory)
        resumed = fetched.resumed(attempt, world=world if world != state.world else None)
        take(book, state, [resumed, environment(book, interpreter), *resized], attempt)
        start_mirrors(book, state.id, follow=True)
        run = Started(state.id, state.name, attempt)
        if on_start:
            on_start(run)
        launch = going_on(launch, fetched)
        outputs = [Path(path) for path in state.started.outputs]
        return carry_out(book, run, launch, world, outputs=outputs, watch=watch)
    finally:
        discard_fetched(book, state.id, attempt)


def launch_of(book: Book, state: RunState) -> Launch:
    """The run's command where it ran before, its data in place. Raises ``DataUnavailable``."""
    environ = data_places({name: place(book, committed) for name, committed in state.data.items()})
    return Launch(state.started.command, Path(state.started.directory), environ)


def going_on(launch: Launch, fetched: Fetched) -> Launch:
    """The same, going on from what was fetched."""
    if fetched.checkpoint is None:
        return launch
    found = {"LEDGER_RESUME_FROM": str(fetched.place), "LEDGER_RESUME_STEP": repr(fetched.checkpoint.step)}
    return replace(launch, environ={**launch.environ, **found})


def must_be_here(state: RunState) -> None:
    """Raise ``LedgerError`` where the run's directory is not on this host."""
    if not Path(state.started.directory).is_dir():
        raise LedgerError(
            f"{state.name} ran in {state.started.directory}, which is gone",
            mend=f"`ledger replay {state.name} --to DIR` rebuilds its code elsewhere",
        )


def must_be_unchanged(book: Book, state: RunState) -> None:
    """Raise ``LedgerError`` where the code is not what was recorded."""
    if state.code is None:
        raise LedgerError(f"{state.name} cannot be resumed: its code was not captured", mend="start it anew")
    if changed := changed_since(state.code, book.objects, book.hasher):
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise LedgerError(
            f"the code has changed since {state.name} started ({shown}): what went on would be another run",
            mend="restore those files, or start a new run",
        )


def world_to_resume(state: RunState, asked: Asked) -> World:
    """That of the last attempt, but for what was asked for. Raises ``UsageError``."""
    if asked and state.started.kind != "train":
        raise UsageError(
            f"{state.name} is a command of its own: it alone decides how many processes train",
            mend=f"`ledger resume {state.name}` goes on as before; only `ledger train` can change them",
        )
    return asked.changed(state.world)


def _resized(book: Book, state: RunState, world: World) -> list[Event]:
    """The configuration for another number of processes."""
    if world.processes == state.world.processes:
        return []
    recipe = book.plugins.trainer(book.settings).resize(state.config, world.processes)
    overrides = [*(state.resolved.overrides if state.resolved else ()), f"parallel.processes={world.processes}"]
    return [resolved_config(recipe.config, overrides, Redactor(os.environ))]


def _once_more(book: Book, replay: RunState) -> str:
    """The command that repeats what this replay repeats."""
    original = replay.started.replay_of or ""
    part = zip(("--from-step", "--until-step"), replay.started.segment or (), strict=False)
    words = [f" {option} {step:.15g}" for option, step in part if step is not None]
    return f"ledger replay {book.names().get(original, original)}{''.join(words)}"


def _must_be_resumable(book: Book, state: RunState) -> None:
    name = state.name
    if state.started.kind == "replay":
        raise LedgerError(f"{name} is a replay", mend=f"replay its original once more: `{_once_more(book, state)}`")
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
    must_be_here(state)
    if any(WITHHELD in word for word in state.started.command):
        raise LedgerError(
            f"{name} cannot be resumed: its command line holds a secret, which is not on record",
            mend="start it anew, with the secret in an environment variable",
        )
    must_be_unchanged(book, state)
