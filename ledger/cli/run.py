"""``ledger run``: any command line, recorded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ledger.cli.options import command, commit_option, no_snapshot_option, tag_option
from ledger.errors import UsageError

if TYPE_CHECKING:
    from ledger.cli.session import Session

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@command(
    "run",
    example="ledger run -- python train.py --lr 0.1\n"
    "ledger run --data train=file:data/ --out model.pt -- python train.py",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--data", multiple=True, metavar="NAME=URI", help="Pin this data and record it; repeatable.")
@click.option("--out", "outputs", multiple=True, metavar="PATH", help="Keep this file or directory; repeatable.")
@click.option("--seed", type=int, metavar="N", help="The seed that the command uses, for the record.")
@commit_option
@no_snapshot_option
@tag_option
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def run(
    session: Session,
    data: tuple[str, ...],
    outputs: tuple[str, ...],
    seed: int | None,
    commit: str | None,
    no_snapshot: bool,
    tags: tuple[str, ...],
    words: tuple[str, ...],
) -> int:
    """Record any command line.

    Code, environment and data are captured before it starts, its console and outputs after. The command finds
    each data set in the variable LEDGER_DATA_NAME, and may use `ledger.current_run()` to log more.

    Ends with 0, with 5 if the command failed, with 130 if it was interrupted.
    """
    from ledger.cli.outcome import announce_gaps, conclude, invocation
    from ledger.record.command import Request, record_command

    request = Request(
        kind="command",
        invocation=invocation(),
        command=words,
        directory=Path.cwd(),
        seed=seed,
        data=_named(data),
        outputs=tuple(Path(path) for path in outputs),
        tags=tags,
        snapshot=not no_snapshot,
        commit=commit,
    )
    with session.writing() as book:
        outcome = record_command(book, request, on_start=lambda started: announce_gaps(book, started))
        return conclude(book, outcome)


def _named(pairs: tuple[str, ...]) -> dict[str, str]:
    """URIs by name. Raises ``UsageError`` for a pair that is none, and for a name that comes twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, uri = pair.partition("=")
        if not equals or not uri or not _NAME.fullmatch(name):
            raise UsageError(f"--data {pair!r} is not NAME=URI", mend="for example --data train=file:data/train")
        if name in found:
            raise UsageError(f"--data names {name!r} twice", mend="give each data set a name of its own")
        found[name] = uri
    return found
