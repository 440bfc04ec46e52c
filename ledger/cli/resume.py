"""``ledger resume``: a run goes on as a new attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.cli.options import command, run_argument

if TYPE_CHECKING:
    from ledger.cli.session import Session
    from ledger.read.state import RunState


@command("resume", example="ledger resume run-7\nledger resume latest")
@run_argument()
def resume(session: Session, run: str) -> int:
    """Go on from the newest whole checkpoint.

    The same run goes on as a new attempt; a checkpoint that is not whole is passed over, and it is said why.
    The code and the data must be what they were.

    Ends with 0, with 5 if the training failed, with 130 if it was interrupted.
    """
    from ledger.cli.outcome import conclude
    from ledger.cli.progress import Bar
    from ledger.cli.session import find_run
    from ledger.record.resume import resume_command

    with session.reading() as book:
        run_id = find_run(book, run)
        with Bar(_steps(book.run(run_id))) as bar:
            outcome = resume_command(book, run_id, watch=bar.watch, on_start=lambda started: bar.start(started.name))
        return conclude(book, outcome)


def _steps(state: RunState) -> float | None:
    """How many steps the whole training makes, where its recipe says so."""
    steps = state.config.get("steps")
    return steps if isinstance(steps, int) else None
