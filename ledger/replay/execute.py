"""Replays carried out: a plan, a workspace, a new run that is compared while it runs, a verdict on both streams."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from ledger.codec import new_id
from ledger.errors import (
    CommandFailed,
    DataUnavailable,
    DigestMismatch,
    NotReplayable,
    ObjectNotFound,
    ReplayRefused,
    UsageError,
)
from ledger.events import Divergence, ReplayCompared
from ledger.hooks import ports
from ledger.read.environment import differences
from ledger.record.command import begin_replay, carry_out
from ledger.record.data import data_places
from ledger.replay.compare import Comparison
from ledger.replay.findings import look_up
from ledger.replay.layout import spelled
from ledger.replay.plan import Launch, MaterialiseData, RestoreEnvironment, WriteConfig, as_launched, plan
from ledger.replay.script import script
from ledger.replay.workspace import make_workspace
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ledger.book import Book
    from ledger.codec import Recorded
    from ledger.events import Check
    from ledger.read.state import RunState
    from ledger.record.command import Outcome, Started
    from ledger.replay.compare import Judgement
    from ledger.replay.plan import Plan, Step

Observe = Callable[["Recorded"], None]
"""Sees every event of the replay's run as it is committed, run.started first."""
NOTES: Final = ".ledger-replay"
"""Where in a rebuilt directory the script, the packages and the configuration are."""
_GONE: Final = (DataUnavailable, DigestMismatch, ObjectNotFound)
"""What a workspace cannot be made without. It shows only when the bytes are read."""
OneStep = TypeVar("OneStep", bound="Step")


def make_plan(book: Book, reference: str) -> Plan:
    """How the run would be replayed here and now, or why it cannot be; nothing is started or written."""
    return _plan(book, book.run(reference))


def rebuild(book: Book, reference: str, dest: Path) -> Plan:
    """Rebuild the run's code and data at ``dest``, to look at or to run by hand; ``dest`` must not exist or be empty.

    Beside them, in ``.ledger-replay``: the script that runs it, the packages and the configuration. Raises
    ``NotReplayable`` where code or data cannot be had, ``UsageError`` where ``dest`` is taken.
    """
    state = book.run(reference)
    planned = _plan(book, state)
    if state.code is None:
        raise NotReplayable(state.name, planned.reasons)
    try:
        make_workspace(book, planned, dest)
    except _GONE as error:
        raise NotReplayable(state.name, (str(error),)) from error
    _leave_notes(planned, dest)
    return planned


def replay(
    book: Book,
    reference: str,
    *,
    tolerance: float | None = None,
    keep_going: bool = False,
    observe: Observe | None = None,
    invocation: Sequence[str] = (),
) -> ReplayCompared:
    """Rebuild the run, run it again as a new run, compare the two; the verdict, which is on both streams.

    ``tolerance`` is a relative deviation that numbers may have. The replay is stopped at its first divergence
    unless ``keep_going``. A run that is ``not-replayable`` gets that verdict, with every reason, and nothing
    starts. Raises ``KeyboardInterrupt`` or ``CommandFailed`` where the replay was interrupted: then there is no
    verdict.
    """
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"the tolerance {tolerance} is no bound", mend="give a number from 0 on, such as 1e-6")
    original = book.run(reference)
    planned = _approved(book, _plan(book, original))
    if planned.reasons:
        return _refuse(book, planned)
    place = book.settings.scratch / "replays" / f"{original.name}-{new_id()}"
    try:
        workspace = make_workspace(book, planned, place)
    except _GONE as error:
        return _refuse(book, replace(planned, reasons=(str(error),)))
    try:
        launch = _launch(planned, place)
        run = _begin(book, original, launch, invocation or ("ledger", "replay", original.name))
        watch = _Watch(Comparison(original, tolerance), observe, keep_going=keep_going)
        outcome = _carry_out(book, run, planned, launch, place, watch)
    finally:
        workspace.discard()
    return _judge(book, original, outcome, watch.comparison)


# --- before it runs --------------------------------------------------------------------------------------


def _plan(book: Book, state: RunState) -> Plan:
    return plan(state, look_up(book, state))


def _approved(book: Book, planned: Plan) -> Plan:
    """The plan after the plugins have had their veto."""
    try:
        book.plugins.before_replay(planned)
    except ReplayRefused as refusal:
        return replace(planned, reasons=(*planned.reasons, *refusal.reasons))
    return planned


def _refuse(book: Book, planned: Plan) -> ReplayCompared:
    compared = ReplayCompared(
        original=planned.run,
        replay=None,
        verdict="not-replayable",
        differences=planned.differences,
        reasons=planned.reasons,
    )
    book.append(planned.run, compared)
    return compared


def _leave_notes(planned: Plan, dest: Path) -> None:
    notes = dest / NOTES
    notes.mkdir()
    (notes / ".gitignore").write_text("*\n")
    (notes / "replay.sh").write_text(script(planned, directory=Path(os.path.abspath(dest))))
    (notes / "replay.sh").chmod(0o755)
    for environment in _steps(planned, RestoreEnvironment):
        lines = [f"{name}=={version}\n" for name, version in sorted(environment.packages.items())]
        (notes / "requirements.txt").write_text("".join(lines))
    for config in _steps(planned, WriteConfig):
        (notes / "config.json").write_text(json.dumps(config.resolved.config, indent=2) + "\n")


def _steps(planned: Plan, kind: type[OneStep]) -> list[OneStep]:
    return [step for step in planned.steps if isinstance(step, kind)]


# --- running it ------------------------------------------------------------------------------------------


def _begin(book: Book, original: RunState, launch: ports.Launch, invocation: Sequence[str]) -> Started:
    assert original.code is not None  # noqa: S101 - without code it is not replayable
    return begin_replay(
        book,
        original,
        invocation=invocation,
        launch=launch,
        code=original.code,
        config=original.resolved,
        data=list(original.data.values()),
    )


def _launch(planned: Plan, place: Path) -> ports.Launch:
    (step,) = _steps(planned, Launch)
    environ, without = _environ(planned, place)
    return ports.Launch(tuple(spelled(word, place) for word in step.command), place / step.directory, environ, without)


def _carry_out(book: Book, run: Started, planned: Plan, launch: ports.Launch, place: Path, watch: _Watch) -> Outcome:
    (step,) = _steps(planned, Launch)
    outputs = [Path(spelled(word, place)) for word in step.outputs]
    outcome = carry_out(book, run, launch, step.world, outputs=outputs, watch=watch)
    if not outcome.stopped:
        watch.catch_up(book.store.read(run_stream(run.run_id), after=watch.position))
    return outcome


def _environ(planned: Plan, place: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Variables that the command is given, and those that it must not see."""
    environ = data_places({step.commit.name: place / step.to for step in _steps(planned, MaterialiseData)})
    without: tuple[str, ...] = ()
    for step in _steps(planned, RestoreEnvironment):
        environ |= step.variables
        without += step.unset
        if step.python_path:
            environ["PYTHONPATH"] = os.pathsep.join(spelled(word, place) for word in step.python_path)
        else:
            without += ("PYTHONPATH",)
    return environ, without


class _Watch:
    """Compares the replay's events as they are committed, and says when to stop."""

    def __init__(self, comparison: Comparison, observe: Observe | None, *, keep_going: bool) -> None:
        self.comparison = comparison
        self.position = -1
        self._observe = observe
        self._keep_going = keep_going

    def __call__(self, recorded: Recorded) -> bool:
        """Whether the command may go on."""
        self.position = recorded.position
        if self._observe is not None:
            self._observe(recorded)
        diverged = self.comparison.feed(recorded) is not None
        return self._keep_going if diverged else not self.comparison.done

    def catch_up(self, events: Iterator[Recorded]) -> None:
        """Compare what the command still wrote when it ended by itself."""
        for recorded in events:
            self(recorded)


# --- when it has run -------------------------------------------------------------------------------------


def _judge(book: Book, original: RunState, outcome: Outcome, comparison: Comparison) -> ReplayCompared:
    if outcome.status == "interrupted" and not outcome.stopped and not comparison.done:
        if outcome.signal == "SIGINT":
            raise KeyboardInterrupt
        raise CommandFailed(
            f"the replay {outcome.name} was interrupted by {outcome.signal}: there is no verdict",
            mend=f"replay {original.name} again; a process that is killed unasked is often out of memory",
        )
    replayed = book.run(outcome.run_id)
    judgement = comparison.finish(replayed, stopped=outcome.stopped)
    if not outcome.stopped:
        judgement = _with_checks(judgement, book.plugins.compare_runs(original, replayed))
    compared = ReplayCompared(
        original=original.id,
        replay=replayed.id,
        verdict=judgement.verdict,
        checks=judgement.checks,
        first_divergence=judgement.first_divergence,
        differences=tuple(_differences(original, replayed)),
    )
    book.append(replayed.id, compared)
    book.append(original.id, compared)
    return compared


def _with_checks(judgement: Judgement, checks: Sequence[Check]) -> Judgement:
    """The judgement with what plugins checked: one that failed is a divergence, too."""
    failed = next((check for check in checks if not check.passed), None)
    judgement = replace(judgement, checks=(*judgement.checks, *checks))
    if failed is None or judgement.verdict == "diverged":
        return judgement
    found = Divergence(what=failed.name, expected=failed.expected, actual=failed.actual)
    return replace(judgement, verdict="diverged", first_divergence=found)


def _differences(original: RunState, replayed: RunState) -> list[str]:
    if original.environment is None or replayed.environment is None:
        return []
    return differences(original.environment, as_launched(replayed.environment, original.environment))
