"""``ledger init``: ledger.toml and the embedded ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger.cli import render
from ledger.cli.options import command

if TYPE_CHECKING:
    from ledger.cli.session import Session

_TOML: Final = """\
# Where Ledger keeps what it records about the trainings in this directory and below.
# Every setting may be left out; what stands after a # is its default, or an example of it.

[ledger]
{url}
# objects = ".ledger/objects"          # code, consoles, data snapshots: a path or any fsspec URL
# checkpoints = ".ledger/checkpoints"  # a path, or any URL that a plugin stores checkpoints at
# project = "my-project"               # for example: stands in every run
# mirrors = ["jsonl"]                  # for example: trackers that every run is brought to while it trains

[capture]
# code_limit_mb = 200                  # largest working tree that is captured, in MB

# Settings of a plugin go into a table of their own:
# [plugin.NAME]
"""
_DEFAULT_URL: Final = '# url = ".ledger"                      # the log: a directory, or a database URL'


@command("init", example="ledger init\nledger init --ledger postgresql://ann@db.example.org/ledger")
def init(session: Session) -> None:
    """Start a ledger in this directory.

    Writes ledger.toml and creates the embedded ledger in .ledger, which git ignores, or the tables in a database.
    What is there already is left as it is.
    """
    from ledger.hooks.uris import without_password
    from ledger.settings import FILE

    existed = session.there_is_one()
    with session.writing() as book:  # first: settings that name a place where no ledger can be would be in the way
        runs = len(book.names())
    if existed:
        render.talk(f"there is a ledger in {session.place} already, with {render.count(runs, 'run')}")
    else:
        render.line(f"created {session.place}")
    toml = Path.cwd() / FILE
    if toml.exists():
        render.talk(f"{FILE} is here already: left as it is")
    else:
        _write_settings(toml, session.url)
        render.line(f"wrote {FILE}")
        if session.url and without_password(session.url) != session.url:
            render.talk(f"{FILE} does not hold the password: keep it in ~/.pgpass or PGPASSWORD")
    render.talk("next: `ledger run -- COMMAND` or `ledger train CONFIG.toml`, then `ledger ls`")


def _write_settings(file: Path, url: str | None) -> None:
    import json

    from ledger.hooks.uris import without_password

    setting = f"url = {json.dumps(without_password(url))}" if url else _DEFAULT_URL
    file.write_text(_TOML.format(url=setting))
