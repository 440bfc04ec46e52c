"""What a replay will do, decided before it does anything: a run's state and some findings in, a plan out. Pure."""

from __future__ import annotations

import os.path
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ledger.read.environment import differences
from ledger.record.capture.secret_names import is_secret_file
from ledger.record.capture.secret_shapes import WITHHELD
from ledger.replay.compare import status
from ledger.replay.inexact import inexact
from ledger.replay.layout import CHECKPOINT, InWorkspace, Layout, is_below
from ledger.replay.part import WHOLE, Part, Scope, choose, replayed, resolved, step_text
from ledger.replay.witnesses import Witnesses

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ledger.events import (
        CheckpointWritten,
        CodeCaptured,
        ConfigResolved,
        DataCommitted,
        EnvironmentCaptured,
        OmittedFile,
        World,
    )
    from ledger.hooks.ports import Availability
    from ledger.objects.manifest import Entry, Manifest
    from ledger.read.state import RunState
    from ledger.replay.layout import Word

_SHOWN: Final = 5
_PYTHON: Final = re.compile(r"python[\d.]*|pypy[\d.]*")
_PYTHONPATH: Final = "PYTHONPATH"
_NOT_OURS: Final = frozenset({_PYTHONPATH, "LD_LIBRARY_PATH", "LD_PRELOAD", "ROCR_VISIBLE_DEVICES"})
_NOT_OURS_PREFIXES: Final = ("MASTER_", "CUDA_VISIBLE_", "HIP_VISIBLE_", "NVIDIA_VISIBLE_", "TORCHELASTIC_")
"""Variables that say where things are on a machine, or that a launcher sets: they stay what they are here."""


@dataclass(frozen=True)
class CheckOutCode:
    """Rebuild the working tree from the objects."""

    code: CodeCaptured
    to: str
    """Where the tree goes, relative to the workspace, as all paths of a plan are."""


@dataclass(frozen=True)
class RestoreEnvironment:
    """Give the command the variables that it had; packages are compared, never installed."""

    packages: Mapping[str, str]
    """Version of each, as recorded."""
    other_packages: Mapping[str, str]
    """Those of them that are not installed here, or in another version."""
    variables: Mapping[str, str]
    unset: tuple[str, ...]
    """Variables that are set here and were not then."""
    python_path: tuple[Word, ...]


@dataclass(frozen=True)
class MaterialiseData:
    """Fetch one data set, verified."""

    commit: DataCommitted
    to: str


@dataclass(frozen=True)
class WriteConfig:
    """Give the run the configuration, through its log."""

    resolved: ConfigResolved


@dataclass(frozen=True)
class RestoreCheckpoint:
    """Fetch a checkpoint, verified, and give it to the command to go on from."""

    checkpoint: CheckpointWritten
    to: str


@dataclass(frozen=True)
class Launch:
    """Start the command."""

    command: tuple[Word, ...]
    directory: str
    world: World
    seed: int | None
    outputs: tuple[Word, ...]
    """Files and directories to keep when it has ended."""
    typed: tuple[str, ...] = ()
    """What the user typed to train from a recipe: the trainer's own processes cannot be started by hand."""


@dataclass(frozen=True)
class Compare:
    """Compare what the replay does with what is on record, while it does it."""

    metrics: int
    points: int
    fingerprints: int
    checkpoints: int
    artifacts: int
    exit_status: str | None
    """None where the original was interrupted, and where a part ends before it."""
    until: float | None
    """The last step that is compared."""
    after: float | None = None
    """The step that is gone on from; None: from the beginning."""


Step = CheckOutCode | RestoreEnvironment | MaterialiseData | WriteConfig | RestoreCheckpoint | Launch | Compare


@dataclass(frozen=True)
class Plan:
    """The steps of a replay in their order. With ``reasons`` it cannot be carried out."""

    run: str
    """UUID of the original."""
    name: str
    steps: tuple[Step, ...]
    reasons: tuple[str, ...] = ()
    """Why the run is not replayable, each with its mend."""
    differences: tuple[str, ...] = ()
    """What differs between the environment of then and of now, most important first."""
    warnings: tuple[str, ...] = ()
    """What may keep the replay from being exact, and is not certain to."""
    inexact: tuple[str, ...] = ()
    """Why the same bits are not to be expected."""
    part: Part = WHOLE
    segment: tuple[float | None, float | None] | None = None
    """As ``RunStarted`` and ``ReplayCompared`` record it."""


@dataclass(frozen=True)
class Findings:
    """What there is to know beside the log, looked up before planning."""

    environment: EnvironmentCaptured
    """What the command would run on if it were started here and now."""
    interpreter: str
    """Path of the Python that runs Ledger."""
    executable: bool
    """Whether the command's first word, or what its Python would be here, can be started."""
    alive: bool | None = False
    """Whether the run's writer still lives; None if that cannot be seen from here."""
    tree: Manifest | None = None
    """Of the code; None if it is gone from the objects."""
    missing: tuple[Entry, ...] = ()
    """Entries of the tree whose objects are gone."""
    data: Mapping[str, Availability] = field(default_factory=dict)
    """Of each data set by name."""
    launcher: str = ""
    """Why the launcher cannot start so many processes; empty if it can."""
    uncaptured: tuple[str, ...] = ()
    """Words of the command that name something in the code's directory which was not captured."""
    resized: ConfigResolved | None = None
    """The configuration for the number of processes that is asked for, where that is another than then."""


def part_of(state: RunState, scope: Scope, passed_over: Collection[tuple[str, str]] = ()) -> Part:
    """The part of the run that ``scope`` means. Raises ``UsageError``, ``CheckpointUnavailable``."""
    return choose(state, scope, Witnesses.of(state).until, passed_over)


def plan(state: RunState, findings: Findings, part: Part | None = None) -> Plan:
    """How to replay the run or a part of it, or all the reasons why it cannot be done."""
    part = part or part_of(state, Scope())
    witnesses = Witnesses.of(state, part)
    recorded = environment_of(state, part)
    now = as_launched(findings.environment, recorded) if recorded else findings.environment
    return Plan(
        state.id,
        state.name,
        steps=tuple(_steps(state, findings, witnesses)) if state.code else (),
        reasons=tuple(_reasons(state, findings, witnesses)),
        differences=tuple(differences(recorded, now)) if recorded else (),
        warnings=tuple(_warnings(state, findings, part)),
        inexact=inexact(state, part, now),
        part=part,
        segment=None if part.whole else (part.checkpoint.step if part.checkpoint else None, witnesses.until),
    )


def environment_of(state: RunState, part: Part) -> EnvironmentCaptured | None:
    """What the first of the part's steps were made on, as far as that is known."""
    return next((attempt.environment for attempt in part.attempts if attempt.environment), state.environment)


def as_launched(now: EnvironmentCaptured, recorded: EnvironmentCaptured) -> EnvironmentCaptured:
    """The environment of now as the replayed command sees it: with the variables that it is given back."""
    kept = {name: value for name, value in now.variables.items() if not _is_ours(name)}
    return now.model_copy(update={"variables": kept | _restored(recorded)})


# --- steps -----------------------------------------------------------------------------------------------


def _steps(state: RunState, findings: Findings, witnesses: Witnesses) -> Iterator[Step]:
    assert state.code is not None  # noqa: S101 - the caller has seen to it
    part, layout = witnesses.part, Layout(state)
    environment = environment_of(state, part)
    places = layout.place_data(state.data, findings.tree)
    outputs = layout.place_outputs(state.artifacts)
    yield CheckOutCode(state.code, layout.code)
    if environment:
        yield _environment(environment, findings.environment, state.code, layout)
    for name, commit in state.data.items():
        yield MaterialiseData(commit, places[name])
    if config := findings.resized or resolved(state, part):
        yield WriteConfig(config)
    if part.checkpoint:
        yield RestoreCheckpoint(part.checkpoint, f"{CHECKPOINT}/state")
    command = _command(state, findings, layout)
    typed = state.started.invocation if state.started.kind == "train" else ()
    world = replayed(part.attempts[0].world if part.attempts else state.world, part.processes)
    yield Launch(command, layout.directory, world, state.seed, outputs, typed)
    yield Compare(
        metrics=sum(key.kind == "metric" for key in witnesses.series),
        points=witnesses.count("metric"),
        fingerprints=witnesses.count("fingerprint"),
        checkpoints=witnesses.count("checkpoint"),
        artifacts=len(witnesses.artifacts),
        exit_status=None if witnesses.endless else status(state.ended),
        until=witnesses.until,
        after=part.checkpoint.step if part.checkpoint else None,
    )


def _environment(
    recorded: EnvironmentCaptured, now: EnvironmentCaptured, code: CodeCaptured, layout: Layout
) -> RestoreEnvironment:
    restored = _restored(recorded)
    unset = tuple(name for name in now.variables if _is_ours(name) and name not in restored)
    captured = [InWorkspace(os.path.normpath(os.path.join(layout.code, path))) for path in code.python_path]
    entries = [entry for entry in recorded.variables.get(_PYTHONPATH, "").split(os.pathsep) if entry]
    path = dict.fromkeys([*captured, *(layout.word(entry) for entry in entries)])
    other = {name: version for name, version in recorded.packages.items() if now.packages.get(name) != version}
    return RestoreEnvironment(recorded.packages, other, restored, unset, tuple(path))


def _restored(recorded: EnvironmentCaptured) -> dict[str, str]:
    return {n: v for n, v in recorded.variables.items() if _is_ours(n) and WITHHELD not in v}


def _is_ours(name: str) -> bool:
    """Whether a recorded variable is to be what it was."""
    return name not in _NOT_OURS and not name.startswith(_NOT_OURS_PREFIXES)


def program(state: RunState, tree: Manifest | None) -> Word:
    """What the command's first word means now: a file of the tree moved with it, all else is where it was."""
    word = state.started.command[0]
    if "/" not in word or state.code is None:
        return word
    layout = Layout(state)
    place = os.path.normpath(os.path.join(state.code.root, state.code.directory, word))
    to = layout.mirrored(place)
    captured = {os.path.normpath(os.path.join(layout.code, e.path)) for e in tree.entries} if tree else set()
    return InWorkspace(to) if to in captured else place


def _command(state: RunState, findings: Findings, layout: Layout) -> tuple[Word, ...]:
    if not state.started.command:
        return ()
    first = findings.interpreter if _substitutes(state, findings) else program(state, findings.tree)
    return (first, *(layout.word(word) for word in state.started.command[1:]))


def _substitutes(state: RunState, findings: Findings) -> bool:
    """Whether the run's Python is gone and this one takes its place."""
    command = state.started.command
    return bool(command) and not findings.executable and bool(_PYTHON.fullmatch(os.path.basename(command[0])))


# --- why not ---------------------------------------------------------------------------------------------


def _reasons(state: RunState, findings: Findings, witnesses: Witnesses) -> Iterator[str]:
    if state.status == "running" and findings.alive:
        process = state.attempt.process
        yield f"it is still running, as process {process.pid} on {process.host}: wait until it has ended"
    yield from _code_reasons(state, findings)
    yield from _command_reasons(state, findings)
    for name, found in findings.data.items():
        if not found.available:
            yield f"data {name} cannot be had: {found.reason}"
    if state.started.kind == "train" and state.resolved and state.resolved.withheld:
        keys = _some(state.resolved.withheld)
        yield f"the log does not hold the secrets of its configuration ({keys}): read them from the environment"
    if witnesses.empty and not witnesses.part.whole:
        yield "nothing is on record in this part that a replay could be compared with: ask for more steps"
    elif witnesses.empty:
        yield (
            "nothing is on record that a replay could be compared with: "
            "log metrics, or name outputs with --out, in a new run"
        )


def _code_reasons(state: RunState, findings: Findings) -> Iterator[str]:
    code = state.code
    if code is None:
        yield "its code was not captured: record a new run"
        return
    lost = [file for file in code.omitted if _is_lost(file) and not _is_data(file, state)]
    if lost:
        shown = _some([f"{file.path}: {file.reason}" for file in lost], "; ")
        yield f"{len(lost)} of its files were not captured ({shown}): mend that, or name them with --data, in a new run"
    if findings.tree is None:
        yield f"the list of its files is gone: copy object {code.tree} back to where the ledger keeps its objects"
    elif findings.missing:
        shown = _some([entry.path for entry in findings.missing])
        first = findings.missing[0].digest
        yield (
            f"{len(findings.missing)} of its files are gone ({shown}): "
            f"copy object {first} and its like back to where the ledger keeps its objects"
        )


def _is_lost(file: OmittedFile) -> bool:
    """Whether an omitted file is content that the run could read and nobody can bring back.

    Secrets are for the user to put there; environments, sockets and the like have no content of their own.
    """
    return file.bytes > 0 and not is_secret_file(file.path)


def _is_data(file: OmittedFile, state: RunState) -> bool:
    assert state.code is not None  # noqa: S101 - it tells of the file
    place = os.path.normpath(os.path.join(state.code.root, file.path))
    return any(is_below(place, commit.path) for commit in state.data.values())


def _command_reasons(state: RunState, findings: Findings) -> Iterator[str]:
    command = state.started.command
    if not command:
        yield "no command is on record: start the new one with `ledger run -- COMMAND`"
        return
    withheld = [word for word in command if WITHHELD in word]
    if withheld:
        yield (
            f"the log does not hold the secrets of its command ({shlex.join(withheld)}): "
            "pass them in environment variables in a new run"
        )
    if not findings.executable and not _substitutes(state, findings):
        word = program(state, findings.tree)
        yield f"the command {word} is not there: install it, or put it on PATH"
    if findings.launcher:
        count = state.world.processes
        yield f"{count} {'process' if count == 1 else 'processes'} cannot be launched: {findings.launcher}"


def _warnings(state: RunState, findings: Findings, part: Part) -> Iterator[str]:
    process = state.attempt.process
    if state.status == "running" and findings.alive is None:
        yield f"no end is on record: taken as interrupted, unless process {process.pid} on {process.host} still runs"
    if _substitutes(state, findings):
        yield f"{state.started.command[0]} is not here: {findings.interpreter} takes its place"
    for file in state.code.omitted if state.code else ():
        if not _is_lost(file) and not _is_data(file, state):
            yield f"{file.path} was not captured ({file.reason})"
    for word in findings.uncaptured:
        yield f"{word} lies beside the code, but was not captured: if the command reads it, name it with --data"
    yield from _start_warnings(state, part)
    if state.seed is None and state.resolved is None:
        yield "no seed is on record: only a command that draws no random numbers will be identical"


def _start_warnings(state: RunState, part: Part) -> Iterator[str]:
    """What is to be said of where the replay of a part goes on from."""
    for lost in part.passed_over:
        yield f"passed over {lost}"
    if part.from_step is not None and part.checkpoint is None:
        yield f"there is no checkpoint at or before step {step_text(part.from_step)}: it starts at the beginning"
    if part.checkpoint and state.started.kind != "train":
        yield (
            "its command must itself go on from the checkpoint, which is in LEDGER_RESUME_FROM and in Python "
            "run.resumed_from: one that starts over takes longer, or diverges"
        )


def _some(names: Sequence[str], separator: str = ", ") -> str:
    more = len(names) - _SHOWN
    return separator.join(names[:_SHOWN]) + (f"{separator}and {more} more" if more > 0 else "")
