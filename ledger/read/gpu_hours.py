"""What became of device time: useful, lost to crashes, or spent on replays. Pure, but for ``account``, which reads.

Of an attempt that died, what came after the checkpoint that the next one resumed from is lost; if none did, what came
after its own last checkpoint. A checkpoint counts from the moment at which it was on record. All time of a replay is a
replay's, however it ended.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

import orjson

from ledger.errors import UsageError
from ledger.events import CheckpointWritten, CodeCaptured, DeviceKind, GpuTimeUsed, TrainingResumed
from ledger.read.names import Reading
from ledger.store.base import run_stream
from ledger.store.projections.query import Config, RunQuery

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ledger.codec import Recorded
    from ledger.settings import Prices
    from ledger.store.base import EventStore
    from ledger.store.projections.summary import RunSummary

By = Literal["run", "user", "project", "model"]
Use = Literal["useful", "lost", "replays"]

HOUR_S: Final = 3600.0
_FEW: Final = 100
"""Runs whose streams are read one by one sooner than those of a whole ledger."""
_TASK: Final = Config("task")
_TYPES: Final = {event.type: event for event in (GpuTimeUsed, CheckpointWritten, TrainingResumed)}


@dataclass
class DeviceHours:
    """Device time of some runs."""

    name: str
    """What they have in common; empty where that is not on record."""
    gpu: dict[Use, float] = field(default_factory=lambda: dict.fromkeys(get_args(Use), 0.0))
    """Hours for which a rank held a GPU, by use."""
    cpu: dict[Use, float] = field(default_factory=lambda: dict.fromkeys(get_args(Use), 0.0))
    """Hours for which a rank held a CPU and no GPU, by use."""
    energy_joules: float | None = None
    """Of the devices that can tell it; None where none can."""
    cost: float | None = None
    """Of the devices that have a price; None where none has."""
    unpriced: set[str] = field(default_factory=set)
    """Models of devices without a price."""

    def add(self, other: DeviceHours) -> None:
        """Count what ``other`` counts, too."""
        for use in self.gpu:
            self.gpu[use] += other.gpu[use]
            self.cpu[use] += other.cpu[use]
        self.energy_joules = _sum(self.energy_joules, other.energy_joules)
        self.cost = _sum(self.cost, other.cost)
        self.unpriced |= other.unpriced


class _Span(NamedTuple):
    """One ``gpu_time.used``."""

    attempt: int
    kind: DeviceKind
    model: str
    began: float
    seconds: float
    joules: float | None


@dataclass
class _Line:
    """What one run's stream tells about its device time."""

    spans: list[_Span] = field(default_factory=list)
    checkpoints: list[tuple[int, float, str]] = field(default_factory=list)
    """Attempt, Unix seconds and URI, in the order of the log."""
    resumed: list[tuple[int, float]] = field(default_factory=list)
    """Attempts after the first, and the Unix seconds of the checkpoints that they resumed from."""


def account(
    store: EventStore, living: frozenset[str], prices: Prices, *, by: By = "run", where: str | None = None
) -> list[DeviceHours]:
    """Device time of all runs, or of those for which ``where`` is true, of each group that has any.

    Runs come in the order in which they started, other groups with most GPU time first. ``living`` are the streams
    whose writers live. ``model`` is the task of a recipe or, without one, the program that was started. Raises
    ``UsageError`` for a condition that is none.
    """
    if by not in get_args(By):
        raise UsageError(f"device time cannot be told by {by}", mend=f"ask for it by {', '.join(get_args(By))}")
    condition = Reading(where, store.projections.find).condition() if where is not None else None
    query = RunQuery(condition, living=living, asked=(_TASK,) if by == "model" else ())
    runs = {run.stream: run for run in store.projections.runs(query)}
    names = _names(store, runs, by)
    groups: dict[str, DeviceHours] = {}
    for hours in spent(_events(store, runs), runs, prices):
        name = names[run_stream(hours.name)]
        groups.setdefault(name, DeviceHours(name)).add(hours)
    if by == "run":
        return list(groups.values())
    return sorted(groups.values(), key=lambda g: (-sum(g.gpu.values()), -sum(g.cpu.values()), g.name))


def spent(events: Iterable[Recorded], runs: Mapping[str, RunSummary], prices: Prices) -> list[DeviceHours]:
    """Device time of each of ``runs`` that has any, by UUID, in their order; they are given by stream.

    ``events`` may be of other runs, too.
    """
    lines: dict[str, _Line] = defaultdict(_Line)
    for recorded in events:
        known = _TYPES.get(recorded.type)
        if known and recorded.stream in runs and recorded.schema_version <= known.schema_version:
            _note(lines[recorded.stream], recorded)
    used = ((run, lines[stream]) for stream, run in runs.items() if stream in lines)
    return [_hours(run, line, prices) for run, line in used if line.spans]


def _events(store: EventStore, runs: Mapping[str, RunSummary]) -> Iterable[Recorded]:
    if len(runs) > _FEW:
        return store.read_all(types=tuple(_TYPES))
    return chain.from_iterable(store.read(stream, types=tuple(_TYPES)) for stream in runs)


def _note(line: _Line, recorded: Recorded) -> None:
    # Believed, not validated field by field: a long run on many devices has tens of thousands of these.
    payload: dict[str, Any] = orjson.loads(recorded.payload)
    attempt = recorded.metadata.attempt or 1
    if recorded.type == GpuTimeUsed.type:
        began, seconds, joules = payload["started_at"], payload["seconds"], payload["energy_joules"]
        line.spans.append(_Span(attempt, payload["kind"], payload["model"], began, seconds, joules))
    elif recorded.type == CheckpointWritten.type:
        line.checkpoints.append((attempt, _unix(recorded.recorded_at), payload["uri"]))
    else:
        times = [time for _, time, uri in line.checkpoints if uri == payload["uri"]]
        line.resumed.append((payload["attempt"], times[-1] if times else -math.inf))


def _hours(run: RunSummary, line: _Line, prices: Prices) -> DeviceHours:
    hours = DeviceHours(run.id)
    limits = {attempt: _limit(run, line, attempt) for attempt in {span.attempt for span in line.spans}}
    for span in line.spans:
        use, total = hours.gpu if span.kind == "gpu" else hours.cpu, span.seconds / HOUR_S
        if run.kind == "replay":
            use["replays"] += total
        else:
            kept = min(max(limits[span.attempt] - span.began, 0.0), span.seconds) / HOUR_S
            use["useful"] += kept
            use["lost"] += total - kept
        hours.energy_joules = _sum(hours.energy_joules, span.joules)
        price = prices.of(span.kind, span.model)
        if price is None:
            hours.unpriced.add(span.model)
        else:
            hours.cost = _sum(hours.cost, price * total)
    return hours


def _limit(run: RunSummary, line: _Line, attempt: int) -> float:
    """The moment up to which the work of an attempt was of use, in Unix seconds."""
    later = [time for number, time in line.resumed if number > attempt]
    if later:
        return min(later)
    if run.status in ("completed", "running"):
        return math.inf
    return max((time for number, time, _ in line.checkpoints if number == attempt), default=-math.inf)


def _names(store: EventStore, runs: Mapping[str, RunSummary], by: By) -> dict[str, str]:
    """The group that each run is in."""
    match by:
        case "run":
            return {stream: run.name for stream, run in runs.items()}
        case "user":
            return {stream: run.user or "" for stream, run in runs.items()}
        case "project":
            return {stream: run.project or "" for stream, run in runs.items()}
        case "model":
            tasks = {stream: str(run.asked[0] or "") for stream, run in runs.items()}
            programs = _programs(store, [stream for stream, task in tasks.items() if not task])
            return {stream: task or programs.get(stream, "") for stream, task in tasks.items()}


def _programs(store: EventStore, streams: Sequence[str]) -> dict[str, str]:
    """The program that was started, of runs that were not trained from a recipe."""
    wanted = frozenset(streams)
    captured = store.read_all(types=(CodeCaptured.type,)) if wanted else ()
    return {e.stream: orjson.loads(e.payload).get("entry_point") or "" for e in captured if e.stream in wanted}


def _sum(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else one + other


def _unix(recorded_at: str) -> float:
    return datetime.fromisoformat(recorded_at).timestamp()
