"""What is promised about the command line as a whole: how little its help costs, and what every command has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import pytest

from ledger import open_ledger
from ledger.cli import COMMANDS, main
from ledger.testing.ledgers import fill
from tests.meta.test_imports import loaded_by

HEAVY = ("sqlmodel", "sqlalchemy", "torch", "fsspec", "pydantic", "rich", "ledger.events", "pluggy", "psutil")
FOR_OTHER_COMMANDS = {
    "alembic", "sqlalchemy.orm", "ledger.hooks.manager", "ledger.journal.carry", "ledger.objects", "ledger.read.state",
    "ledger.store.projections.keeping", "ledger_fsspec", "ledger_local", "ledger_trainer",
}  # fmt: skip
SHORT = {name: text for section in COMMANDS.values() for name, text in section.items()}
PRINTS_DATA = {
    "ls", "show", "log", "compare", "audit", "checkpoints", "fetch", "replay", "plugins", "doctor", "db",
    "verify", "seal", "verify-proof", "gc", "gpu-hours", "impact", "mirror",
}  # fmt: skip

if TYPE_CHECKING:
    from pathlib import Path


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main, info_name="ledger"), name)
    assert found is not None
    return found


def shown(name: str) -> str:
    return command(name).get_help(click.Context(command(name), info_name=name))


def test_help_imports_nothing_heavy_and_no_command() -> None:
    loaded = loaded_by("from ledger.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass")
    assert not loaded.intersection(HEAVY)
    assert not {f"ledger.cli.{name.replace('-', '_')}" for name in SHORT} & loaded


def test_a_list_of_runs_needs_the_database_and_little_else(tmp_path: Path) -> None:
    listing = f"""
import os
os.environ["LEDGER_URL"] = {str(tmp_path)!r}
from ledger.cli import main
try: main(['ls'])
except SystemExit as end: assert not end.code, end
"""
    with open_ledger(str(tmp_path)) as book:
        fill(book.store, 3)
    loaded = loaded_by(listing)
    assert "sqlalchemy" in loaded
    assert not loaded.intersection((set(HEAVY) - {"sqlalchemy", "psutil"}) | FOR_OTHER_COMMANDS)


def test_completing_a_command_name_imports_nothing_heavy() -> None:
    # The shell asks for all commands and so imports them all, at every press of the key.
    loaded = loaded_by(
        "import importlib\n" + "\n".join(f"import ledger.cli.{name.replace('-', '_')}" for name in SHORT)
    )
    assert not loaded.intersection(HEAVY)


@pytest.mark.parametrize("name", SHORT)
def test_the_table_says_what_the_command_says(name: str) -> None:
    assert command(name).get_short_help_str(limit=200) == SHORT[name]


@pytest.mark.parametrize("name", SHORT)
def test_every_command_takes_a_ledger_and_shows_an_example(name: str) -> None:
    text = shown(name)
    assert "--ledger URL" in text
    assert re.search(rf"Example:\n.*ledger {name}", text)


@pytest.mark.parametrize("name", SHORT)
def test_exactly_those_that_print_data_take_json(name: str) -> None:
    assert ("--json" in shown(name)) == (name in PRINTS_DATA)


@pytest.mark.parametrize("name", SHORT)
def test_help_fits_80_columns(name: str) -> None:
    context = click.Context(command(name), info_name=name, terminal_width=80)
    assert max(map(len, command(name).get_help(context).splitlines())) <= 80
