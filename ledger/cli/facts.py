"""What ``--json`` prints about a run: stable snake_case keys, exact values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.cli.render import between

if TYPE_CHECKING:
    from ledger.events import CheckpointWritten
    from ledger.read.lineage import Descent, Origin, Use
    from ledger.read.state import Attempt, RunState
    from ledger.store.projections.measured import Measured


def run_facts(state: RunState) -> dict[str, Any]:
    """Everything that ``ledger show`` knows."""
    started, ended_at = state.started, state.attempt.ended_at
    return {
        "name": state.name,
        "id": state.id,
        "kind": started.kind,
        "status": state.status,
        "started_at": state.started_at,
        "ended_at": ended_at,
        "seconds": between(state.started_at, ended_at) if ended_at else None,
        "end": state.ended.model_dump(mode="json") if state.ended else None,
        "step": state.last_step,
        "invocation": started.invocation,
        "command": started.command,
        "directory": started.directory,
        "processes": state.world.processes,
        "topology": state.environment.topology if state.environment else {},
        "seed": state.seed,
        "tags": state.tags,
        "project": started.project,
        "user": started.user,
        "host": started.process.host,
        "replay_of": started.replay_of,
        "segment": started.segment,
        "attempts": [_attempt_facts(state, attempt) for attempt in state.attempts],
        "config": state.config,
        "overrides": state.resolved.overrides if state.resolved else (),
        "config_digest": state.resolved.digest if state.resolved else None,
        "code": state.code.model_dump(mode="json") if state.code else None,
        "data": {name: data.model_dump(mode="json") for name, data in state.data.items()},
        "metrics": {name: _metric_facts(state.figures.metrics[name]) for name in state.metrics},
        "checkpoints": [checkpoint_facts(written) for written in state.checkpoints],
        "artifacts": [artifact.model_dump(mode="json") for artifact in state.artifacts.values()],
        "consoles": [console.model_dump(mode="json") for console in state.consoles],
        "replays": [verdict.model_dump(mode="json") for verdict in state.verdicts],
        "notes": [note.model_dump(mode="json") for note in state.notes],
    }


def checkpoint_facts(written: CheckpointWritten) -> dict[str, Any]:
    """One checkpoint, with what it holds and where it lies."""
    return written.model_dump(mode="json")


def origin_facts(origin: Origin) -> dict[str, Any]:
    """A checkpoint or an artifact, and the run that wrote it."""
    checkpoint = origin.checkpoint
    return {
        "run": origin.run,
        "run_id": origin.run_id,
        "checkpoint": checkpoint.name if checkpoint else None,
        "step": checkpoint.step if checkpoint else None,
        "artifact": None if checkpoint else origin.name,
        "digest": origin.written.digest,
        "file": origin.file,
        "written_at": origin.recorded_at,
    }


def use_facts(use: Use) -> dict[str, Any]:
    """Data that a run read; without ``files`` all of them are meant."""
    return {
        "run": use.run,
        "run_id": use.run_id,
        "data": use.data.name,
        "uri": use.data.uri,
        "commit": use.data.commit,
        "digest": use.data.digest,
        "files": use.files,
    }


def descent_facts(descent: Descent) -> dict[str, Any]:
    """Data of a run that another run wrote."""
    return {**use_facts(descent.use), "from": origin_facts(descent.origin)}


def attempt_status(state: RunState, attempt: Attempt) -> str:
    """How an attempt ended; the latest, how the run stands. One that is over and said nothing was cut off."""
    if attempt is state.attempt:
        return state.status
    return attempt.ended.type.removeprefix("run.") if attempt.ended else "interrupted"


def _attempt_facts(state: RunState, attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "status": attempt_status(state, attempt),
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "from_step": attempt.resumed.step if attempt.resumed else None,
        "processes": attempt.world.processes,
        "skipped": attempt.resumed.skipped if attempt.resumed else (),
        "host": attempt.process.host,
        "pid": attempt.process.pid,
    }


def _metric_facts(of: Measured) -> dict[str, Any]:
    return {
        "last": of.last,
        "step": of.last_step,
        "lowest": of.lowest,
        "lowest_step": of.lowest_step,
        "highest": of.highest,
        "highest_step": of.highest_step,
        "points": of.points,
    }
