"""``ledger fetch``: a checkpoint, verified, where one wants it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ledger.cli import render
from ledger.cli.options import command, run_argument
from ledger.errors import NotFound, UsageError

if TYPE_CHECKING:
    from ledger.cli.session import Session
    from ledger.events import CheckpointWritten
    from ledger.read.state import RunState


@command(
    "fetch",
    example="ledger fetch run-7 best model/\nledger fetch run-7 500 model-500/",
    json="the checkpoint that was fetched",
)
@run_argument()
@click.argument("which", metavar="best|last|STEP")
@click.argument("dest", type=click.Path(path_type=Path), metavar="DEST")
def fetch(session: Session, run: str, which: str, dest: Path) -> None:
    """Get a checkpoint, verified.

    It is copied to the new directory DEST, which appears only when every byte has been checked.
    """
    from ledger.cli.facts import checkpoint_facts
    from ledger.cli.session import find_run

    if dest.exists():
        raise UsageError(f"{dest} exists already", mend="name a directory that does not")
    with session.reading() as book:
        state = book.run(find_run(book, run))
        chosen = _choose(state, which)
        book.checkpoints().read(chosen, dest.absolute())
    if session.json:
        render.json_line({"dest": str(dest.absolute()), **checkpoint_facts(chosen)})
    else:
        files = render.count(len(chosen.files), "file")
        render.line(f"{dest}: {chosen.name} of {state.name}, {files}, {render.size(chosen.bytes)}, verified")


def _choose(state: RunState, which: str) -> CheckpointWritten:
    """The checkpoint that is meant. Raises ``NotFound``, naming those that there are."""
    from ledger.read.lineage import checkpoint_named

    kept = state.checkpoints
    if not kept:
        raise NotFound(f"{state.name} has no checkpoints", mend="it stored none, or they were deleted")
    found = checkpoint_named(kept, which)
    if found is None:
        known = ", ".join(dict.fromkeys(render.number(c.step) for c in kept))
        raise NotFound(
            f"{state.name} has no checkpoint {which!r}",
            mend=f"it has `last` and the steps {known}; see `ledger checkpoints`",
        )
    return found
