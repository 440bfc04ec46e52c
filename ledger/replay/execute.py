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
    CheckpointUnavailable,
    CommandFailed,
    DataUnavailable,
    DigestMismatch,
    NotReplayable,
    ObjectNotFound,
    ReplayRefused,
    UsageError,
)
from ledger.events import NOT_STORED, Divergence, ParametersFingerprinted, ReplayCompared
from ledger.hooks import ports
from ledger.read.environment import differences
from ledger.record.capture.secrets import Redactor
from ledger.record.command import begin_replay, carry_out
from ledger.record.data import data_places
from ledger.record.mirroring import require_mirrors, start_mirrors
from ledger.replay.compare import Comparison
from ledger.replay.findings import look_up
from ledger.replay.layout import spelled
from ledger.replay.part import Scope
from ledger.replay.plan import (
    Launch,
    MaterialiseData,
    RestoreCheckpoint,
    RestoreEnvironment,
    WriteConfig,
    as_launched,
    environment_of,
    part_of,
    plan,
)
from ledger.replay.script import script
from ledger.replay.workspace import CheckpointLost, make_workspace
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ledger.book import Book
    from ledger.codec import Recorded
    from ledger.events import Check, EnvironmentCaptured
    from ledger.read.state import RunState
    from ledger.record.command import Outcome, Started
    from ledger.replay.compare import Judgement
    from ledger.replay.plan import Plan, Step
    from ledger.replay.workspace import Workspace

Observe = Callable[["Recorded", Divergence | None], None]
"""Sees every event of the replay's run as it is committed, run.started first, and the first divergence so far."""
WHOLE_RUN: Final = Scope()
NOTES: Final = ".ledger-replay"
"""Where in a rebuilt directory the script, the packages and the configuration are."""
_GONE: Final = (DataUnavailable, DigestMismatch, ObjectNotFound)
"""What a workspace cannot be made without. It shows only when the bytes are read."""
Prepared = TypeVar("Prepared")
OneStep = TypeVar("OneStep", bound="Step")


def make_plan(book: Book, reference: str, scope: Scope = WHOLE_RUN) -> Plan:
    """How the run would be replayed here and now, or why it cannot be; nothing is started or written.

    Raises ``UsageError`` or ``CheckpointUnavailable`` for a part that the run does not have.
    """
    return _plan(book, book.run(reference), scope)


def rebuild(book: Book, reference: str, dest: Path, scope: Scope = WHOLE_RUN) -> Plan:
    """Rebuild the run's code and data at ``dest``, to look at or to run by hand; ``dest`` must not exist or be empty.

    Beside them the checkpoint that a part goes on from and, in ``.ledger-replay``, the script that runs it, the
    packages and the configuration. Raises ``NotReplayable`` where code or data cannot be had, ``UsageError`` where
    ``dest`` is taken, and what ``make_plan`` raises.
    """
    state = book.run(reference)
    if state.code is None:
        raise NotReplayable(state.name, _plan(book, state, scope).reasons)

    def prepare(planned: Plan) -> Plan:
        make_workspace(book, planned, dest)
        return planned

    try:
        planned = _prepared(book, state, scope, prepare)
    except _GONE as error:
        raise NotReplayable(state.name, (str(error),)) from error
    _leave_notes(planned, dest)
    return planned


def replay(
    book: Book,
    reference: str,
    scope: Scope = WHOLE_RUN,
    *,
    tolerance: float | None = None,
    keep_going: bool = False,
    announce: Callable[[Plan], None] | None = None,
    observe: Observe | None = None,
    invocation: Sequence[str] = (),
) -> ReplayCompared:
    """Rebuild the run, run it or a part of it again as a new run, compare the two; the verdict, on both streams.

    ``tolerance`` is a relative deviation that numbers may have. The replay is stopped at its first divergence
    unless ``keep_going``, and where the part ends. ``announce`` gets the plan before it is carried out. A run that is
    ``not-replayable`` gets that verdict, with every reason, and nothing starts. Raises what ``make_plan`` raises,
    ``Unavailable`` where its checkpoints could not be stored, and ``KeyboardInterrupt`` or ``CommandFailed`` where
    the replay was interrupted: then there is no verdict.
    """
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"the tolerance {tolerance} is no bound", mend="give a number from 0 on, such as 1e-6")
    require_mirrors(book)
    original = book.run(reference)
    place = book.settings.scratch / "replays" / f"{original.name}-{new_id()}"

    def prepare(planned: Plan) -> tuple[Plan, Workspace | None]:
        planned = _approved(book, planned)
        if original.written and not planned.reasons:
            book.require_checkpoint_place()  # it will write them, too: that it could not would look like a divergence
        try:
            return planned, None if planned.reasons else make_workspace(book, planned, place)
        except _GONE as error:
            return replace(planned, reasons=(str(error),)), None

    planned, workspace = _prepared(book, original, scope, prepare)
    if workspace is None:
        return _refuse(book, planned)
    try:
        if announce is not None:
            announce(planned)
        launch = _launch(planned, place)
        run = _begin(book, original, planned, launch, invocation or ("ledger", "replay", original.name))
        watch = _Watch(Comparison(original, planned.part, tolerance), observe, keep_going=keep_going)
        outcome = _carry_out(book, run, planned, launch, place, watch)
    finally:
        workspace.discard()
    compared = _judge(book, original, planned, outcome, watch.comparison)
    start_mirrors(book, original.id, run.run_id)  # the verdict came after the end that their mirrors waited for
    return compared


# --- before it runs --------------------------------------------------------------------------------------


def _plan(book: Book, state: RunState, scope: Scope, passed_over: Collection[tuple[str, str]] = ()) -> Plan:
    part = part_of(state, scope, passed_over)
    return plan(state, look_up(book, state, part), part)


def _prepared(book: Book, state: RunState, scope: Scope, prepare: Callable[[Plan], Prepared]) -> Prepared:
    """What ``prepare`` makes of the plan.

    Whether a checkpoint is whole shows when it is read: one that is not is passed over for an older one.
    """
    passed_over: list[tuple[str, str]] = []
    while True:
        try:
            return prepare(_plan(book, state, scope, passed_over))
        except CheckpointLost as lost:
            passed_over.append((lost.checkpoint.uri, str(lost)))


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
        inexact=planned.inexact,
        segment=planned.segment,
    )
    book.append(planned.run, compared)
    start_mirrors(book, planned.run)
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


def _begin(book: Book, original: RunState, planned: Plan, launch: ports.Launch, invocation: Sequence[str]) -> Started:
    assert original.code is not None  # noqa: S101 - without code it is not replayable
    config = next((step.resolved for step in _steps(planned, WriteConfig)), None)
    (step,) = _steps(planned, Launch)
    return begin_replay(
        book,
        original,
        invocation=invocation,
        launch=launch,
        world=step.world,
        code=original.code,
        config=config,
        data=list(original.data.values()),
        segment=planned.segment,
    )


def _launch(planned: Plan, place: Path) -> ports.Launch:
    (step,) = _steps(planned, Launch)
    environ, without = _environ(planned, place)
    return ports.Launch(tuple(spelled(word, place) for word in step.command), place / step.directory, environ, without)


def _carry_out(book: Book, run: Started, planned: Plan, launch: ports.Launch, place: Path, watch: _Watch) -> Outcome:
    (step,) = _steps(planned, Launch)
    outputs = [Path(spelled(word, place)) for word in step.outputs]
    outcome = carry_out(book, run, launch, step.world, outputs=outputs, watch=watch)
    late = book.store.read(run_stream(run.run_id), after=watch.position)
    if not outcome.stopped:
        watch.catch_up(late)
    elif watch.comparison.first is not None:
        # Fingerprints come from behind: one of an earlier step than what ended the replay may just have arrived.
        watch.catch_up(recorded for recorded in late if isinstance(recorded.event, ParametersFingerprinted))
    return outcome


def _environ(planned: Plan, place: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Variables that the command is given, and those that it must not see."""
    environ = data_places({step.commit.name: place / step.to for step in _steps(planned, MaterialiseData)})
    without: tuple[str, ...] = ()
    for kept in _steps(planned, RestoreCheckpoint):
        environ |= {
            "LEDGER_RESUME_FROM": str(place / kept.to),
            "LEDGER_RESUME_STEP": repr(kept.checkpoint.step),
        }
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
        first = self.comparison.feed(recorded)
        if self._observe is not None:
            self._observe(recorded, first)
        return self._keep_going if first is not None else not self.comparison.done

    def catch_up(self, events: Iterator[Recorded]) -> None:
        """Compare what the command still wrote when it ended by itself."""
        for recorded in events:
            self(recorded)


# --- when it has run -------------------------------------------------------------------------------------


def _judge(book: Book, original: RunState, planned: Plan, outcome: Outcome, comparison: Comparison) -> ReplayCompared:
    if outcome.status == "interrupted" and not outcome.stopped and not comparison.done:
        if outcome.signal == "SIGINT":
            raise KeyboardInterrupt
        raise CommandFailed(
            f"the replay {outcome.name} was interrupted by {outcome.signal}: there is no verdict",
            mend=f"replay {original.name} again; a process that is killed unasked is often out of memory",
        )
    replayed = book.run(outcome.run_id)
    judgement = comparison.finish(replayed, stopped=outcome.stopped)
    if judgement.only_lacks and any(NOT_STORED in note.tags for note in replayed.notes):
        raise CheckpointUnavailable(
            f"the replay {outcome.name} could not store its checkpoints, and is as the original as far as it came: "
            "no verdict",
            mend=f"`ledger show {outcome.name}` tells why; mend that, and replay {original.name} again",
        )
    if not outcome.stopped and planned.part.whole:
        judgement = _with_checks(judgement, _without_secrets(book.plugins.compare_runs(original, replayed)))
    compared = ReplayCompared(
        original=original.id,
        replay=replayed.id,
        verdict=judgement.verdict,
        checks=judgement.checks,
        first_divergence=judgement.first_divergence,
        differences=tuple(_differences(environment_of(original, planned.part), replayed.environment)),
        inexact=planned.inexact,
        segment=planned.segment,
    )
    book.append(replayed.id, compared)
    book.append(original.id, compared)
    return compared


def _without_secrets(checks: Sequence[Check]) -> list[Check]:
    """What plugins checked, or why they could not, as it goes on record."""
    redactor = Redactor(os.environ)
    texts = ("name", "expected", "actual")
    return [
        check.model_copy(update={field: redactor.text(getattr(check, field)) for field in texts}) for check in checks
    ]


def _with_checks(judgement: Judgement, checks: Sequence[Check]) -> Judgement:
    """The judgement with what plugins checked: one that failed is a divergence, too."""
    failed = next((check for check in checks if not check.passed), None)
    judgement = replace(judgement, checks=(*judgement.checks, *checks))
    if failed is None or judgement.verdict == "diverged":
        return judgement
    found = Divergence(what=failed.name, expected=failed.expected, actual=failed.actual)
    return replace(judgement, verdict="diverged", first_divergence=found)


def _differences(then: EnvironmentCaptured | None, now: EnvironmentCaptured | None) -> list[str]:
    return differences(then, as_launched(now, then)) if then and now else []
