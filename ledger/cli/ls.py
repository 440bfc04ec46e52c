"""``ledger ls``: all runs, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ledger.cli import render
from ledger.cli.options import command
from ledger.cli.render import Column

if TYPE_CHECKING:
    from ledger.cli.session import Session
    from ledger.read.catalogue import RunSummary


@command("ls", example="ledger ls -n 20\nledger ls --json | jq -r .name", json="one run a line")
@click.option("-n", "--number", type=click.IntRange(min=1), metavar="N", help="Only the latest N runs.")
@click.option("--tag", metavar="TAG", help="Only runs with this tag.")
def ls(session: Session, number: int | None, tag: str | None) -> None:
    """List the runs, the latest last.

    Metrics are shown once a run has ended. A run whose process died without a word is listed as interrupted.
    """
    if session.url is None and not session.exists:  # one that was named and is not there is an error
        _nothing_yet(session)
        return
    with session.reading() as book:
        runs = book.runs()
    names = {run.id: run.name for run in runs}
    shown = [run for run in runs if tag is None or tag in run.tags][-(number or 0) :]
    if session.json:
        for run in shown:
            render.json_line(_facts(run))
    elif shown:
        render.table(_columns(), [_row(run, names) for run in shown])
    elif runs:
        render.talk(f"none of the {len(runs)} runs has the tag {tag!r}")
    else:
        _nothing_yet(session)


def _nothing_yet(session: Session) -> None:
    start = "" if session.exists else "`ledger init` starts a ledger here, "
    render.talk(f"no runs yet: {start}`ledger run -- COMMAND` or `ledger train CONFIG.toml` makes the first")


def _columns() -> list[Any]:
    return [
        Column("run"),
        Column("status"),
        Column("kind"),
        Column("started"),
        Column("took"),
        Column("step", right=True),
        Column("metric"),
        Column("replayed"),
        Column("tags", whole=False),
    ]


def _row(run: RunSummary, names: dict[str, str]) -> list[str]:
    original = names.get(run.replay_of, run.replay_of) if run.replay_of else None
    took = render.duration(render.between(run.started_at, run.ended_at)) if _known_end(run) else ""
    return [
        run.name,
        run.status,
        f"{run.kind} of {original}" if original else run.kind,
        render.ago(run.started_at),
        took,
        render.number(run.step),
        render.key_metric(run.metrics),
        run.verdict or "",
        " ".join(run.tags),
    ]


def _known_end(run: RunSummary) -> bool:
    """When a run that was killed died is not on record."""
    return run.ended_at is not None or run.status == "running"


def _facts(run: RunSummary) -> dict[str, Any]:
    return {
        "name": run.name,
        "id": run.id,
        "kind": run.kind,
        "status": run.status,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "seconds": render.between(run.started_at, run.ended_at) if _known_end(run) else None,
        "attempts": run.attempts,
        "step": run.step,
        "metrics": run.metrics,
        "tags": run.tags,
        "project": run.project,
        "user": run.user,
        "replay_of": run.replay_of,
        "verdict": run.verdict,
    }
