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
    from ledger.events import Divergence, ReplayCompared
    from ledger.replay.part import Scope
    from ledger.replay.plan import Plan

_CODES: Final = {"identical": 0, "within-tolerance": 0, "diverged": 1, "not-replayable": 4}


@command(
    "replay",
    example="ledger replay run-7 --plan\nledger replay run-7\n"
    "ledger replay run-7 --from-step 500 --until-step 1000\n"
    "ledger replay run-7 --tolerance 1e-6 --json | jq .verdict",
    json="the verdict, or with --plan the plan,",
)
@run_argument()
@click.option("--plan", is_flag=True, help="Only print the steps, and what is missing or differs.")
@click.option("--script", is_flag=True, help="Only print the steps as a shell script.")
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Only rebuild code and data in DIR.")
@click.option("--from-step", type=float, metavar="N", help="Go on from the newest checkpoint at or before step N.")
@click.option("--until-step", type=float, metavar="M", help="Compare up to step M, and stop there.")
@click.option(
    "--nproc",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train with N processes, whatever the original did: give --tolerance too.",
)
@click.option("--tolerance", type=float, metavar="REL", help="Let numbers deviate by REL of their size.")
@click.option("--keep-going", is_flag=True, help="Go on after the first divergence, and list all.")
def replay(
    session: Session,
    run: str,
    plan: bool,
    script: bool,
    to: Path | None,
    from_step: float | None,
    until_step: float | None,
    nproc: int | None,
    tolerance: float | None,
    keep_going: bool,
) -> int:
    """Rebuild a run, run it again, give a verdict.

    The original and your working tree stay as they are: the replay is a new run, elsewhere. It is compared while
    it runs, value by value, and stops where it first differs.

    With --from-step, --until-step or both, a part of the run is repeated and judged.

    Ends with 0 for `identical` or within the tolerance, with 1 for `diverged`, with 4 for `not-replayable`.
    """
    from ledger.cli.behind import tell_of_mirrors
    from ledger.cli.session import find_run
    from ledger.replay.part import Scope

    if sum((plan, script, to is not None)) > 1:
        raise UsageError("--plan, --script and --to exclude each other", mend="give one of them")
    scope = Scope(from_step, until_step, nproc)
    with session.reading() as book:
        run_id = find_run(book, run)
        if plan or script:
            return _plan(book, run_id, scope, session, as_script=script)
        if to is not None:
            return _rebuild(book, run_id, scope, to, session)
        compared = _replay(book, run_id, scope, tolerance, keep_going)
        names = book.names()
        tell_of_mirrors(book, *filter(None, (compared.original, compared.replay)))
    if session.json:
        name = names.get(compared.replay) if compared.replay else None
        render.json_line({"run": names[compared.original], "replayed_as": name, **compared.model_dump(mode="json")})
    else:
        from ledger.cli.verdict import print_verdict

        print_verdict(compared, names)
    return _CODES[compared.verdict]


def _plan(book: Book, run_id: str, scope: Scope, session: Session, *, as_script: bool) -> int:
    """Print the plan; 4 where it cannot be carried out."""
    from ledger.cli.verdict import plan_facts
    from ledger.replay.describe import describe
    from ledger.replay.execute import make_plan
    from ledger.replay.script import script

    planned = make_plan(book, run_id, scope)
    if as_script:
        click.echo(script(planned), nl=False)
    elif session.json:
        render.json_line(plan_facts(planned))
    else:
        for text in describe(planned):
            render.line(text)
    return _CODES["not-replayable"] if planned.reasons else 0


def _rebuild(book: Book, run_id: str, scope: Scope, to: Path, session: Session) -> int:
    from ledger.replay.execute import NOTES, rebuild

    planned = rebuild(book, run_id, to.absolute(), scope)
    runs_it = to / NOTES / "replay.sh"
    if session.json:
        render.json_line({"run": planned.name, "directory": str(to.absolute()), "script": str(runs_it.absolute())})
    else:
        render.line(f"rebuilt {planned.name} in {to}")
        render.talk(f"{runs_it} runs it; {to / NOTES} also holds its packages and configuration")
    return 0


def _replay(book: Book, run_id: str, scope: Scope, tolerance: float | None, keep_going: bool) -> ReplayCompared:
    from ledger.cli.outcome import invocation
    from ledger.cli.progress import Bar
    from ledger.events import RunStarted
    from ledger.replay.execute import replay

    last = book.run(run_id).last_step
    until = last if scope.until_step is None or last is None else min(scope.until_step, last)
    points = 0

    with Bar(until, talk=True) as bar:

        def observe(recorded: Recorded, first: Divergence | None) -> None:
            nonlocal points
            if isinstance(recorded.event, RunStarted):
                bar.start(recorded.event.name)
            if added := _points(recorded):
                points += added
                bar.note(f"compared {render.count(points, 'point')}, {_so_far(first, tolerance)}")
            bar.watch(recorded)

        return replay(
            book,
            run_id,
            scope,
            tolerance=tolerance,
            keep_going=keep_going,
            announce=_announce,
            observe=observe,
            invocation=invocation(),
        )


def _announce(planned: Plan) -> None:
    """Say aloud, before it costs anything, where a part begins and what not to expect."""
    part = planned.part
    for lost in part.passed_over:
        render.talk(f"passed over {lost}")
    if part.checkpoint:
        render.talk(f"the replay goes on from checkpoint {part.checkpoint.name}")
    elif part.from_step is not None:
        step = render.number(part.from_step)
        render.talk(f"there is no checkpoint at or before step {step}: the replay starts at the beginning")
    for reason in planned.inexact:
        render.talk(f"the same bits are not to be expected: {reason}")


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


def _so_far(first: Divergence | None, tolerance: float | None) -> str:
    if first is None:
        return "identical so far" if tolerance is None else "within tolerance so far"
    return f"diverged at step {render.number(first.step)}" if first.step is not None else "diverged"
