"""What is said when a recorded command has ended, and the exit code for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from ledger.cli import render
from ledger.cli.behind import tell_of_mirrors

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.read.state import RunState
    from ledger.record.command import Outcome, Started

_SHOWN: Final = 5
_CODES: Final = {"completed": 0, "failed": 5, "interrupted": 130}


def invocation() -> tuple[str, ...]:
    """What the user typed."""
    return ("ledger", *sys.argv[1:])


def announce_gaps(book: Book, started: Started) -> None:
    """Say which files of the working tree are not on record, before hours are spent on a run that lacks them."""
    code = book.run(started.run_id).code
    # What has no bytes (a socket, a virtual environment named once) is no loss to a replay.
    gaps = [file for file in code.omitted if file.bytes] if code else []
    for file in gaps[:_SHOWN]:
        render.talk(f"not captured: {file.path} ({render.size(file.bytes)}), {file.reason}")
    if len(gaps) > _SHOWN:
        render.talk(f"not captured: {len(gaps) - _SHOWN} more files")


def conclude(book: Book, outcome: Outcome) -> int:
    """Say what was not kept, and in one line how the run ended; the exit code."""
    state = book.run(outcome.run_id)
    step = state.last_step
    parts = [
        f"{outcome.name} {outcome.status}",
        _reason(outcome),
        f"step {render.number(step)}" if step is not None else "",
        render.key_metric(state.last_metrics),
        _next(state, outcome),
    ]
    for note in outcome.notes:
        render.talk(f"warning: {note}")
    render.talk(render.DOT.join(part for part in parts if part))
    tell_of_mirrors(book, outcome.run_id)
    return _CODES[outcome.status]


def _reason(outcome: Outcome) -> str:
    if outcome.status == "interrupted":
        return outcome.signal or ""
    if outcome.status == "completed":
        return ""
    code = f"exit code {outcome.exit_code}" if outcome.exit_code is not None else outcome.signal or ""
    error = render.first_line(outcome.error or "")
    return code if error in ("", code) else render.DOT.join(part for part in (code, error) if part)


def _next(state: RunState, outcome: Outcome) -> str:
    if outcome.status != "completed" and state.checkpoints:
        return f"ledger resume {outcome.name}"
    return f"ledger show {outcome.name}"
