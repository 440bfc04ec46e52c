"""One line for each event: what `ledger log` says about it."""

from __future__ import annotations

import json
import shlex

from ledger.cli.render import DOT, count, duration, first_line, key_metric, number, plain, short, size, steps
from ledger.events import (
    ArtifactWritten,
    CheckpointDeleted,
    CheckpointWritten,
    CodeCaptured,
    ConfigResolved,
    ConsoleCaptured,
    DataCommitted,
    EnvironmentCaptured,
    Event,
    GpuTimeUsed,
    MetricsLogged,
    ParametersFingerprinted,
    ReplayCompared,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    RunStarted,
    TrainingResumed,
    UnknownEvent,
)


def headline(event: Event | UnknownEvent) -> str:
    """The gist of an event; for one of a plugin's types, its payload."""
    return DOT.join(part for part in _parts(event) if part)


def _parts(event: Event | UnknownEvent) -> tuple[str, ...]:
    match event:
        case RunStarted():
            return (
                event.name,
                event.kind,
                steps(event.segment),
                shlex.join(event.invocation),
                _world(event.world.processes),
                _seed(event.seed),
            )
        case CodeCaptured():
            return _code(event)
        case EnvironmentCaptured():
            return _environment(event)
        case ConfigResolved():
            return count(len(event.config), "section"), " ".join(event.overrides), short(event.digest)
        case DataCommitted():
            snapshot = "snapshot kept" if event.snapshot else "pinned only"
            return (
                event.name,
                event.uri,
                count(event.files, "file"),
                size(event.bytes),
                snapshot,
                short(event.commit),
            )
        case TrainingResumed():
            start = "from the beginning" if event.step is None else f"from step {number(event.step)}"
            return f"attempt {event.attempt}", start, *event.skipped
        case RunCompleted():
            return _at(event.step), key_metric(event.metrics)
        case RunFailed():
            return _at(event.step), _exit_code(event.exit_code), first_line(event.exception)
        case RunInterrupted():
            return _at(event.step), event.signal
        case ReplayCompared():
            return _verdict(event)
        case RunAnnotated():
            return event.text, " ".join(f"#{tag}" for tag in event.tags)
        case _:
            return _produced(event)


def _produced(event: Event | UnknownEvent) -> tuple[str, ...]:
    """What comes out of the training while it goes on."""
    match event:
        case MetricsLogged():
            return _metrics(event)
        case ParametersFingerprinted():
            return _at(event.step), short(event.parameters), "with optimizer" if event.optimizer else ""
        case CheckpointWritten():
            best = "best so far" if event.best else ""
            return (
                _at(event.step),
                event.name,
                best,
                size(event.bytes),
                duration(event.seconds),
                short(event.digest),
            )
        case CheckpointDeleted():
            return _at(event.step), event.name, event.reason
        case ArtifactWritten():
            return event.path, size(event.bytes), short(event.digest)
        case GpuTimeUsed():
            return _device(event)
        case ConsoleCaptured():
            return size(event.bytes), short(event.digest)
        case UnknownEvent():
            return f"schema {event.schema_version}", json.dumps(event.payload, ensure_ascii=False)
        case _:
            return (json.dumps(plain(event.model_dump(mode="json")), ensure_ascii=False),)


def _device(event: GpuTimeUsed) -> tuple[str, ...]:
    used = "" if event.utilisation is None else f"{event.utilisation:.0%} used"
    memory = "" if event.memory_bytes is None else size(event.memory_bytes)
    return f"{event.kind} {event.index}", event.model, duration(event.seconds), used, memory, _at(event.step)


def _code(event: CodeCaptured) -> tuple[str, ...]:
    commit = f"commit {short(event.commit)}" if event.commit else "no repository"
    state = ("with changes" if event.dirty else "clean") if event.commit else ""
    omitted = f"{len(event.omitted)} omitted" if event.omitted else ""
    return commit, state, count(event.files, "file"), size(event.bytes), omitted, f"tree {short(event.tree)}"


def _environment(event: EnvironmentCaptured) -> tuple[str, ...]:
    python = f"python {event.python['version']}" if "version" in event.python else ""
    packages = count(len(event.packages), "package") if event.packages else ""
    sections = ", ".join(name for name in ("libraries", "determinism") if getattr(event, name))
    return python, packages, _accelerators(event), sections, _failures(event)


def _accelerators(event: EnvironmentCaptured) -> str:
    return count(len(event.accelerators), "accelerator") if event.accelerators else ""


def _failures(event: EnvironmentCaptured) -> str:
    return f"not captured: {', '.join(event.failures)}" if event.failures else ""


def _metrics(event: MetricsLogged) -> tuple[str, ...]:
    steps = sorted(event.step)
    span = ""
    if steps:
        span = _at(steps[-1]) if steps[0] == steps[-1] else f"steps {number(steps[0])} to {number(steps[-1])}"
    last = {
        name: next((value for value in reversed(values) if value is not None), None)
        for name, values in event.values.items()
    }
    return span, *(f"{name} {value:.4g}" for name, value in last.items() if value is not None)


def _verdict(event: ReplayCompared) -> tuple[str, ...]:
    failed = [check.name for check in event.checks if not check.passed]
    passed = f"{len(event.checks) - len(failed)} of {count(len(event.checks), 'check')} passed" if event.checks else ""
    return event.verdict, steps(event.segment), passed, "; ".join(event.reasons)


def _at(step: float | None) -> str:
    return "" if step is None else f"step {number(step)}"


def _exit_code(code: int | None) -> str:
    return "" if code is None else f"exit code {code}"


def _world(processes: int) -> str:
    return "" if processes == 1 else count(processes, "process", "processes")


def _seed(seed: int | None) -> str:
    return "" if seed is None else f"seed {seed}"
