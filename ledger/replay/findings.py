"""What a plan needs to know beside the log: looked up once, before planning."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.errors import LedgerError, ObjectNotFound, PluginUnavailable
from ledger.hooks.ports import Availability, Launch
from ledger.record.capture.interpreter import interpreter_of
from ledger.record.facts import environment
from ledger.replay.layout import InWorkspace, is_below
from ledger.replay.plan import Findings, program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.book import Book
    from ledger.events import DataCommitted
    from ledger.objects import Manifest
    from ledger.read.state import RunState


def look_up(book: Book, state: RunState) -> Findings:
    """Everything that :func:`ledger.replay.plan.plan` asks for. Raises ``StoreUnavailable``; starts nothing."""
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
        launcher=_launcher(book, state),
        uncaptured=tuple(_uncaptured(state, tree)) if tree else (),
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


def _launcher(book: Book, state: RunState) -> str:
    """Why the processes of the run cannot be launched together; empty where they can."""
    launch = Launch(state.started.command, Path(state.started.directory), {})
    try:
        argv = book.plugins.launch(launch, state.world) if launch.command else []
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
