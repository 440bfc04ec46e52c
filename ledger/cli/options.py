"""What the commands share: how each is declared, and the options that all of them have."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ledger.cli.group import DEBUG
from ledger.cli.session import Session
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")


def _debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of an error."
)


_ledger_option = click.option(
    "--ledger",
    "ledger_url",
    metavar="URL",
    help="The ledger: a directory or a database URL. Otherwise LEDGER_URL, then the next ledger.toml upward, then "
    ".ledger here.",
)


def command(
    name: str,
    *,
    example: str,
    json: str | None = None,
    cls: type[click.Command] = click.Command,
    **attributes: Any,
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Declare a command: a function of a ``Session`` and its own parameters, returning an exit code.

    ``example`` is shown at the end of its help. ``json`` says what ``--json`` prints; without it the command
    prints no data and has no such option.
    """
    json_option = click.option("--json", "as_json", is_flag=True, help=f"Print {json} as JSON.")
    options = [debug_option, *([json_option] if json else []), _ledger_option]
    epilog = "\n  ".join(("\b\nExample:", *example.splitlines()))

    def declare(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def called(ledger_url: str | None, as_json: bool = False, **parameters: Any) -> int | None:
            return function(Session(ledger_url, as_json), **parameters)

        decorated: Callable[..., int | None] = called
        for option in options:
            decorated = option(decorated)
        return click.command(name, cls=cls, epilog=epilog, **attributes)(decorated)

    return declare


def complete_run(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of runs that begin so, the latest first."""
    session = Session(ctx.params.get("ledger_url"))
    try:
        with session.reading() as book:
            return [name for name in reversed(book.names().values()) if name.startswith(incomplete)]
    except LedgerError:  # no ledger, or a broken one: that is for the command itself to say
        return []


def run_argument(name: str = "run", **attributes: Any) -> Callable[[Function], Function]:
    """An argument that names a run, or several; the shell can complete it."""
    return click.argument(name, metavar=attributes.pop("metavar", "RUN"), shell_complete=complete_run, **attributes)


tag_option = click.option("--tag", "tags", multiple=True, metavar="TAG", help="A word to find the run by; repeatable.")
no_snapshot_option = click.option(
    "--no-snapshot",
    is_flag=True,
    help="Only pin the data by their digests, keep no copy of them beside the ledger.",
)


def _message(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter("a commit needs a message", ctx, parameter)
    return value


commit_option = click.option(
    "--commit",
    metavar="MESSAGE",
    callback=_message,
    help="First commit what is uncommitted in the data, where they have branches (lakefs:).",
)
