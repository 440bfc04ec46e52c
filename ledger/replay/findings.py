"""What a plan needs to know beside the log: looked up once, before planning."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.errors import LedgerError, ObjectNotFound, PluginUnavailable, UsageError
from ledger.hooks.ports import Availability, Launch
from ledger.record.capture.interpreter import interpreter_of
from ledger.record.capture.secrets import Redactor
from ledger.record.command import surroundings
from ledger.record.facts import environment, resolved_config
from ledger.record.world import engine_of
from ledger.replay.layout import InWorkspace, is_below
from ledger.replay.part import replayed, resolved
from ledger.replay.plan import Findings, program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.book import Book
    from ledger.events import ConfigResolved, DataCommitted, World
    from ledger.objects import Manifest
    from ledger.read.state import RunState
    from ledger.replay.part import Part


def look_up(book: Book, state: RunState, part: Part) -> Findings:
    """Everything that :func:`ledger.replay.plan.plan` asks for; starts nothing.

    Raises ``StoreUnavailable``, and ``UsageError`` where the run cannot have as many processes as are asked for.
    """
    tree = _tree(book, state)
    word = program(state, tree) if state.started.command else ""
    executable = isinstance(word, InWorkspace) or shutil.which(word) is not None
    return Findings(
        environment=environment(book, interpreter_of(state.started.command if executable else ())),
        interpreter=sys.executable,
        executable=executable,
        alive=book.alive(state.attempt.process) if state.status == "running" else False,
        tree=tree,
        missing=tuple(book.objects.missing(tree)) if tree else (),
        data={name: _availability(book, commit) for name, commit in state.data.items()},
        launcher=_launcher(book, state, replayed(part.attempts[0].world, part.processes)),
        uncaptured=tuple(_uncaptured(state, tree)) if tree else (),
        resized=_resized(book, state, part),
    )


def _tree(book: Book, state: RunState) -> Manifest | None:
    try:
        return book.objects.get_manifest(state.code.tree) if state.code else None
    except ObjectNotFound:
        return None


def _availability(book: Book, commit: DataCommitted) -> Availability:
    try:
        source = book.plugins.data_source_named(commit.provider, commit.uri, book.settings, book.objects)
        return source.check(commit)
    except PluginUnavailable as error:
        plugin = f"{commit.provider} {commit.provider_version}"
        hint = f"pip install 'training-ledger[{commit.provider}]', or the package that brings that plugin"
        return Availability(False, f"{error}; the plugin {plugin} pinned it: {hint}")
    except LedgerError as error:
        return Availability(False, f"{error}: {error.mend}" if error.mend else str(error))


def _resized(book: Book, state: RunState, part: Part) -> ConfigResolved | None:
    """The configuration for another number of processes, where one is asked for."""
    if part.processes is None:
        return None
    config = resolved(state, part)
    if config is None or not _trained(book, state):
        raise UsageError(
            f"{state.name} was not trained from a recipe: its command decides how many processes there are",
            mend="leave --nproc out, or record a new run with another command",
        )
    recipe = book.plugins.trainer(book.settings).resize(config.config, part.processes)
    return resolved_config(
        recipe.config, (*config.overrides, f"parallel.processes={part.processes}"), Redactor(os.environ)
    )


def _trained(book: Book, state: RunState) -> bool:
    """Whether `ledger train` made the run, or what it is a replay of."""
    while state.started.replay_of is not None:
        state = book.run(state.started.replay_of)
    return state.started.kind == "train"


def _launcher(book: Book, state: RunState, world: World) -> str:
    """Why the processes of the run cannot be launched together; empty where they can."""
    launch = Launch(state.started.command, Path(state.started.directory), surroundings(book))
    engine = engine_of(state.config) if _trained(book, state) else None
    try:
        if engine:
            book.plugins.require_engine(engine)
        argv = book.plugins.launch(launch, world) if launch.command else []
    except LedgerError as error:
        return f"{error}: {error.mend}" if error.mend else str(error)
    wrapped = argv[:1] != list(launch.command[:1])
    return f"{argv[0]} is not installed" if wrapped and shutil.which(argv[0]) is None else ""


def _uncaptured(state: RunState, tree: Manifest) -> Iterator[str]:
    """Words of the command that name something beside the code which is neither code, data nor an output."""
    if state.code is None:
        return
    directory = os.path.join(state.code.root, state.code.directory)
    known = [os.path.join(state.code.root, entry.path) for entry in tree.entries]
    known += [commit.path for commit in state.data.values()]
    known += [os.path.normpath(os.path.join(directory, path)) for path in state.artifacts]
    for word in state.started.command[1:]:
        place = os.path.normpath(os.path.join(directory, word.rpartition("=")[2] or "."))
        beside = place != state.code.root and is_below(place, state.code.root)
        if beside and os.path.exists(place) and not any(is_below(place, k) or is_below(k, place) for k in known):
            yield word
