"""A plan as a POSIX shell script that a person can read, change and run."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from ledger.record.data import data_variable
from ledger.replay.layout import InWorkspace
from ledger.replay.part import step_text
from ledger.replay.plan import Launch, MaterialiseData, RestoreCheckpoint, RestoreEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.replay.layout import Word
    from ledger.replay.plan import Plan

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What a shell can export; an environment may hold other names."""


def script(plan: Plan, *, directory: Path | None = None) -> str:
    """The script; it rebuilds into its argument or, without one, into ``directory``."""
    return "\n".join([*_head(plan), *_rebuild(plan, directory), *_run(plan)]) + "\n"


def _asked(plan: Plan) -> str:
    """The options by which the plan was asked for."""
    part = plan.part
    asked = {"--from-step": part.from_step, "--until-step": part.until, "--nproc": part.processes}
    return "".join(f" {option} {step_text(value)}" for option, value in asked.items() if value is not None)


def _head(plan: Plan) -> Iterator[str]:
    yield "#!/bin/sh"
    yield f"# Repeats {plan.name} ({plan.run}). Written by `ledger replay --script`."
    for title, entries in (
        ("not replayable", plan.reasons),
        ("inexact", plan.inexact),
        ("differs here", plan.differences),
        ("take note", plan.warnings),
    ):
        # What comes from a run must not end the comment that it stands in.
        yield from (f"# {title}: {' '.join(entry.split())}" for entry in entries)
    yield "set -eu"


def _rebuild(plan: Plan, directory: Path | None) -> Iterator[str]:
    default = shlex.quote(str(directory) if directory else f"{plan.name}-rebuilt")
    yield ""
    yield "# The code and the data, every byte verified."
    yield f"if [ $# -gt 0 ]; then DIR=$1; else DIR={default}; fi"
    yield f'[ -e "$DIR" ] || ledger replay {shlex.quote(plan.run)}{_asked(plan)} --to "$DIR"'
    yield 'DIR=$(cd -- "$DIR" && pwd)'


def _run(plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        match step:
            case RestoreEnvironment():
                yield from _environment(step)
            case MaterialiseData(commit=data):
                yield from _export(data_variable(data.name), _quoted(InWorkspace(step.to)))
            case RestoreCheckpoint():
                yield from _export("LEDGER_RESUME_FROM", _quoted(InWorkspace(step.to)))
                yield from _export("LEDGER_RESUME_STEP", shlex.quote(repr(step.checkpoint.step)))
            case Launch():
                yield from _launch(plan, step)
            case _:
                pass


def _environment(step: RestoreEnvironment) -> Iterator[str]:
    if step.other_packages:
        wanted = shlex.join(f"{name}=={version}" for name, version in sorted(step.other_packages.items()))
        yield ""
        yield "# Packages that are others here; all of them are in .ledger-replay/requirements.txt."
        yield f"# python -m pip install {wanted}"
    yield ""
    yield "# What the command found in its environment."
    for name, value in sorted(step.variables.items()):
        yield from _export(name, shlex.quote(value))
    yield from (f"unset {name}" for name in step.unset if _NAME.fullmatch(name))
    if step.python_path:
        yield "export PYTHONPATH=" + ":".join(_quoted(word) for word in step.python_path)


def _export(name: str, quoted: str) -> Iterator[str]:
    if _NAME.fullmatch(name):
        yield f"export {name}={quoted}"


def _launch(plan: Plan, step: Launch) -> Iterator[str]:
    yield ""
    yield f"cd -- {_quoted(InWorkspace(step.directory))}"
    if step.typed and _asked(plan):
        yield "# Only Ledger itself starts a recipe's training in the middle, or with other processes."
        yield f"ledger replay {shlex.quote(plan.run)}{_asked(plan)}"
        return
    if step.typed:
        yield shlex.join(step.typed)
        return
    if step.world.processes > 1:
        yield f"# It ran as {step.world.processes} processes: put your launcher before it."
    yield "# To have it recorded, put `ledger run --` before it."
    yield " ".join(_quoted(word) for word in step.command)


def _quoted(word: Word) -> str:
    if isinstance(word, str):
        return shlex.quote(word)
    place = '"$DIR"' if word.path in ("", ".") else f'"$DIR"/{shlex.quote(word.path)}'
    return (shlex.quote(word.prefix) if word.prefix else "") + place
