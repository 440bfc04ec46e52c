"""``ledger checkpoints``: what can be fetched or resumed from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.cli import render
from ledger.cli.options import command, run_argument
from ledger.cli.render import Column

if TYPE_CHECKING:
    from collections.abc import Mapping

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

    By step, the newest last; those that were deleted, or that a later attempt took back, are left out. One that is
    based on others is stored as the difference to them, and needs them.
    """
    from ledger.cli.facts import checkpoint_facts
    from ledger.cli.session import find_run

    with session.reading() as book:
        state = book.run(find_run(book, run))
    if session.json:
        for written in state.checkpoints:
            render.json_line(checkpoint_facts(written))
    elif state.checkpoints:
        names = {written.digest: written.name for _, written in state.written}
        render.table(_COLUMNS, [_row(written, names) for written in state.checkpoints])
    else:
        render.talk(f"{state.name} has no checkpoints")


_COLUMNS = [
    Column("step", right=True),
    Column("name"),
    Column("best"),
    Column("why"),
    Column("size", right=True),
    Column("stored", right=True),
    Column("based on"),
    Column("processes", right=True),
    Column("metric"),
    Column("attempt", right=True),
    Column("digest"),
]


def _row(written: CheckpointWritten, names: Mapping[str, str]) -> list[str]:
    return [
        render.number(written.step),
        written.name,
        "best" if written.best else "",
        written.trigger,
        render.size(written.bytes),
        render.size(written.stored_bytes),
        ", ".join(names.get(digest, render.short(digest)) for digest in written.bases),
        str(written.processes),
        render.key_metric(written.metrics),
        str(written.attempt),
        render.short(written.digest),
    ]
