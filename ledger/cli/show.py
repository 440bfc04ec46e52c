"""``ledger show``: one run at a glance."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

from ledger.cli import render
from ledger.cli.options import command, run_argument
from ledger.cli.render import Column
from ledger.read.environment import spelled_mesh

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ledger.book import Book
    from ledger.cli.session import Session
    from ledger.events import DataCommit, ReplayCompared, RunStarted
    from ledger.read.state import Attempt, RunState
    from ledger.store.projections.measured import Measured

_TRACEBACK_LINES = 12
_DIGEST: Final = re.compile("[0-9a-f]{64}")


@command("show", example="ledger show run-7\nledger show latest --json | jq .metrics", json="the run")
@run_argument()
def show(session: Session, run: str) -> None:
    """Show what is known about a run.

    How it went, its configuration, code and data, the metrics, what it left behind.
    """
    from ledger.cli.facts import run_facts
    from ledger.cli.session import find_run

    with session.reading() as book:
        state = book.run(find_run(book, run))
        if session.json:
            render.json_line(run_facts(state) | _device_facts(book, state))
            return
        names = book.names()
        render.title(state.name, state.status)
        _overview(state, names, _device_time(book, state))
        for section in _SECTIONS:
            section(state)


def _device_facts(book: Book, state: RunState) -> dict[str, Any]:
    from ledger.cli.gpu_hours import hours_facts

    found = book.gpu_hours(where=f"id = {state.id}")
    return {"gpu_hours": hours_facts(found[0], book.settings.prices.currency) if found else None}


def _device_time(book: Book, state: RunState) -> list[str]:
    from ledger.cli.gpu_hours import said

    found = book.gpu_hours(where=f"id = {state.id}")
    return said(found[0], book.settings.prices.currency) if found else []


def _overview(state: RunState, names: Mapping[str, str], device_time: list[str]) -> None:
    replay_of = names.get(state.started.replay_of or "", state.started.replay_of)
    started, attempt = state.started, state.attempt
    ended = render.duration(render.between(state.started_at, attempt.ended_at)) if attempt.ended_at else ""
    code = state.code
    render.fields(
        [
            ("kind", _kind(started, replay_of)),
            ("started", f"{render.ago(state.started_at)}, {render.moment(state.started_at)}"),
            ("took", ended),
            ("devices", device_time),
            ("where", f"{started.process.host}, process {attempt.process.pid}"),
            ("who", started.user or ""),
            ("project", started.project or ""),
            ("typed", shlex.join(started.invocation)),
            ("command", shlex.join(started.command)),
            ("directory", started.directory),
            ("processes", str(state.world.processes) if state.world.processes > 1 else ""),
            ("topology", _topology(state)),
            ("seed", "" if state.seed is None else str(state.seed)),
            ("tags", " ".join(state.tags)),
            (
                "commit",
                f"{code.commit}{' with changes' if code.dirty else ''}" if code and code.commit else "",
            ),
            ("tree", f"{code.tree}" if code else ""),
            ("replays", [_verdict(state, verdict, names) for verdict in state.verdicts]),
            ("id", state.id),
        ]
    )


def _kind(started: RunStarted, replay_of: str | None) -> str:
    return render.joined(f"replay of {replay_of}" if replay_of else started.kind, render.steps(started.segment))


def _topology(state: RunState) -> str:
    """How the processes train together, in one line; empty where nobody recorded it."""
    told = state.environment.topology if state.environment else {}
    if not told:
        return ""
    hosts = len({rank.get("host") for rank in told.get("ranks") or []})
    backend = told.get("backend")
    return ", ".join(
        [
            f"{told.get('engine', 'processes')}{f' over {backend}' if backend else ''}",
            spelled_mesh(told),
            *([f"on {hosts} hosts"] if hosts > 1 else []),
        ]
    )


def _failure(state: RunState) -> None:
    from ledger.events import RunFailed

    ended = state.ended
    if not isinstance(ended, RunFailed):
        return
    render.heading("why it failed")
    lines = (ended.traceback or ended.exception).strip().splitlines()[-_TRACEBACK_LINES:]
    code = "" if ended.exit_code is None else str(ended.exit_code)
    render.fields([("exit code", code), ("error", lines)])


def _attempts(state: RunState) -> None:
    if len(state.attempts) == 1:
        return
    render.heading("attempts")
    columns = [
        Column("attempt", right=True),
        Column("started"),
        Column("from step", right=True),
        Column("processes", right=True),
        Column("end"),
    ]
    render.table(columns, [_attempt(state, attempt) for attempt in state.attempts], indent=2)
    for attempt in state.attempts:
        for reason in attempt.resumed.skipped if attempt.resumed else ():
            render.line(f"  attempt {attempt.number} passed over {reason}")


def _attempt(state: RunState, attempt: Attempt) -> list[str]:
    from ledger.cli.facts import attempt_status

    start = render.number(attempt.resumed.step) if attempt.resumed else ""
    processes = str(attempt.world.processes)
    return [str(attempt.number), render.moment(attempt.started_at), start, processes, attempt_status(state, attempt)]


def _metrics(state: RunState) -> None:
    if not state.metrics:
        return
    render.heading("metrics")
    titles = ("last", "step", "lowest", "at step", "highest", "at step", "points")
    columns = [Column("metric"), *(Column(title, right=True) for title in titles)]
    render.table(columns, [_metric(name, state.figures.metrics[name]) for name in state.metrics], indent=2)


def _metric(name: str, of: Measured) -> list[str]:
    numbers = (of.last, of.last_step, of.lowest, of.lowest_step, of.highest, of.highest_step, of.points)
    return [name, *map(render.number, numbers)]


def _config(state: RunState) -> None:
    if state.config:
        render.heading("config")
        render.fields([(key, render.exact(value)) for key, value in render.flat(state.config).items()])


def _data(state: RunState) -> None:
    if not state.data:
        return
    render.heading("data")
    columns = [
        Column("name"),
        Column("uri", whole=False),
        Column("commit"),
        Column("files", right=True),
        Column("size", right=True),
        Column("kept"),
    ]
    rows = [
        [
            name,
            d.uri,
            render.short(d.commit),
            str(d.files),
            render.size(d.bytes),
            "snapshot" if d.snapshot else "pin",
        ]
        for name, d in state.data.items()
    ]
    render.table(columns, rows, indent=2)
    render.fields([(f"{name}.{key}", told) for name, d in state.data.items() for key, told in _details(d).items()])


def _details(commit: DataCommit) -> dict[str, str]:
    """What the provider told of the commit, without digests of lists that are kept as objects."""
    told = {key: str(value) for key, value in render.flat(commit.details).items() if value not in (None, {}, [])}
    return {key: value for key, value in told.items() if not _DIGEST.fullmatch(value)}


def _produced(state: RunState) -> None:
    kept = state.checkpoints
    best = next((c for c in reversed(kept) if c.best), None)
    rows = [
        ("checkpoints", f"{render.count(len(kept), 'checkpoint')}, newest {kept[-1].name}" if kept else ""),
        ("best", f"{best.name} {render.key_metric(best.metrics)}" if best else ""),
        ("artifacts", [f"{a.path}  {render.size(a.bytes)}" for a in state.artifacts.values()]),
        ("console", [f"{render.size(c.bytes)}  {render.short(c.digest)}" for c in state.consoles]),
        ("notes", [note.text for note in state.notes if note.text]),
    ]
    if any(any(value) for _, value in rows):
        render.heading("produced")
        render.fields(rows)


def _verdict(state: RunState, compared: ReplayCompared, names: Mapping[str, str]) -> str:
    other = compared.original if compared.replay == state.id else compared.replay
    told = render.joined(compared.verdict, render.steps(compared.segment))
    return f"{told} ({names.get(other, other)})" if other else told


_SECTIONS: tuple[Callable[[RunState], None], ...] = (_failure, _attempts, _metrics, _config, _data, _produced)
