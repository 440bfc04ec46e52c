"""``ledger impact``: every run and checkpoint that some data went into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ledger.cli import render
from ledger.cli.options import command
from ledger.cli.picture import draw, graph_option, require_graphviz
from ledger.cli.render import Column

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.cli.session import Session
    from ledger.read.lineage import Affected, Cause, Impact, Origin

_HELP = """List what some data went into.

DATA is the URI that runs asked for, which means every version of it, and file:data whatever was read at that place of
this machine; a commit or a digest, of data or of any file in them; or a path, which means its content.

Listed are the runs that read the data, their replays, and the runs that read a checkpoint or an artifact of a run that
is listed, and so on. Each comes with what it wrote, the deleted included.
"""


@command(
    "impact",
    help=_HELP,
    example="ledger impact file:data/\nledger impact data/train.bin --graph impact.svg\n"
    "ledger impact lakefs://corpus/main/clean/ --json | jq -r .run",
    json="each run, with what it wrote, on a line",
)
@click.argument("data", type=click.Path(), metavar="DATA")
@graph_option("Also draw it, as .svg or .dot.")
def impact(session: Session, data: str, graph: Path | None) -> None:
    """Print the runs, the nearest to the data first."""
    from ledger.cli.counter import Counter

    require_graphviz(graph)
    with session.reading() as book:
        with Counter() as counter:
            found = book.impact(data, counter)
        _print(session, found)
        if graph:
            from ledger.read.provenance_graph import impact_graph

            draw(impact_graph(found), graph)


def _print(session: Session, found: Impact) -> None:
    for gap in found.gaps:
        render.talk(f"note: {gap}")
    if session.json:
        for affected in found.runs.values():
            render.json_line(_facts(affected))
        return
    columns = [
        Column("run"),
        Column("why", whole=False),
        Column("wrote"),
        Column("best"),
        Column("digest"),
    ]
    render.table(columns, [row for affected in found.runs.values() for row in _rows(affected)])
    written = sum(len(affected.written) for affected in found.runs.values())
    commits = render.count(len(found.commits), "state of data", "states of data")
    render.talk(f"{commits}, {render.count(len(found.runs), 'run')}, {render.count(written, 'thing')} written")


def _rows(affected: Affected) -> list[list[str]]:
    why = "; ".join(dict.fromkeys(map(_why, affected.causes)))
    why += f"; {affected.attempts} attempts" if affected.attempts > 1 else ""
    return [
        [
            affected.run,
            why,
            origin.name + (" (deleted)" if _deleted(affected, origin) else ""),
            "best" if origin.checkpoint and origin.checkpoint.best else "",
            render.short(origin.written.digest),
        ]
        for origin in affected.written
    ] or [[affected.run, why, "", "", ""]]


def _why(cause: Cause) -> str:
    """In a few words what tied the run to the data."""
    if cause.use is None:
        return f"replay of {cause.replay_of}"
    data, files = cause.use.data, [path for path in cause.use.files if path != "."]
    which = f"{_first(files)} in {data.name}" if files else data.name
    source = (
        f"{cause.origin.name} of {cause.origin.run}" if cause.origin else f"{data.uri} at {render.short(data.commit)}"
    )
    return f"read {which}: {source}"


def _first(files: list[str]) -> str:
    return files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _deleted(affected: Affected, origin: Origin) -> bool:
    checkpoint = origin.checkpoint
    return checkpoint is not None and (checkpoint.uri, checkpoint.digest) in affected.deleted


def _facts(affected: Affected) -> dict[str, Any]:
    from ledger.cli.facts import origin_facts, use_facts

    return {
        "run": affected.run,
        "run_id": affected.run_id,
        "attempts": affected.attempts,
        "because": [
            {
                "data": use_facts(cause.use) if cause.use else None,
                "from": origin_facts(cause.origin) if cause.origin else None,
                "replay_of": cause.replay_of,
            }
            for cause in affected.causes
        ],
        "wrote": [{**origin_facts(each), "deleted": _deleted(affected, each)} for each in affected.written],
    }
