"""``ledger plugins``: who plugs in, and who cannot."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ledger.cli import render
from ledger.cli.options import command
from ledger.cli.render import Column

if TYPE_CHECKING:
    from ledger.cli.session import Session


@command("plugins", example="ledger plugins\nLEDGER_PLUGINS= ledger plugins", json="one plugin a line")
def plugins(session: Session) -> None:
    """List the plugins and their state.

    LEDGER_PLUGINS=a,b loads only those besides Ledger's own; empty, none.
    """
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
    ]
    rows = [
        [info.name, info.version, info.distribution, info.status, " ".join(info.hooks), info.reason] for info in found
    ]
    render.table(columns, rows)
