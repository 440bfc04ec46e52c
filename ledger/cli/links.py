"""The chain that ``ledger audit`` prints first: from what was asked about to all that it goes back to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.cli import render
from ledger.errors import some
from ledger.objects.manifest import SINGLE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ledger.read.lineage import Ancestry, Origin
    from ledger.read.state import RunState


def print_links(target: str, origins: Sequence[Origin], ancestry: Ancestry, names: Mapping[str, str]) -> None:
    """From what was asked about to all that it goes back to, one line for each link; pages of the runs follow."""
    for origin in origins:
        what = f"{origin.file} in " if origin.file and origin.file != SINGLE_FILE else ""
        render.line(f"{target} is {what}{_written(origin, ancestry)}")
    render.heading("chain")
    render.fields(_links(ancestry, names))


def _links(ancestry: Ancestry, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for state in ancestry.runs.values():
        yield state.name, _outline(state, names)
        for data in state.data.values():
            yield f"← {data.name}", f"{data.uri} at {data.commit}"
            for descent in ancestry.descents:
                if descent.use.run_id == state.id and descent.use.data.name == data.name:
                    files = some("", [path for path in descent.use.files if path != SINGLE_FILE]).strip()
                    yield "", f"{files or 'all of it'}: {_written(descent.origin, ancestry)}"
        yield "← code", _code(state)
        yield "← config", state.resolved.digest if state.resolved else "none recorded"
        yield "← environment", _surroundings(state)


def _written(origin: Origin, ancestry: Ancestry) -> str:
    """``step-500 of run-7 (step 500, written 2026-01-01 12:00:00)``."""
    checkpoint = origin.checkpoint
    what = f"step {render.number(checkpoint.step)}" if checkpoint else "artifact"
    state = ancestry.runs.get(origin.run_id)
    gone = {(deleted.uri, deleted.digest) for deleted in state.deleted} if state else set()
    since = ", deleted since" if checkpoint and (checkpoint.uri, checkpoint.digest) in gone else ""
    return f"{origin.name} of {origin.run} ({what}, written {render.moment(origin.recorded_at)}{since})"


def _outline(state: RunState, names: Mapping[str, str]) -> str:
    started = state.started
    who = f"{started.user or ''} on {started.process.host}, {render.moment(state.started_at)}".strip()
    attempts = f"{len(state.attempts)} attempts" if len(state.attempts) > 1 else ""
    of = f"replay of {names.get(started.replay_of, started.replay_of)}" if started.replay_of else ""
    of = render.joined(of, render.steps(started.segment))
    verdicts = [
        f"{names.get(v.replay or '', 'a plan')}: {render.joined(v.verdict, render.steps(v.segment))}"
        for v in state.verdicts
        if v.replay != state.id
    ]
    return render.DOT.join(part for part in (state.status, who, attempts, of, _verdicts(verdicts)) if part)


def _verdicts(verdicts: Sequence[str]) -> str:
    """``replayed as run-8: identical``."""
    return some("replayed as", verdicts) if verdicts else ""


def _code(state: RunState) -> str:
    if state.code is None:
        return "was not captured"
    commit = f"{state.code.commit}{', with uncommitted changes' if state.code.dirty else ''}"
    return render.DOT.join((commit if state.code.commit else "no commit", f"tree {state.code.tree}"))


def _surroundings(state: RunState) -> str:
    environment = state.environment
    if environment is None:
        return "was not captured"
    python = environment.python.get("version", "").partition(" ")[0]
    devices = [str(device.get("name", "")) for device in environment.accelerators]
    parts = (f"python {python}" if python else "", render.count(len(environment.packages), "package"), *devices)
    return render.DOT.join(part for part in (*parts, f"lock {environment.lock}" if environment.lock else "") if part)
