"""``ledger resume``: a run goes on as a new attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.cli import render
from ledger.cli.launching import launch_options
from ledger.cli.options import command, run_argument

if TYPE_CHECKING:
    from ledger.cli.session import Session
    from ledger.read.state import RunState
    from ledger.record.command import Started
    from ledger.record.world import Asked


@command("resume", example="ledger resume run-7\nledger resume latest --nproc 4")
@run_argument()
@launch_options
def resume(session: Session, run: str, asked: Asked) -> int:
    """Go on from the newest whole checkpoint.

    The same run goes on as a new attempt; a checkpoint that is not whole is passed over, and it is said why.
    The code and the data must be what they were. It is launched as before, but for the options given here; with
    another number of processes what follows is not promised to be the same bit for bit.

    Ends with 0, with 5 if the training failed, with 130 if it was interrupted.
    """
    from ledger.cli.outcome import conclude
    from ledger.cli.progress import Bar
    from ledger.cli.session import find_run
    from ledger.record.join import join_command, joins
    from ledger.record.resume import resume_command, world_to_resume

    with session.reading() as book:
        run_id = find_run(book, run)
        world = world_to_resume(book.run(run_id), asked)
        if joins(world):
            return conclude(book, join_command(book, world, run=run_id))
        with Bar(_steps(book.run(run_id))) as bar:

            def on_start(started: Started) -> None:
                _announce(book.run(run_id))
                bar.start(started.name)

            outcome = resume_command(book, run_id, asked, watch=bar.watch, on_start=on_start)
        return conclude(book, outcome)


def _announce(state: RunState) -> None:
    """Say where the new attempt goes on, and why not from a newer checkpoint."""
    if resumed := state.attempt.resumed:
        for reason in resumed.skipped:
            render.talk(f"passed over {reason}")
        start = "the beginning" if resumed.step is None else f"step {render.number(resumed.step)}"
        render.talk(f"{state.name} attempt {resumed.attempt} goes on from {start}{_elsewhere(state)}")


def _elsewhere(state: RunState) -> str:
    before, now = (attempt.world.processes for attempt in state.attempts[-2:])
    if before == now:
        return ""
    return f" with {render.count(now, 'process', 'processes')}: bit for bit the same as with {before} is not promised"


def _steps(state: RunState) -> float | None:
    """How many steps the whole training makes, where its recipe says so."""
    steps = state.config.get("steps")
    return steps if isinstance(steps, int) else None
