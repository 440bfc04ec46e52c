"""``ledger ls``: all runs, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli import render
from ledger.cli.options import command
from ledger.cli.render import Column

if TYPE_CHECKING:
    from ledger.cli.session import Session
    from ledger.read.catalogue import Catalogue, RunSummary


_HELP: Final = """List the runs, the latest last.

One metric is shown of each, a loss if there is one, and those that --where and --sort name. A run whose process
died without a word is listed as interrupted.

--where takes comparisons, joined by and, or, not and brackets:

\b
  val/loss < 2.1        last value of a metric; min(val/loss), max(val/loss)
  optim.lr >= 1e-3      a configured value; lr, if only one path ends so
  status = completed    a fact about the run: name, id, status, kind, started,
                        ended, step, attempts, project, user, host, verdict
  tag = baseline        one of its tags; != if none is
  data = corpus         name, URI, commit or digest of data that it read
  replay_of = run-7     what it replays, by name or UUID
  started > 2026-01-31  a time, in your zone; or as 2026-01-31T18:30Z
  name ~ '*-large'      text that fits a pattern, * for anything; !~ if not

Operators are = != < <= > >= ~ !~. Quote what has blanks or operators in it. A name that is both configured and a
metric means what was configured; write metric.lr or config.lr to choose. A run that lacks a value, or has NaN there,
fits no comparison with it, and is sorted last.
"""


@command(
    "ls",
    help=_HELP,
    example="ledger ls -n 20\n"
    "ledger ls --where 'val/loss < 2.1 and lr >= 1e-3' --sort val/loss\n"
    "ledger ls --sort '-max(val/accuracy)' -n 5\n"
    "ledger ls --json | jq -r .name",
    json="one run a line",
)
@click.option("-w", "--where", metavar="CONDITION", help="Only runs for which this is true.")
@click.option(
    "-s",
    "--sort",
    metavar="[-]NAME",
    help="Lowest first by this metric, configured value or fact; highest first with -.",
)
@click.option(
    "-n", "--number", type=click.IntRange(min=1), metavar="N", help="Only the latest N runs; with --sort the first N."
)
@click.option("--tag", metavar="TAG", help="Only runs with this tag.")
def ls(session: Session, where: str | None, sort: str | None, number: int | None, tag: str | None) -> None:
    """Print what the catalogue finds."""
    if session.url is None and not session.exists:  # one that was named and is not there is an error
        _nothing_yet(session)
        return
    with session.reading() as book:
        found = book.catalogue(where=where, sort=sort, limit=number, tag=tag, all_metrics=session.json)
        recorded = bool(found.runs) or bool(book.names())
    for note in found.notes:
        render.talk(f"note: {note}")
    if session.json:
        for run in found.runs:
            render.json_line(_facts(run))
    elif found.runs:
        render.table(_columns(found), [_row(run, found) for run in found.runs])
    elif recorded:
        render.talk(f"no run has the tag {tag!r}" if where is None else "no run fits")
    else:
        _nothing_yet(session)


def _nothing_yet(session: Session) -> None:
    start = "" if session.exists else "`ledger init` starts a ledger here, "
    render.talk(f"no runs yet: {start}`ledger run -- COMMAND` or `ledger train CONFIG.toml` makes the first")


def _columns(found: Catalogue) -> list[Column]:
    return [
        Column("run"),
        Column("status"),
        Column("kind"),
        Column("started"),
        Column("took"),
        Column("step", right=True),
        *(Column(name, right=True) for name in found.columns),
        Column("metric"),
        Column("replayed"),
        Column("tags", whole=False),
    ]


def _row(run: RunSummary, found: Catalogue) -> list[str]:
    original = run.original or run.replay_of
    took = render.duration(render.between(run.started_at, run.ended_at)) if _known_end(run) else ""
    return [
        run.name,
        run.status,
        render.joined(f"{run.kind} of {original}" if original else run.kind, render.steps(run.segment)),
        render.ago(run.started_at),
        took,
        render.number(run.step),
        *("" if value is None else value if isinstance(value, str) else render.number(value) for value in run.asked),
        "" if run.headline in found.columns else render.key_metric(run.metrics),
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
        "segment": run.segment,
        "verdict": run.verdict,
    }
