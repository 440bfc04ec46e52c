"""The group of commands: imports one when asked for it, and turns every failure into a message and a code."""

from __future__ import annotations

import difflib
import errno
import importlib
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli import streams
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME: Final = "ledger"
DEBUG: Final = "ledger.debug"
"""Key in ``Context.meta`` under which ``--debug`` is remembered."""
CANNOT: Final = 4
INTERRUPTED: Final = 130


class Commands(click.Group):
    """Commands by name, each in the module of that name; see ``errors.py`` for the exit codes.

    A command returns its exit code; None is 0.
    """

    def __init__(self, *args: Any, table: Mapping[str, Mapping[str, str]], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return [name for section in self._table.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, if there is one of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"{__package__}.{module}"), module)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        name = args[0]
        known = self.list_commands(ctx)
        if name in known or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(name, known, n=2)
        raise _NoSuchCommand(f"there is no command {name!r}", close, ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing what it names."""
        width = max(len(name) for name in self.list_commands(ctx))
        for section, commands in self._table.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    def main(  # type: ignore[override]  # click declares one signature per value of standalone_mode
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run the command line and leave with its exit code."""
        standalone = extra.pop("standalone_mode", True)
        if not standalone:
            return super().main(args, NAME, standalone_mode=False, **extra)
        streams.settle()
        try:
            code = super().main(args, NAME, standalone_mode=False, **extra)
        except click.ClickException as error:
            code = _usage(error)
        except click.Abort:
            code = INTERRUPTED
        except OSError as error:  # the help, which is printed before there is a command, had nowhere to go
            code = _report(error, debug=False)
        streams.finish()
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> int:
        """Carry out the command; the exit code."""
        try:
            return super().invoke(ctx) or 0
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _tell("interrupted")
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last stop before the user
            return _report(error, debug=ctx.meta.get(DEBUG, False))


class _NoSuchCommand(click.UsageError):
    def __init__(self, message: str, possibilities: list[str], ctx: click.Context) -> None:
        super().__init__(message, ctx)
        self.possibilities = possibilities


def _report(error: Exception, *, debug: bool) -> int:
    if isinstance(error, streams.ReaderLeft):
        return 0  # that is no failure, and nothing is to be said about it
    if debug:
        traceback.print_exception(error)
    if isinstance(error, LedgerError):
        _tell(str(error), error.mend)
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        _tell(f"{place}{error.strerror}", _DISK.get(error.errno or 0))
        return CANNOT
    _tell(
        f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
        "this is a bug in Ledger: report it" if debug else "this is a bug: `ledger --debug …` shows where it is",
    )
    return CANNOT


_DISK: Final = {
    errno.ENOSPC: "free some space on that disk and try again; what was recorded before is safe",
    errno.EACCES: "check who owns it, and its permissions",
    errno.EROFS: "that file system is mounted read-only: name another place with --ledger",
    errno.EBADF: "it is closed: send it to a file, `> FILE`, or to another command",
}


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.UsageError) and type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    ctx = getattr(error, "ctx", None)
    where = ctx.command_path if ctx else NAME
    possible = getattr(error, "possibilities", None)
    # Click would add the possibilities to the sentence; they are the mend.
    what = error.message if possible else error.format_message()
    help_hint = f"`{where} --help` tells what it takes"
    _tell(
        what.rstrip("."),
        f"did you mean {' or '.join(possible)}? {help_hint}" if possible else help_hint,
        where,
    )
    return 2


def _tell(what: str, mend: str | None = None, who: str = NAME) -> None:
    click.echo(f"{who}: {what}" + (f"\n  mend: {mend}" if mend else ""), err=True)
