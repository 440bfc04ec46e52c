"""``ledger log``: the events of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ledger.cli import render
from ledger.cli.options import command, run_argument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.book import Book
    from ledger.cli.session import Session
    from ledger.codec import Recorded


@command(
    "log",
    example="ledger log run-7\nledger log latest --follow\n"
    "ledger log run-7 --json | jq 'select(.type == \"data.committed\")'",
    json="one event a line",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until the run has ended.")
@run_argument()
def log(session: Session, run: str, follow: bool) -> None:
    """Print the events of a run.

    Position, time, type and the gist of each.
    """
    from ledger.cli.session import find_run

    with session.reading() as book:
        run_id = find_run(book, run)
        for recorded in book.follow(run_id) if follow else _recorded(book, run_id):
            if recorded is None:
                continue
            if session.json:
                render.json_line(_facts(recorded))
            else:
                render.event_line(recorded.position, recorded.recorded_at, recorded.type, _gist(recorded))


def _recorded(book: Book, run_id: str) -> Iterator[Recorded]:
    from ledger.store.base import run_stream

    return book.store.read(run_stream(run_id))


def _gist(recorded: Recorded) -> str:
    from ledger.cli.headline import headline

    return headline(recorded.event)


def _facts(recorded: Recorded) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    return {
        "position": recorded.position,
        "global_position": recorded.global_position,
        "recorded_at": recorded.recorded_at,
        "type": recorded.type,
        "schema_version": recorded.schema_version,
        "event_id": recorded.event_id,
        "payload": json.loads(recorded.payload),
        "metadata": asdict(recorded.metadata),
        "digest": recorded.digest,
    }
