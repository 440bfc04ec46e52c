"""A plan as lines of text for a person."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from ledger.replay.layout import InWorkspace, spelled
from ledger.replay.part import step_text
from ledger.replay.plan import (
    CheckOutCode,
    Compare,
    Launch,
    MaterialiseData,
    RestoreCheckpoint,
    RestoreEnvironment,
    WriteConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.replay.layout import Word
    from ledger.replay.plan import Plan, Step

WORKSPACE: Final = "WORKSPACE"
"""Stands for the directory that the replay will run in."""


def describe(plan: Plan) -> list[str]:
    """What the replay will do, what stands in its way, what to expect, what differs and what may matter."""
    lines = [f"{number}. {line}" for number, line in enumerate(map(_step, plan.steps), 1)]
    for title, entries in (
        ("not replayable", plan.reasons),
        ("the same bits are not to be expected", plan.inexact),
        ("differs from the original", plan.differences),
        ("take note", plan.warnings),
    ):
        if entries:
            lines += ["", f"{title}:", *(f"- {entry}" for entry in entries)]
    return lines


def _step(step: Step) -> str:
    match step:
        case CheckOutCode():
            return _code(step)
        case RestoreEnvironment():
            return "; ".join(_environment(step))
        case MaterialiseData(commit=data):
            place = spelled(InWorkspace(step.to), WORKSPACE)
            return f"fetch data {data.name}: {data.uri} at {data.commit[:12]} ({data.files} files) to {place}"
        case WriteConfig():
            return f"give the run its configuration: {len(step.resolved.config)} keys, {step.resolved.digest[:12]}"
        case RestoreCheckpoint(checkpoint=kept):
            place = spelled(InWorkspace(step.to), WORKSPACE)
            return (
                f"fetch checkpoint {kept.name}: {kept.digest[:12]} ({len(kept.files)} files) to {place}, to go on from"
            )
        case Launch():
            return _launch(step)
        case Compare():
            return "compare " + ", ".join(_compare(step))


def _code(step: CheckOutCode) -> str:
    code = step.code
    commit = f", commit {code.commit[:12]}{' with changes' if code.dirty else ''}" if code.commit else ""
    return f"rebuild the code: tree {code.tree[:12]}, {code.files} files{commit}"


def _environment(step: RestoreEnvironment) -> Iterator[str]:
    count = len(step.packages)
    yield f"check the environment: {count - len(step.other_packages)} of {count} packages are the same here"
    if step.variables:
        yield "set " + " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(step.variables.items()))
    if step.unset:
        yield "unset " + " ".join(step.unset)
    if step.python_path:
        yield "PYTHONPATH=" + ":".join(_told(word) for word in step.python_path)


def _launch(step: Launch) -> str:
    words = " ".join(_told(word) for word in step.command)
    processes = f" as {step.world.processes} processes" if step.world.processes > 1 else ""
    return f"run, in {spelled(InWorkspace(step.directory), WORKSPACE)}{processes}: {words}"


def _compare(step: Compare) -> Iterator[str]:
    counts = {
        f"{step.metrics} metrics ({step.points} values)": step.points,
        f"{step.fingerprints} fingerprints": step.fingerprints,
        f"{step.checkpoints} checkpoints": step.checkpoints,
        f"{step.artifacts} artifacts": step.artifacts,
        f"how it ends ({step.exit_status})": step.exit_status,
    }
    yield from (text for text, there in counts.items() if there)
    if step.after is not None:
        yield f"after step {step_text(step.after)}"
    if step.exit_status is None:
        yield f"up to step {step_text(step.until)}" if step.until is not None else "as far as it came"


def _told(word: Word) -> str:
    return word.at(WORKSPACE) if isinstance(word, InWorkspace) else shlex.quote(word)
