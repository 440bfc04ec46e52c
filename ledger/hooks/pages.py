"""What a tracker shows of a run: the same picture for every tracker, made from the log and from nothing else.

``page_of`` says what one event adds to a run's page, and ``added`` puts what two say together; both are pure. So the
page that a tracker should show is the sum over the run's events, however they were cut into batches, and a mirror
that was given an event twice can tell that it has every part of it.

Keys of ``fields`` are paths: ``run/user``, ``attempt/2/from step``, ``data/corpus/commit``,
``checkpoint/step-500/uri``, ``replay/<uuid>/verdict``, ``status``. ``config`` has the run's configuration with dotted
keys: ``optim.lr``. What is no number, truth value or text is written as JSON.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ledger.codec import canonical_json
from ledger.events import (
    ArtifactWritten,
    CheckpointDeleted,
    CheckpointWritten,
    CodeCaptured,
    ConfigResolved,
    ConsoleCaptured,
    DataCommitted,
    EnvironmentCaptured,
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
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ledger.codec import Recorded

Scalar = str | int | float | bool
STATUS: Final = "status"
"""The field that says how a run goes: ``running``, ``completed``, ``failed`` or ``interrupted``."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric, as it was logged once."""

    metric: str
    """Its name; that of another rank than the first begins with ``rank-<n>/``."""
    step: float
    time: float
    """Unix seconds."""
    value: float
    attempt: int


@dataclass(frozen=True)
class Page:
    """What a tracker shows of one run, or what an event adds to it."""

    config: Mapping[str, Scalar] = field(default_factory=dict)
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    """In the order in which they were logged."""


@dataclass(frozen=True)
class Adaptation:
    """Something that a tracker cannot hold as it is in the log, and what it holds instead."""

    what: str
    """The metric, field, key or tag."""
    rule: str
    """What the tracker cannot do and what is shown in its place, as the mirror's documentation says it."""


def page_of(recorded: Recorded) -> Page:
    """What one event adds to its run's page; nothing for an event that no tracker has a place for."""
    event = recorded.event
    when = moment(recorded.recorded_at)
    attempt = recorded.metadata.attempt or 1
    match event:
        case MetricsLogged():
            return Page(points=tuple(_points(event, recorded.metadata.rank, attempt)))
        case ConfigResolved():
            return Page(
                config=flat(event.config), fields=_present({"config/digest": event.digest, "run/seed": event.seed})
            )
        case RunStarted():
            return Page(fields=_started(recorded.stream, event, when), tags=event.tags)
        case TrainingResumed():
            begun = {"from step": event.step, "from": event.uri, "started": when, "host": event.process.host}
            return Page(fields=_under(f"attempt/{event.attempt}", begun) | {STATUS: "running"})
        case RunCompleted() | RunFailed() | RunInterrupted():
            return Page(fields=_ended(event, attempt, when))
        case RunAnnotated():
            return Page(fields={f"note/{recorded.position}": event.text}, tags=event.tags)
        case GpuTimeUsed():
            return Page(points=(_device_time(event, recorded.metadata.rank, attempt),))
        case _:
            return Page(fields=_described(event))


def added(page: Page, more: Page) -> Page:
    """Both together; where they disagree, ``more`` is the newer. Associative, ``Page()`` changes nothing."""
    return Page(
        config={**page.config, **more.config},
        fields={**page.fields, **more.fields},
        tags=tuple(dict.fromkeys((*page.tags, *more.tags))),
        points=(*page.points, *more.points),
    )


def whole_page(pages: Iterable[Page]) -> Page:
    """All of them together, in time that grows with their content and not with its square."""
    config: dict[str, Scalar] = {}
    fields: dict[str, Scalar] = {}
    tags: dict[str, None] = {}
    points: list[Point] = []
    for page in pages:
        config.update(page.config)
        fields.update(page.fields)
        tags.update(dict.fromkeys(page.tags))
        points.extend(page.points)
    return Page(config, fields, tuple(tags), tuple(points))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """A nested configuration with dotted keys; what is no scalar as JSON. An empty table stays, as ``{}``."""
    found: dict[str, Scalar] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str | int | float) else canonical_json(value).decode()
    return found


def moment(recorded_at: str) -> float:
    """Unix seconds of an event's ``recorded_at``."""
    return datetime.fromisoformat(recorded_at).timestamp()


def _points(event: MetricsLogged, rank: int | None, attempt: int) -> Iterator[Point]:
    prefix = f"rank-{rank}/" if rank else ""
    for row, (step, time) in enumerate(zip(event.step, event.time, strict=True)):
        for metric, column in event.values.items():
            value = column[row]
            if value is not None:
                yield Point(prefix + metric, step, time, value, attempt)


def _device_time(event: GpuTimeUsed, rank: int | None, attempt: int) -> Point:
    prefix = f"rank-{rank}/" if rank else ""
    metric = f"{prefix}system/{event.kind}-{event.index} seconds"
    return Point(metric, event.step or 0, event.started_at + event.seconds, event.seconds, attempt)


def _started(stream: str, event: RunStarted, when: float) -> dict[str, Scalar]:
    return _under(
        "run",
        {
            "name": event.name,
            "id": stream.removeprefix("run-"),
            "kind": event.kind,
            "command": shlex.join(event.command),
            "directory": event.directory,
            "host": event.process.host,
            "processes": event.world.processes,
            "user": event.user,
            "project": event.project,
            "seed": event.seed,
            "replay of": event.replay_of,
            "started": when,
        },
    ) | {STATUS: "running"}


def _ended(event: RunCompleted | RunFailed | RunInterrupted, attempt: int, when: float) -> dict[str, Scalar]:
    match event:
        case RunCompleted():
            status, facts = "completed", _picked(event, "exit_code")
        case RunFailed():
            status, facts = "failed", _picked(event, "exit_code", "exception", "traceback")
        case RunInterrupted():
            status, facts = "interrupted", _picked(event, "signal")
    return _under(f"attempt/{attempt}", facts | {"status": status, "ended": when, "step": event.step}) | {
        STATUS: status
    }


def _described(event: object) -> dict[str, Scalar]:
    match event:
        case CodeCaptured():
            return _under("code", _picked(event, "repository", "commit", "branch", "dirty", "tree", "entry_point"))
        case EnvironmentCaptured():
            python = {f"python/{key}": value for key, value in event.python.items()}
            packages = {f"package/{name}": version for name, version in event.packages.items()}
            return _under("environment", {**python, **packages, "lock": event.lock})
        case DataCommitted():
            facts = _picked(event, "uri", "commit", "path", "digest", "files", "bytes", "role", "provider")
            return _under(f"data/{event.name}", facts)
        case CheckpointWritten():
            facts = _picked(event, "step", "uri", "digest", "bytes", "stored_bytes", "best", "attempt", "trigger")
            return _under(f"checkpoint/{event.name}", facts | {"state": "kept"})
        case CheckpointDeleted():
            return {f"checkpoint/{event.name}/state": f"deleted: {event.reason}"}
        case ParametersFingerprinted():
            return _under("fingerprint", _picked(event, "step", "parameters", "optimizer"))
        case ArtifactWritten():
            return _under(f"artifact/{event.path}", _picked(event, "digest", "bytes"))
        case ConsoleCaptured():
            return _under("console", _picked(event, "digest", "bytes"))
        case ReplayCompared():
            reasons = "; ".join((*event.reasons, *event.inexact)) or None
            after, until = event.segment or (None, None)  # of a part; otherwise it is about the whole run
            facts = _picked(event, "verdict", "original") | {
                "reasons": reasons,
                "after step": after,
                "until step": until,
            }
            return _under(f"replay/{event.replay or event.original}", facts)
        case _:
            return {}


def _picked(event: object, *names: str) -> dict[str, Scalar | None]:
    return {name.replace("_", " "): getattr(event, name) for name in names}


def _under(path: str, facts: Mapping[str, Scalar | None]) -> dict[str, Scalar]:
    return {f"{path}/{key}": value for key, value in _present(facts).items()}


def _present(facts: Mapping[str, Scalar | None]) -> dict[str, Scalar]:
    return {key: value for key, value in facts.items() if value is not None}
