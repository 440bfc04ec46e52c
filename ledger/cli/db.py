"""``ledger db``: the tables that the log is kept in."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ledger.cli import render
from ledger.cli.options import command
from ledger.errors import NotFound, UsageError

if TYPE_CHECKING:
    from ledger.cli.session import Session


@command("db", example="ledger db status\nledger db upgrade --ledger /shared/ledgers/speech", json="what it tells")
@click.argument("action", type=click.Choice(["status", "upgrade", "rebuild"]))
def db(session: Session, action: str) -> None:
    """Look after the tables that the log is kept in.

    \b
    status   which schema they have, what is in them, how large they are
    upgrade  bring a log that an older version of Ledger made up to date
    rebuild  fold what lists and searches show again from the log, if it is wrong

    An upgrade is done whole or not at all, and older versions of Ledger cannot use the log after it: make a copy first.
    """
    if session.settings.url.startswith("memory:"):
        raise UsageError("a ledger in memory has no tables")
    if not session.exists:
        raise NotFound(f"there is no ledger in {session.place}", mend="`ledger init` starts one")
    {"status": _status, "upgrade": _upgrade, "rebuild": _rebuild}[action](session)


def _status(session: Session) -> None:
    from ledger.store.upkeep import status

    found = status(session.settings.url)
    if session.json:
        render.json_line(asdict(found))
        return
    older, newer = found.revision < found.newest, found.revision > found.newest
    render.fields(
        [
            ("ledger", found.place),
            ("database", found.database),
            ("schema", found.revision + (f", this version of Ledger works on {found.newest}" * (older or newer))),
            ("events", f"{found.events:,}"),
            ("streams", f"{found.streams:,}"),
            ("runs", f"{found.runs:,}"),
            ("size", render.size(found.bytes)),
        ]
    )
    if older:
        render.talk("make a copy of it, then bring it up to date: ledger db upgrade")
    if newer:
        render.talk("upgrade Ledger: pip install --upgrade training-ledger")


def _upgrade(session: Session) -> None:
    from ledger.store.upkeep import upgrade

    before, after = upgrade(session.settings.url)
    if session.json:
        render.json_line({"before": before, "after": after})
    elif before == after:
        render.line(f"schema {after}: up to date already")
    else:
        render.line(f"upgraded from schema {before} to {after}")


def _rebuild(session: Session) -> None:
    from ledger.cli.counter import Counter

    with session.reading() as book, Counter() as counter:
        wrong = book.store.rebuild(counter.events)
        runs = len(book.names())
    if session.json:
        render.json_line({"runs": runs, "wrong": wrong})
    elif wrong:
        tables = ", ".join(f"{render.count(rows, 'row')} of {table}" for table, rows in wrong.items())
        render.line(f"rebuilt what is shown of {render.count(runs, 'run')}; wrong were {tables}")
    else:
        render.line(f"nothing was wrong with what is shown of {render.count(runs, 'run')}")
