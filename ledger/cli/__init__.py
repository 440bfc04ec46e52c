"""The command line: it parses, calls the library and prints. A command is imported only when it is used."""

from __future__ import annotations

from gc import set_threshold  # the module itself would give way to the command of that name
from typing import Final

import click

from ledger import __version__
from ledger.cli.group import Commands
from ledger.cli.options import debug_option

COMMANDS: Final[dict[str, dict[str, str]]] = {
    "Set up": {
        "init": "Start a ledger in this directory.",
        "doctor": "Say what is installed, reachable or missing.",
        "plugins": "List the plugins and their state; write a new one, or check one.",
        "db": "Look after the tables that the log is kept in.",
        "gc": "Say what nobody needs any more; with --apply remove it.",
        "completion": "Print the completion script for a shell.",
    },
    "Record": {
        "train": "Train from a recipe, recorded.",
        "run": "Record any command line.",
        "resume": "Go on from the newest whole checkpoint.",
    },
    "Repeat": {
        "replay": "Rebuild a run, run it again, give a verdict.",
    },
    "Look": {
        "ls": "List the runs, the latest last.",
        "show": "Show what is known about a run.",
        "log": "Print the events of a run.",
        "compare": "Lay runs side by side.",
        "audit": "Tell what is behind a run, a checkpoint or a file.",
        "impact": "List what some data went into.",
        "gpu-hours": "Tell where device time went, and what it cost.",
        "checkpoints": "List the checkpoints of a run.",
        "fetch": "Get a checkpoint, verified.",
        "mirror": "Bring runs to another tracker, exactly once.",
    },
    "Prove": {
        "verify": "Check that nothing recorded was altered.",
        "seal": "Sign the log as it is; print the signed head.",
        "prove": "Prove a run or an event to somebody else.",
        "verify-proof": "Check a proof, without the ledger.",
    },
}
"""Section -> command -> the first line of its help. Kept here so that `ledger --help` imports no command."""
_GARBAGE: Final = 100_000
"""Objects that may come to be before the garbage collector looks at them."""


@click.group(cls=Commands, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="ledger", message="%(prog)s %(version)s")
@debug_option
def main() -> None:
    """Record training runs, rebuild them, and check them bit for bit.

    Anything that takes a RUN takes its name (run-42), its UUID, a unique beginning of that, or `latest`.
    """
    # Most commands end before their garbage matters, and looking for it takes a sixth of what `ledger ls` takes.
    set_threshold(_GARBAGE)
