"""``ledger checkpoints``: what can be fetched or resumed from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.cli import render
from ledger.cli.options import command, run_argument
from ledger.cli.render import Column

if TYPE_CHECKING:
    from ledger.cli.session import Session
    from ledger.events import CheckpointWritten


@command(
    "checkpoints",
    example="ledger checkpoints run-7\nledger checkpoints run-7 --json | jq -r .uri",
    json="one checkpoint a line",
)
@run_argument()
def checkpoints(session: Session, run: str) -> None:
    """List the checkpoints of a run.

    By step, the newest last; those that were deleted, or that a later attempt took back, are left out.
    """
    from ledger.cli.facts import checkpoint_facts
    from ledger.cli.session import find_run

    with session.reading() as book:
        state = book.run(find_run(book, run))
    if session.json:
        for written in state.checkpoints:
            render.json_line(checkpoint_facts(written))
    elif state.checkpoints:
        render.table(_COLUMNS, [_row(written) for written in state.checkpoints])
    else:
        render.talk(f"{state.name} has no checkpoints")


_COLUMNS = [
    Column("step", right=True),
    Column("name"),
    Column("best"),
    Column("size", right=True),
    Column("stored", right=True),
    Column("metric"),
    Column("attempt", right=True),
    Column("digest"),
]


def _row(written: CheckpointWritten) -> list[str]:
    return [
        render.number(written.step),
        written.name,
        "best" if written.best else "",
        render.size(written.bytes),
        render.size(written.stored_bytes),
        render.key_metric(written.metrics),
        str(written.attempt),
        render.short(written.digest),
    ]
