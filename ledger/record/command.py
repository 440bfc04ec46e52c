"""A recorded command: the parent that captures, launches, watches and ends a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ledger.book import Book, this_process
from ledger.errors import FencedAttempt, LedgerError, Unavailable, UsageError
from ledger.events import (
    CodeCaptured,
    ConfigResolved,
    DataCommitted,
    Event,
    GpuTimeUsed,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    RunStarted,
    World,
)
from ledger.hooks.ports import Launch
from ledger.read.stored import read_run
from ledger.record.capture.console import Console
from ledger.record.capture.family import Speakers
from ledger.record.capture.gpu_time import Meter
from ledger.record.capture.interpreter import interpreter_of
from ledger.record.capture.secrets import Redactor
from ledger.record.data import commit_data, data_places, pin_data, place
from ledger.record.facts import begin, capture, environment, new_run, resolved_config, written_artifact
from ledger.record.fetched import discard_fetched, noted_attempt
from ledger.record.heartbeat import Heartbeat
from ledger.record.mirroring import require_mirrors, start_mirrors
from ledger.record.supervise import Exit, interruptible, supervise, undisturbed
from ledger.record.world import node_rank
from ledger.record.writer import Writer
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.codec import Recorded
    from ledger.read.state import RunState

Watch = Callable[["Recorded"], bool]
"""Sees every event of the run as it is committed; False ends the command."""

_STOPPED_FROM_OUTSIDE: Final = {"SIGHUP": 129, "SIGINT": 130, "SIGKILL": 137, "SIGTERM": 143}


@dataclass(frozen=True)
class Request:
    """A command to record."""

    kind: Literal["train", "command"]
    invocation: Sequence[str]
    """What the user typed."""
    command: Sequence[str]
    directory: Path
    world: World = field(default_factory=World)
    seed: int | None = None
    config: Mapping[str, Any] | None = None
    overrides: Sequence[str] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    """URI of each data set by name."""
    outputs: Sequence[Path] = ()
    """Files and directories to keep when the command has ended."""
    tags: Sequence[str] = ()
    snapshot: bool = True
    """Whether local data is copied into the ledger's objects, not only pinned."""
    commit: str | None = None
    """A message: what is uncommitted in the data is committed with it before they are pinned."""


@dataclass(frozen=True)
class Started:
    """A run with its first facts in the log, its command not yet launched."""

    run_id: str
    name: str
    attempt: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a recorded command ended."""

    run_id: str
    name: str
    status: Literal["completed", "failed", "interrupted"]
    exit_code: int | None
    signal: str | None
    error: str | None
    stopped: bool
    """Whether ``watch`` ended it."""
    notes: tuple[str, ...] = ()
    """What of it was not kept, and why."""


def record_command(
    book: Book, request: Request, *, watch: Watch | None = None, on_start: Callable[[Started], None] | None = None
) -> Outcome:
    """Record ``request`` from its data to its end.

    Nothing starts where a launcher finds what it cannot do, the data cannot be pinned, the log cannot be written or,
    for a training, checkpoints cannot be stored: the exception propagates.
    """
    redactor = Redactor(os.environ)
    config = None if request.config is None else resolved_config(request.config, request.overrides, redactor)
    if config and config.withheld and request.kind == "train":
        raise UsageError(
            f"{', '.join(config.withheld)}: secrets are not recorded, and a training reads its recipe from the log",
            mend="hand it over in an environment variable, and let the task read it there",
        )
    if request.kind == "train":
        book.require_checkpoint_place()
    require_mirrors(book)
    require_launch(book, Launch(tuple(request.command), request.directory, {}), request.world)
    if request.commit:
        commit_data(book, request.data.values(), request.commit)
    data = [pin_data(book, name, _snapshot(uri, request.snapshot)) for name, uri in request.data.items()]
    places = data_places({each.name: place(book, each) for each in data})  # fetched before anything is on record
    run_id, name = new_run(book)
    started = RunStarted(
        name=name,
        kind=request.kind,
        invocation=redactor.argv(request.invocation),
        command=redactor.argv(request.command),
        world=request.world,
        directory=str(request.directory),
        outputs=tuple(str(path) for path in request.outputs),
        seed=request.seed,
        tags=tuple(request.tags),
        project=book.settings.project,
        user=book.settings.user,
        process=this_process(),
    )
    local = [Path(commit.path) for commit in data if commit.uri.startswith("file:")]
    captured = capture(
        book,
        request.directory,
        command=request.command,
        entry_point=_entry_point(request),
        exclude=[*local, *_inside(request)],
    )
    begin(book, started, run_id, *captured, *data, *([config] if config else []))
    start_mirrors(book, run_id, follow=True)
    run = Started(run_id, name)
    if on_start:
        on_start(run)
    launch = Launch(tuple(request.command), request.directory, places)
    return carry_out(book, run, launch, request.world, outputs=request.outputs, watch=watch)


def require_launch(book: Book, launch: Launch, world: World) -> None:
    """Raise what would keep the launcher from starting this, while nothing is on record. It starts nothing."""
    with interruptible():  # a plugin may take for ever
        book.plugins.launch(replace(launch, environ=_seen(surroundings(book), launch)), world)


def surroundings(book: Book) -> dict[str, str]:
    """The variables of a command that is launched from here, without its own."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LEDGER_RESUME_")} | book.settings.environ()


def begin_replay(
    book: Book,
    original: RunState,
    *,
    invocation: Sequence[str],
    launch: Launch,
    world: World,
    code: CodeCaptured,
    config: ConfigResolved | None,
    data: Sequence[DataCommitted],
    segment: tuple[float | None, float | None] | None,
) -> Started:
    """Start the run that replays ``original``: the same facts under a new name, and the environment of now."""
    environ = _seen(os.environ, launch)
    interpreter = interpreter_of(launch.command, directory=launch.directory, environ=environ)
    run_id, name = new_run(book)
    started = original.started.model_copy(
        update={
            "name": name,
            "kind": "replay",
            "invocation": Redactor(os.environ).argv(invocation),
            "command": launch.command,
            "world": world,
            "directory": str(launch.directory),
            "replay_of": original.id,
            "segment": segment,
            "tags": (),
            "project": book.settings.project,
            "user": book.settings.user,
            "process": this_process(),
        }
    )
    now = environment(book, interpreter, environ)
    facts: list[Event] = [code, now, *data, *([config] if config else [])]
    begin(book, started, run_id, *facts)
    start_mirrors(book, run_id, follow=True)
    return Started(run_id, name)


@undisturbed()
def carry_out(
    book: Book,
    run: Started,
    launch: Launch,
    world: World,
    *,
    outputs: Sequence[Path] = (),
    watch: Watch | None = None,
) -> Outcome:
    """Launch a run's command, watch it, keep what it printed and wrote, and record how it ended."""
    watching = _Watching(book, run, watch)
    heartbeat = Heartbeat(book, run.run_id, run.attempt)
    try:
        ended, console, spent = _carried_out(book, run, launch, world, watching.tick)
        noted = noted_attempt(book, run.run_id, run.attempt)
    except LedgerError as error:
        # The run is in the log already: that it never came to run is a fact too.
        told = Redactor(os.environ).text(str(error))
        book.append(run.run_id, RunFailed(exception=told), attempt=run.attempt)
        raise
    except KeyboardInterrupt as stopped:  # before it was launched
        book.append(run.run_id, RunInterrupted(signal=str(stopped) or "SIGINT"), attempt=run.attempt)
        raise
    finally:
        heartbeat.stop()
        discard_fetched(book, run.run_id, run.attempt)
    book.recover()  # what processes of the command logged that did not live to see it into the log
    watching.tick()
    facts: list[Event] = [*spent, console.store(book.objects)]
    if console.failure:
        facts.append(RunAnnotated(text=f"the console was not kept whole: {console.failure}"))
    facts += [_output(book, launch.directory, path) for path in outputs]
    notes = tuple(fact.text for fact in facts if isinstance(fact, RunAnnotated))
    return replace(_end(book, run, ended, facts, noted), notes=notes)


@undisturbed()
def carry_out_beside(book: Book, run: Started, launch: Launch, world: World) -> Outcome:
    """Launch this node's part of a run that another node records, and keep what it printed."""
    try:
        ended, console, spent = _carried_out(book, run, launch, world, None)
    finally:
        discard_fetched(book, run.run_id, run.attempt)
    book.recover()
    writer = Writer(book, run.run_id, attempt=run.attempt, name="ledger")
    with suppress(FencedAttempt), closing(writer):  # the run may have gone on without this node
        writer.append(*spent, console.store(book.objects))
    return _outcome(run, _ending(ended, None), ended)


def _carried_out(
    book: Book, run: Started, launch: Launch, world: World, on_tick: Callable[[], bool] | None
) -> tuple[Exit, Console, list[GpuTimeUsed]]:
    identity = {"LEDGER_RUN": run.run_id, "LEDGER_ATTEMPT": str(run.attempt), "PYTHONUNBUFFERED": "1"}
    whole = replace(launch, environ=_seen({**surroundings(book), **identity}, launch))
    with interruptible():  # a plugin may take for ever
        argv = book.plugins.launch(whole, world)
    node = f"-node{node_rank(world)}" if world.nodes > 1 else ""
    spool = book.settings.scratch / "consoles" / f"{run.run_id}-{run.attempt}{node}.txt"
    spool.parent.mkdir(parents=True, exist_ok=True)
    console = Console(spool, Redactor(os.environ))
    speakers = Speakers(book.settings.scratch, run.run_id)
    writer = Writer(book, run.run_id, attempt=run.attempt, name="ledger")
    meter = Meter(writer.append, speakers, supervising=True)
    try:
        ended = supervise(argv, cwd=launch.directory, environ=whole.environ, console=console, on_tick=on_tick)
    finally:
        spent = meter.stop()
        speakers.forget()
        # Once a newer attempt has begun, what still waited in this journal is refused, and remarked in the log.
        with suppress(FencedAttempt):
            writer.close()
    return ended, console, spent


def _seen(environ: Mapping[str, str], launch: Launch) -> dict[str, str]:
    """The variables that a launched command sees, of those of this process and its own."""
    return {name: value for name, value in environ.items() if name not in launch.without} | dict(launch.environ)


class _Watching:
    """Hands the events of one attempt to a watcher as they are committed."""

    def __init__(self, book: Book, run: Started, watch: Watch | None) -> None:
        self._watch = watch
        self._book = book
        self._run = run.run_id
        self._attempt = run.attempt
        self._seen = 0
        self._tail = self._follow()

    def tick(self) -> bool:
        """Show what is new; whether the command may go on."""
        if self._watch is None:
            return True
        try:
            for recorded in self._tail:
                if recorded is None:
                    return True
                self._seen = recorded.global_position
                # A newer attempt is of this launch, too: its launcher has started the processes again.
                if (recorded.metadata.attempt or 0) >= self._attempt and not self._watch(recorded):
                    return False
        except Unavailable:  # training goes on, and what it logs waits in its journal
            self._tail = self._follow()
        return True

    def _follow(self) -> Iterator[Recorded | None]:
        return self._book.store.subscribe(after=self._seen, stream=run_stream(self._run))


def _end(book: Book, run: Started, ended: Exit, facts: list[Event], noted: int) -> Outcome:
    try:
        state = read_run(book.store, run_stream(run.run_id))
        run = replace(run, attempt=_newest_of_this_process(state, run.attempt))
        said = state.attempt.ended  # a rank that failed has said why already
        known = said or _ending(ended, state)
    except Unavailable:  # the end waits in a journal, and says less
        run = replace(run, attempt=noted)
        said, known = None, _ending(ended, None)
    if said is None:
        facts.append(known)
    with closing(Writer(book, run.run_id, attempt=run.attempt, name="ledger")) as writer:
        writer.append(*facts)
    return _outcome(run, known, ended)


def _newest_of_this_process(state: RunState, attempt: int) -> int:
    """The attempt that ends now: ``attempt``, or one that its own processes began when they were started again."""
    newest, me = state.attempt, this_process()
    mine = newest.number > attempt and (newest.process.host, newest.process.pid) == (me.host, me.pid)
    return newest.number if mine else attempt


def _outcome(run: Started, end: RunCompleted | RunFailed | RunInterrupted, ended: Exit) -> Outcome:
    match end:
        case RunCompleted():
            return Outcome(run.run_id, run.name, "completed", 0, None, None, ended.stopped)
        case RunInterrupted():
            return Outcome(run.run_id, run.name, "interrupted", ended.code, end.signal, None, ended.stopped)
        case RunFailed():
            return Outcome(run.run_id, run.name, "failed", ended.code, ended.signal, end.exception, ended.stopped)


def _ending(ended: Exit, state: RunState | None) -> RunCompleted | RunFailed | RunInterrupted:
    step = state.last_step if state else None
    # A shell, torchrun and well-behaved programs turn a signal's end into 128 + its number.
    by_code = next((name for name, code in _STOPPED_FROM_OUTSIDE.items() if code == ended.code), None)
    signal = ended.interrupted_by or ended.signal or by_code
    if ended.stopped:
        return RunInterrupted(signal=signal or "SIGTERM", step=step)
    if ended.code == 0:
        return RunCompleted(step=step, metrics=state.last_metrics if state else {})
    if signal in _STOPPED_FROM_OUTSIDE:
        return RunInterrupted(signal=signal, step=step)
    told = (ended.last_traceback or ended.last_line or "").strip().splitlines()
    died = f"killed by {ended.signal}" if ended.signal else f"exit code {ended.code}"
    return RunFailed(
        exception=told[-1] if told else died, traceback=ended.last_traceback, exit_code=ended.code, step=step
    )


def _output(book: Book, directory: Path, path: Path) -> Event:
    try:
        return written_artifact(book, directory, path)
    except LedgerError as error:
        return RunAnnotated(text=f"output {path} was not kept: {error}")


def _entry_point(request: Request) -> str | None:
    """The first word of the command that names a file of the user's: not an interpreter by its absolute path."""
    program, *arguments = request.command
    words = arguments if Path(program).is_absolute() else request.command
    return next((word for word in words if (request.directory / word).is_file()), None)


def _inside(request: Request) -> list[Path]:
    """Outputs that an earlier run left here: results, not code."""
    return [request.directory / path for path in request.outputs]


def _snapshot(uri: str, wanted: bool) -> str:
    if wanted or not uri.startswith("file:"):
        return uri
    return uri + ("&" if "?" in uri else "?") + "snapshot=no"
