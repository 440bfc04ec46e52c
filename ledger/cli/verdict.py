"""The verdict of a replay, and its plan, as they are printed."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from ledger.cli import render
from ledger.cli.render import Column

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.events import Divergence, ReplayCompared
    from ledger.replay.plan import Plan

_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


def print_verdict(compared: ReplayCompared, names: Mapping[str, str]) -> None:
    """The verdict's word on the first line, then what it rests on; ``names`` gives the names of runs by UUID."""
    original = names[compared.original]
    render.line(render.joined(compared.verdict, render.steps(compared.segment)))
    if compared.replay:
        render.line(f"{original} replayed as {names.get(compared.replay, compared.replay)}")
    if compared.checks:
        render.heading("compared")
        columns = [Column("result"), Column("what"), Column("expected", whole=False), Column("actual", whole=False)]
        rows = [
            ["ok" if check.passed else "diverged", check.name, _shown(check.expected), _shown(check.actual)]
            for check in compared.checks
        ]
        render.table(columns, rows, indent=2)
        if bound := max(check.bound for check in compared.checks):
            render.line(f"  numbers may deviate by {render.number(bound)} of their size")
    if compared.first_divergence:
        _print_divergence(compared.first_divergence)
    if compared.verdict == "diverged":
        _print_list("was to be expected", compared.inexact)
    _print_list("differs from the original's environment", compared.differences)
    _print_list("why not", compared.reasons)


def _print_divergence(first: Divergence) -> None:
    render.heading("first divergence")
    render.fields(
        [
            ("what", first.what),
            ("step", render.number(first.step)),
            ("expected", first.expected),
            ("actual", first.actual),
        ]
    )


def _print_list(title: str, entries: tuple[str, ...]) -> None:
    if entries:
        render.heading(title)
        for entry in entries:
            render.line(f"  - {entry}")


def _shown(value: str) -> str:
    """A digest by its beginning where a person reads."""
    return render.short(value) if re.fullmatch(r"[0-9a-f]{64}", value) else value


def plan_facts(plan: Plan) -> dict[str, Any]:
    """A plan as ``--json`` prints it; paths below the workspace begin with ``WORKSPACE``."""
    return {
        "run": plan.name,
        "run_id": plan.run,
        "replayable": not plan.reasons,
        "steps": [{"step": _WORD.sub("_", type(step).__name__).lower(), **_fields(step)} for step in plan.steps],
        "segment": plan.segment,
        "reasons": plan.reasons,
        "inexact": plan.inexact,
        "differences": plan.differences,
        "warnings": plan.warnings,
    }


def _fields(step: Any) -> dict[str, Any]:
    return {field.name: _value(getattr(step, field.name)) for field in dataclasses.fields(step)}


def _value(value: Any) -> Any:
    from ledger.replay.describe import WORKSPACE
    from ledger.replay.layout import InWorkspace, spelled

    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, InWorkspace):
        return spelled(value, WORKSPACE)
    return [_value(item) for item in value] if isinstance(value, tuple) else value
