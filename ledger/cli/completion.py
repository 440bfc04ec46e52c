"""``ledger completion``: tab completion of commands, options and run names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ledger.cli.options import command

if TYPE_CHECKING:
    from ledger.cli.session import Session


@command(
    "completion",
    example="source <(ledger completion bash)\nledger completion fish > ~/.config/fish/completions/ledger.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
def completion(session: Session, shell: str) -> None:
    """Print the completion script for a shell."""
    from click.shell_completion import get_completion_class

    from ledger.cli import main
    from ledger.cli.group import NAME

    kind = get_completion_class(shell)
    if kind is None:  # pragma: no cover - the choices are those that click knows
        raise AssertionError(shell)
    click.echo(kind(main, {}, NAME, f"_{NAME.upper()}_COMPLETE").source())
