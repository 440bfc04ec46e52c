"""``ledger gc``: what nobody needs any more."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from ledger.cli import render
from ledger.cli.options import command
from ledger.cli.render import Column

if TYPE_CHECKING:
    from ledger.cli.session import Session

_HELP: Final = """Say what nobody needs any more; with --apply remove it.

That is: objects that no fact of any run refers to, checkpoints whose writer died before it could record them, what
checkpoint stores keep for no checkpoint, and what processes that were killed left in the scratch directory. What a
fact of a run, a kept checkpoint or a manifest refers to stays, and so does whatever is younger than a day: who wrote
it may be about to refer to it. Trainings may go on meanwhile.

Objects and checkpoints in a place outside of the ledger's own folder may be another ledger's, too, and are left alone
unless --unshared says that they are not.
"""
_HOUR_S: Final = 3600.0


@command(
    "gc",
    help=_HELP,
    example="ledger gc\nledger gc --apply\nledger gc --json | jq -r 'select(.place == \"objects\") | .name'",
    json="each thing on a line",
)
@click.option("--apply", is_flag=True, help="Remove it.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=1),
    default=24,
    show_default=True,
    metavar="HOURS",
    help="Leave alone what is younger.",
)
@click.option("--unshared", is_flag=True, help="No other ledger keeps objects or checkpoints in the same places.")
def gc(session: Session, apply: bool, older_than: float, unshared: bool) -> None:
    """Print what goes, or would."""
    from ledger.garbage import Garbage

    sums: dict[tuple[str, str], list[int]] = {}
    with session.reading() as book:
        garbage = Garbage(book, apply=apply, older_than=older_than * _HOUR_S, unshared=unshared)
        for waste in garbage.waste():
            if session.json:
                render.json_line(asdict(waste))
            found = sums.setdefault((waste.place, waste.reason), [0, 0])
            found[0] += 1
            found[1] += waste.bytes
    for note in garbage.notes:
        render.talk(f"note: {note}")
    things, size = (sum(found[i] for found in sums.values()) for i in (0, 1))
    if sums and not session.json:
        columns = [
            Column("place"),
            Column("why", whole=False),
            Column("things", right=True),
            Column("size", right=True),
        ]
        rows = [[place, why, f"{n:,}", render.size(total)] for (place, why), (n, total) in sorted(sums.items())]
        render.table(columns, rows)
    if not sums:
        render.talk("there is nothing to remove")
    elif apply:
        render.talk(f"removed {render.count(things, 'thing')}, {render.size(size)}")
    else:
        render.talk(f"{render.size(size)} could be freed; nothing was removed: `ledger gc --apply` does that")
