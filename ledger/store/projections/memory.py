"""The projections in memory: the reference that the SQL ones are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ledger.store.base import run_stream
from ledger.store.projections.fold import fold, measured_again
from ledger.store.projections.intake import MEASURING, take_in
from ledger.store.projections.query import (
    Config,
    Field,
    Metric,
    Names,
    RunQuery,
    Unended,
    WrittenCheckpoint,
    holds,
    names_ending,
    ordered,
    shortened,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ledger.codec import Recorded
    from ledger.store.base import Lease
    from ledger.store.projections.measured import Measured
    from ledger.store.projections.query import Quantity
    from ledger.store.projections.summary import CommittedData, KeptCheckpoint, RunSummary, Value


@dataclass
class _Run:
    """All that is kept about one run."""

    summary: RunSummary
    metrics: dict[str, Measured] = field(default_factory=dict)
    config: dict[str, Value] = field(default_factory=dict)
    data: dict[str, CommittedData] = field(default_factory=dict)
    checkpoints: list[KeptCheckpoint] = field(default_factory=list)


class MemoryProjections:
    """See ``Projections``. ``apply`` and ``clear`` are called by the store, which holds ``lock`` then."""

    def __init__(self, lock: AbstractContextManager[Any], lease: Callable[[str], Lease | None]) -> None:
        self._lock = lock
        self._lease = lease
        self._runs: dict[str, _Run] = {}

    def apply(self, stream: str, events: Sequence[Recorded], log: Sequence[Recorded]) -> None:
        """Bring the projections up to date with events of ``stream``; ``log`` is all of that stream, these included."""
        kept = self._runs.get(stream)
        changes = fold(stream, kept.summary if kept else None, take_in(events))
        if changes is None:
            return
        run = self._runs.setdefault(stream, _Run(changes.summary))
        if changes.taken_back:
            changes.metrics = measured_again(changes.summary, take_in(e for e in log if e.type in MEASURING))
        if changes.taken_back or changes.anew:
            run.metrics = {}
        for name, measured in changes.metrics.items():
            run.metrics[name] = run.metrics[name].then(measured) if name in run.metrics else measured
        run.config = run.config if changes.config is None else changes.config
        run.data |= changes.data
        run.checkpoints = [
            kept._replace(deleted=kept.deleted or (kept.uri, kept.digest) in changes.deleted)
            for kept in run.checkpoints
        ] + changes.checkpoints

    def clear(self) -> None:
        """Forget everything."""
        self._runs.clear()

    def runs(self, query: RunQuery) -> list[RunSummary]:
        """See ``Projections.runs``."""
        with self._lock:
            found = list(self._fitting(query))
            if query.order:
                by = query.order.by
                found = ordered(found, query.order, lambda run: _scalar(self._look(run, by)))
        if query.order is None and query.limit is not None:
            return found[-query.limit :]
        return found[: query.limit]

    def metrics(self, streams: Collection[str]) -> dict[str, dict[str, Measured]]:
        """See ``Projections.metrics``."""
        with self._lock:
            kept = {stream: self._runs[stream].metrics if stream in self._runs else {} for stream in streams}
            return {stream: dict(sorted(metrics.items())) for stream, metrics in kept.items()}

    def run_names(self) -> dict[str, str]:
        """See ``Projections.run_names``."""
        with self._lock:
            return {stream: run.summary.name for stream, run in self._runs.items()}

    def find(self, name: str | None = None) -> Names:
        """See ``Projections.find``."""
        paths: dict[str, bool] = {}
        with self._lock:
            runs = list(self._runs.values())
            metrics = frozenset(metric for run in runs for metric in run.metrics if name in (None, metric))
            for path, value in (pair for run in runs for pair in run.config.items()):
                paths[path] = paths.get(path, False) or isinstance(value, float)
        return Names(metrics, paths if name is None else names_ending(name, paths))

    def unended(self) -> list[Unended]:
        """See ``Projections.unended``."""
        with self._lock:
            running = [run.summary for run in self._runs.values() if run.summary.status == "running"]
            leases = [self._lease(summary.stream) for summary in running]
        return [
            Unended(of.stream, of.host, of.pid, of.process_started, lease.left if lease else None)
            for of, lease in zip(running, leases, strict=True)
        ]

    def checkpoints(self, digests: Collection[str]) -> list[WrittenCheckpoint]:
        """See ``Projections.checkpoints``."""

        def same(digest: str) -> bool:
            return any(low <= digest < high for low, high in map(shortened, digests))

        found = []
        with self._lock:
            for summary, written in [(run.summary, each) for run in self._runs.values() for each in run.checkpoints]:
                files = [path for path, digest in sorted(written.files) if same(digest)]
                if same(written.digest) or files:
                    file = None if same(written.digest) else files[0]
                    replay = summary.replay_of is not None
                    found.append(WrittenCheckpoint(written.position, summary.stream, summary.name, replay, file))
        return sorted(found, key=lambda match: (match.replay, match.position))

    def _fitting(self, query: RunQuery) -> Iterator[RunSummary]:
        """Those that fit, each a copy with what is listed of it."""
        for stream, run in self._runs.items():
            kept = run.summary
            dead = kept.status == "running" and stream not in query.living
            headline = {kept.headline: run.metrics[kept.headline].last} if kept.headline else {}
            original = self._runs.get(run_stream(kept.replay_of)) if kept.replay_of else None
            summary = replace(
                kept,
                status="interrupted" if dead else kept.status,
                metrics=headline,
                original=original.summary.name if original else None,
                rank=None,
                resumed={},
            )
            if query.where is None or holds(query.where, lambda of, s=summary: self._look(s, of)):  # type: ignore[misc]
                summary.asked = tuple(_scalar(self._look(summary, of)) for of in query.asked)
                yield summary

    def _look(self, summary: RunSummary, of: Quantity) -> Value | tuple[str, ...] | None:
        run = self._runs[summary.stream]
        match of:
            case Metric(name, which):
                return getattr(run.metrics[name], which) if name in run.metrics else None
            case Config(path):
                return run.config.get(path)
            case Field("tag"):
                return summary.tags
            case Field("data"):
                return tuple(text for data in run.data.values() for text in data)
            case Field("replay_of"):
                return tuple(text for text in (summary.replay_of, summary.original) if text)
            case Field("started"):
                return summary.started_at
            case Field("ended"):
                return summary.ended_at
            case Field(name):
                value: Value | None = getattr(summary, name)
                return value


def _scalar(value: Value | tuple[str, ...] | None) -> Value | None:
    """NaN is no value to sort by or to show."""
    if isinstance(value, int | float):
        return None if value != value else float(value)
    return value if isinstance(value, str) else None
