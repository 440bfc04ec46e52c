"""``ledger replay``: a run, rebuilt, run again and judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ledger.cli import render
from ledger.cli.options import command, run_argument
from ledger.errors import UsageError

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.cli.session import Session
    from ledger.codec import Recorded
    from ledger.events import ReplayCompared
    from ledger.replay.compare import Comparison

_CODES: Final = {"identical": 0, "within-tolerance": 0, "diverged": 1, "not-replayable": 4}


@command(
    "replay",
    example="ledger replay run-7 --plan\nledger replay run-7\n"
    "ledger replay run-7 --tolerance 1e-6 --json | jq .verdict",
    json="the verdict, or with --plan the plan,",
)
@run_argument()
@click.option("--plan", is_flag=True, help="Only print the steps, and what is missing or differs.")
@click.option("--script", is_flag=True, help="Only print the steps as a shell script.")
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Only rebuild code and data in DIR.")
@click.option("--tolerance", type=float, metavar="REL", help="Let numbers deviate by REL of their size.")
@click.option("--keep-going", is_flag=True, help="Go on after the first divergence, and list all.")
def replay(
    session: Session,
    run: str,
    plan: bool,
    script: bool,
    to: Path | None,
    tolerance: float | None,
    keep_going: bool,
) -> int:
    """Rebuild a run, run it again, give a verdict.

    The original and your working tree stay as they are: the replay is a new run, elsewhere. It is compared while
    it runs, value by value, and stops where it first differs.

    Ends with 0 for `identical` or within the tolerance, with 1 for `diverged`, with 4 for `not-replayable`.
    """
    from ledger.cli.session import find_run

    if sum((plan, script, to is not None)) > 1:
        raise UsageError("--plan, --script and --to exclude each other", mend="give one of them")
    with session.reading() as book:
        run_id = find_run(book, run)
        if plan or script:
            return _plan(book, run_id, session, as_script=script)
        if to is not None:
            return _rebuild(book, run_id, to, session)
        compared = _replay(book, run_id, tolerance, keep_going)
        names = book.names()
    if session.json:
        name = names.get(compared.replay) if compared.replay else None
        render.json_line({"run": names[compared.original], "replayed_as": name, **compared.model_dump(mode="json")})
    else:
        from ledger.cli.verdict import print_verdict

        print_verdict(compared, names)
    return _CODES[compared.verdict]


def _plan(book: Book, run_id: str, session: Session, *, as_script: bool) -> int:
    """Print the plan; 4 where it cannot be carried out."""
    from ledger.cli.verdict import plan_facts
    from ledger.replay.describe import describe
    from ledger.replay.execute import make_plan
    from ledger.replay.script import script

    planned = make_plan(book, run_id)
    if as_script:
        click.echo(script(planned), nl=False)
    elif session.json:
        render.json_line(plan_facts(planned))
    else:
        for text in describe(planned):
            render.line(text)
    return _CODES["not-replayable"] if planned.reasons else 0


def _rebuild(book: Book, run_id: str, to: Path, session: Session) -> int:
    from ledger.replay.execute import NOTES, rebuild

    planned = rebuild(book, run_id, to.absolute())
    runs_it = to / NOTES / "replay.sh"
    if session.json:
        render.json_line({"run": planned.name, "directory": str(to.absolute()), "script": str(runs_it.absolute())})
    else:
        render.line(f"rebuilt {planned.name} in {to}")
        render.talk(f"{runs_it} runs it; {to / NOTES} also holds its packages and configuration")
    return 0


def _replay(book: Book, run_id: str, tolerance: float | None, keep_going: bool) -> ReplayCompared:
    from ledger.cli.outcome import invocation
    from ledger.cli.progress import Bar
    from ledger.events import RunStarted
    from ledger.replay.compare import Comparison
    from ledger.replay.execute import replay

    original = book.run(run_id)
    comparison = Comparison(original, tolerance)
    points = 0

    with Bar(original.last_step, talk=True) as bar:

        def observe(recorded: Recorded) -> None:
            nonlocal points
            if isinstance(recorded.event, RunStarted):
                bar.start(recorded.event.name)
            comparison.feed(recorded)
            if added := _points(recorded):
                points += added
                bar.note(f"compared {render.count(points, 'point')}, {_so_far(comparison, tolerance)}")
            bar.watch(recorded)

        return replay(
            book, run_id, tolerance=tolerance, keep_going=keep_going, observe=observe, invocation=invocation()
        )


def _points(recorded: Recorded) -> int:
    """How many values a fact brings to the comparison."""
    from ledger.events import CheckpointWritten, MetricsLogged, ParametersFingerprinted

    match recorded.event:
        case MetricsLogged() as logged:
            return sum(value is not None for column in logged.values.values() for value in column)
        case ParametersFingerprinted() | CheckpointWritten():
            return 1
        case _:
            return 0


def _so_far(comparison: Comparison, tolerance: float | None) -> str:
    first = comparison.first
    if first is None:
        return "identical so far" if tolerance is None else "within tolerance so far"
    return f"diverged at step {render.number(first.step)}" if first.step is not None else "diverged"
