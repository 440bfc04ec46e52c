"""``ledger plugins``: who plugs in, and who cannot; a new plugin; whether a plugin keeps its promises."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ledger.cli import render
from ledger.cli.options import command, debug_option
from ledger.cli.render import Column

if TYPE_CHECKING:
    from ledger.cli.session import Session
    from ledger.testing.examination import Finding

_KINDS: Final = ("tracker", "data", "store", "engine")


# --- ledger plugins new ------------------------------------------------------------------------------------

_NEW_EXAMPLE: Final = """\b
Example:
  ledger plugins new my-tracker --kind tracker
  cd ledger-my-tracker && pip install -e '.[test]' && pytest"""


@click.command("new", epilog=_NEW_EXAMPLE)
@click.argument("name")
@click.option("--kind", type=click.Choice(_KINDS), required=True, help="What it is to be.")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@debug_option
def new(name: str, kind: str, directory: Path | None) -> None:
    """Write a new plugin that works and passes its tests.

    \b
    tracker  shows runs elsewhere: here, as CSV files
    data     pins and fetches data: here, dated snapshots
    store    keeps checkpoints: here, in plain directories
    engine   trains: here, PyTorch in one process

    It goes to DIRECTORY, by default ledger-NAME, which must not exist.
    """
    from ledger.scaffold import write

    place = directory or Path(f"ledger-{name}")
    for path in write(name, kind, place):
        render.line(str(place / path))
    render.talk(f"next: cd {place} && pip install -e '.[test]' && pytest")
    render.talk(f"then `ledger plugins` lists {name}, and `ledger plugins check {name}` tries it where it is installed")


# --- ledger plugins check ----------------------------------------------------------------------------------


@command(
    "check",
    example="ledger plugins check my-tracker\nledger plugins check my-tracker --json | jq 'select(.state == \"fail\")'",
    json="one finding a line",
)
@click.argument("name")
def check(session: Session, name: str) -> int:
    """Check whether an installed plugin keeps its promises.

    Loads it, looks at its hooks, and runs the conformance tests that it ships. Ends with 1 if anything fails.
    """
    from ledger.testing.examination import examine

    failed = total = 0
    for finding in examine(name, session.settings):
        total += 1
        failed += finding.state == "fail"
        if session.json:
            render.json_line(asdict(finding))
        else:
            _show(finding)
    render.talk(f"{render.count(total, 'finding')}, {failed} failed")
    return 1 if failed else 0


def _show(finding: Finding) -> None:
    short, *more = finding.finding.splitlines() or [""]
    render.line(f"{finding.state:<4}  {finding.check}" + (f": {short}" if short else ""))
    for line in (*more, *([f"mend: {finding.mend}"] if finding.mend else [])):
        render.line(f"      {line}")


# --- ledger plugins ----------------------------------------------------------------------------------------


@command(
    "plugins",
    example="ledger plugins\nLEDGER_PLUGINS= ledger plugins",
    json="one plugin a line",
    cls=click.Group,
    invoke_without_command=True,
    commands=[new, check],
)
@click.pass_context
def plugins(ctx: click.Context, session: Session) -> None:
    """List the plugins and their state; write a new one, or check one.

    LEDGER_PLUGINS=a,b loads only those besides Ledger's own; empty, none.
    """
    if ctx.invoked_subcommand is None:
        _list(session)


def _list(session: Session) -> None:
    from ledger.hooks.manager import load_plugins

    found = sorted(load_plugins(session.settings).describe(), key=lambda info: info.name)
    if session.json:
        for info in found:
            render.json_line(asdict(info))
        return
    columns = [
        Column("plugin"),
        Column("version"),
        Column("distribution"),
        Column("status"),
        Column("hooks", whole=False),
        Column("reason", whole=False),
        Column("mend", whole=False),
    ]
    rows = [
        [info.name, info.version, info.distribution, info.status, " ".join(info.hooks), info.reason, info.mend]
        for info in found
    ]
    render.table(columns, rows)
