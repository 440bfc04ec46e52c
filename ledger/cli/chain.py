"""The page of ``ledger audit``: who, when, where, on what, with what, and what came of it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from ledger.cli import render
from ledger.cli.facts import attempt_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ledger.events import OmittedFile
    from ledger.read.state import RunState

_SHOWN: Final = 10
"""Files that were left out, by name; the rest is a number."""


def print_chain(state: RunState, names: Mapping[str, str]) -> None:
    """The evidence behind a run; ``names`` gives the names of runs by UUID."""
    render.title(state.name, state.status)
    _print_run(state, names)
    _print_code(state)
    _print_config(state)
    _print_data(state)
    _print_environment(state)
    _print_checkpoints(state)
    _print_replays(state, names)


def _print_run(state: RunState, names: Mapping[str, str]) -> None:
    started = state.started
    original = names.get(started.replay_of, started.replay_of) if started.replay_of else ""
    ended = state.attempt.ended_at
    render.fields(
        [
            ("who", started.user or ""),
            ("when", render.moment(state.started_at) + (f" to {render.moment(ended)}" if ended else "")),
            ("where", f"{started.process.host}:{started.directory}"),
            ("replay of", render.joined(original, render.steps(started.segment))),
            ("typed", shlex.join(started.invocation)),
            ("command", shlex.join(started.command)),
            ("processes", str(state.world.processes)),
            ("seed", "none recorded" if state.seed is None else str(state.seed)),
            ("attempts", [_attempt(state, number) for number in range(len(state.attempts))][1:]),
            ("id", state.id),
        ]
    )


def _attempt(state: RunState, index: int) -> str:
    attempt = state.attempts[index]
    step = attempt.resumed.step if attempt.resumed else None
    start = "the beginning" if step is None else f"step {render.number(step)}"
    when = render.moment(attempt.started_at)
    return f"{attempt.number} from {start}, {when}, {attempt_status(state, attempt)}"


def _print_code(state: RunState) -> None:
    render.heading("code")
    code = state.code
    if code is None:
        render.line("  was not captured")
        return
    render.fields(
        [
            ("repository", code.repository or "none"),
            ("commit", code.commit or "none"),
            ("branch", code.branch or ""),
            ("state", ("with uncommitted changes" if code.dirty else "as committed") if code.commit else ""),
            ("tree", code.tree),
            ("files", f"{render.count(code.files, 'file')}, {render.size(code.bytes)}"),
            ("entry point", code.entry_point or ""),
            ("omitted", _omitted(code.omitted)),
        ]
    )


def _omitted(files: tuple[OmittedFile, ...]) -> list[str]:
    shown = [f"{file.path} ({render.size(file.bytes)}): {file.reason}" for file in files[:_SHOWN]]
    return shown + ([f"and {len(files) - _SHOWN} more"] if len(files) > _SHOWN else [])


def _print_config(state: RunState) -> None:
    if state.resolved is None:
        return
    render.heading("config")
    render.fields(
        [
            ("digest", state.resolved.digest),
            ("overrides", " ".join(state.resolved.overrides)),
            ("withheld", " ".join(state.resolved.withheld)),
            *((key, render.exact(value)) for key, value in render.flat(state.config).items()),
        ]
    )


def _print_data(state: RunState) -> None:
    render.heading("data")
    if not state.data:
        render.line("  none was declared")
    for name, data in state.data.items():
        kept = "a snapshot is kept" if data.snapshot else "pinned, no copy is kept"
        render.fields(
            [
                ("name", f"{name}, used for {data.role}" if data.role != name else name),
                ("uri", data.uri),
                ("commit", data.commit),
                ("digest", data.digest if data.digest != data.commit else ""),
                ("holds", f"{render.count(data.files, 'file')}, {render.size(data.bytes)}; {kept}"),
                ("provider", f"{data.provider} {data.provider_version}"),
            ]
        )


def _print_environment(state: RunState) -> None:
    environment = state.environment
    if environment is None:
        return
    render.heading("environment")
    render.fields(
        [
            ("python", _line(environment.python)),
            ("system", _line(environment.system)),
            ("cpu", _line(environment.cpu)),
            ("accelerators", [_line(accelerator) for accelerator in environment.accelerators] or "none"),
            ("packages", render.count(len(environment.packages), "package")),
            ("lock", environment.lock or ""),
            ("libraries", _lines(environment.libraries)),
            ("determinism", _lines(environment.determinism)),
            ("variables", [f"{name}={value}" for name, value in environment.variables.items()]),
            ("not captured", [f"{name}: {why}" for name, why in environment.failures.items()]),
        ]
    )


def _line(section: Mapping[str, Any]) -> str:
    """A section in one line, without what is too long to be read."""
    pairs = ((key, render.exact(value)) for key, value in render.flat(section).items())
    return ", ".join(f"{key} {value}" for key, value in pairs if 0 < len(value) <= 80)


def _lines(section: Mapping[str, Any]) -> list[str]:
    return [f"{key} {_opening(render.exact(value))}" for key, value in render.flat(section).items()]


def _opening(text: str) -> str:
    """The first line of a text of several: what a library prints about its build fills pages."""
    first, *more = text.splitlines() or [""]
    return f"{first.strip() or more[0].strip()} … (all of it with --json)" if more else text


def _print_checkpoints(state: RunState) -> None:
    kept = state.checkpoints
    if not kept:
        return
    render.heading("checkpoints")
    columns = [
        render.Column("step", right=True),
        render.Column("name"),
        render.Column("best"),
        render.Column("size", right=True),
        render.Column("digest"),
    ]
    rows: Iterable[list[str]] = (
        [
            render.number(c.step),
            c.name,
            "best" if c.best else "",
            render.size(c.bytes),
            render.short(c.digest),
        ]
        for c in kept
    )
    render.table(columns, rows, indent=2)


def _print_replays(state: RunState, names: Mapping[str, str]) -> None:
    render.heading("replays")
    if not state.verdicts:
        render.line("  none yet" if state.started.kind != "replay" else "  not judged yet")
    for verdict in state.verdicts:
        other = verdict.original if verdict.replay == state.id else verdict.replay
        who = names.get(other, other) if other else "nothing ran"
        passed = sum(check.passed for check in verdict.checks)
        checks = f"{passed} of {render.count(len(verdict.checks), 'check')} passed" if verdict.checks else ""
        reasons = "; ".join(verdict.reasons)
        told = render.joined(verdict.verdict, render.steps(verdict.segment))
        render.fields([(who, render.DOT.join(part for part in (told, checks, reasons) if part))])
