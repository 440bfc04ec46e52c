"""What a run of MLflow's is made of, sent in requests that MLflow takes; what it refuses is kept as text in a tag."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ledger.errors import Conflict
from ledger.hooks.pages import Adaptation, Point
from ledger_mlflow import rules
from ledger_mlflow.server import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ledger.events import DataCommitted
    from ledger.hooks.pages import Scalar
    from ledger_mlflow.server import Server

TAG: Final = "tag/"
"""MLflow's tags have a name and a value; one of Ledger's is a value under this and its name."""
CONFIG: Final = "ledger.config/"
"""MLflow never changes a parameter: the newest value of one that was set again is a tag under this."""
REFUSED: Final = "ledger.refused/"
"""Tags with what the server refuses, as JSON."""
_METRICS: Final = 1000
_FACTS: Final = 100
"""Most that MLflow takes in one request."""
_BYTES: Final = 500_000
"""It takes 1,000,000; what surrounds a value counts, too."""
_DATASET_TEXT: Final = 36
"""Most characters that MLflow's database has for the digest of a data set, and for where it comes from."""

Entry = TypeVar("Entry")


class Entries:
    """The entries of one run."""

    def __init__(self, server: Server, run: str) -> None:
        self._server = server
        self._run = run

    def config(self, config: Mapping[str, Scalar]) -> None:
        """Parameters; one that has another value already gets the new one in a tag."""
        if not config:
            return
        from mlflow.entities import Param

        found = self._server.call("the run", self._server.client.get_run, self._run).data
        new = [Param(key, str(value)) for key, value in config.items() if key not in found.params]
        again = {
            CONFIG + key: str(value)
            for key, value in config.items()
            if found.params.get(key, value) != value or CONFIG + key in found.tags
        }
        for param, _ in self._send("params", new, _FACTS, lambda param: len(param.key) + _size(param.value)):
            again[CONFIG + param.key] = param.value
        self.tags(again)

    def points(self, points: Sequence[Point]) -> None:
        """Values of metrics."""
        if not points:
            return
        from mlflow.entities import Metric

        metrics = [Metric(p.metric, p.value, round(p.time * 1000), int(p.step)) for p in points]
        for metric, why in self._send("metrics", metrics, _METRICS, lambda metric: 100 + _size(metric.key)):
            self._keep("metric", why, name=metric.key, step=metric.step, time=metric.timestamp, value=metric.value)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Fields, tags, and what else has a name and a text."""
        if not tags:
            return
        from mlflow.entities import RunTag

        entries = [RunTag(key, value) for key, value in tags.items()]
        for tag, why in self._send("tags", entries, _FACTS, lambda tag: len(tag.key) + _size(tag.value)):
            if tag.key.startswith(REFUSED):
                raise Refused(f"MLflow refuses even a note of what it refuses: {why}")
            self._keep("tag", why, name=tag.key, value=tag.value)

    def datasets(self, commits: Iterable[DataCommitted]) -> None:
        """Data that the run reads, where MLflow's pages look for them."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        for each in commits:
            source = json.dumps({"uri": each.uri, "commit": each.commit, "digest": each.digest})
            dataset = Dataset(each.name, beginning(each.digest), each.provider[:_DATASET_TEXT], source)
            given = DatasetInput(dataset, [InputTag("mlflow.data.context", each.role)])
            try:
                self._server.call("its data", self._server.client.log_inputs, self._run, [given])
            except Refused as refused:
                self._require_active()
                self._keep("input", str(refused), name=each.name, role=each.role, value=dataset.digest)

    def _keep(self, kind: str, why: str, **entry: Any) -> None:
        warnings.warn(f"MLflow refuses the {kind} {entry['name']}, a tag keeps it: {why}", RuntimeWarning, stacklevel=3)
        text = json.dumps({"kind": kind, **entry, "value": str(entry["value"])}, ensure_ascii=False)
        # Of a tag the newest value counts and replaces the one before, of a metric each.
        identity = f"tag {entry['name']}" if kind == "tag" else text
        self.tags({REFUSED + hashlib.sha256(identity.encode()).hexdigest()[:16]: text})

    def _send(
        self, kind: str, entries: Sequence[Entry], most: int, size: Callable[[Entry], int]
    ) -> Iterator[tuple[Entry, str]]:
        """Send them all; yields those that the server refuses on their own, and its words."""
        for part in _parts(entries, most, size):
            yield from self._send_part(kind, part)

    def _send_part(self, kind: str, part: Sequence[Entry]) -> Iterator[tuple[Entry, str]]:
        try:
            self._server.call(f"{len(part)} {kind}", self._server.client.log_batch, self._run, **{kind: part})
        except Refused as refused:
            if len(part) == 1:
                self._require_active()
                yield part[0], str(refused)
                return
            half = len(part) // 2
            yield from self._send_part(kind, part[:half])
            yield from self._send_part(kind, part[half:])

    def _require_active(self) -> None:
        """To a run that was deleted everything is refused."""
        info = self._server.call("the run", self._server.client.get_run, self._run).info
        if info.lifecycle_stage != "active":
            raise Conflict(
                f"the run {info.run_name} was deleted in MLflow", mend=f"`mlflow runs restore --run-id {info.run_id}`"
            )


def with_refused(tags: Mapping[str, str]) -> dict[str, str]:
    """All tags of a run, those too that the server refused and another tag keeps."""
    return {**tags, **{kept["name"]: kept["value"] for kept in _kept(tags, "tag")}}


def refused_points(tags: Mapping[str, str]) -> Iterator[Point]:
    """Values of metrics that the server refused, from the tags that keep them."""
    for kept in _kept(tags, "metric"):
        yield Point(kept["name"], kept["step"], kept["time"] / 1000, float(kept["value"]), 1)


def refused_datasets(tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names and digests of data that the server refused as inputs, from the tags that keep them."""
    for kept in _kept(tags, "input"):
        yield kept["name"], kept["value"]


def beginning(digest: str) -> str:
    """What MLflow takes of the digest of data."""
    return digest[:_DATASET_TEXT]


def adaptations(tags: Mapping[str, str]) -> list[Adaptation]:
    """What has a tag because MLflow would not have it where it belongs, each once."""
    again = [(f"parameter {key.removeprefix(CONFIG)}", rules.AGAIN) for key in tags if key.startswith(CONFIG)]
    kept = [
        (f"{kind} {entry['name']}", rules.KEPT) for kind in ("tag", "metric", "input") for entry in _kept(tags, kind)
    ]
    return [Adaptation(what, rule) for what, rule in dict.fromkeys((*again, *kept))]


def _kept(tags: Mapping[str, str], kind: str) -> list[dict[str, Any]]:
    kept = [json.loads(value) for key, value in tags.items() if key.startswith(REFUSED)]
    return [entry for entry in kept if entry["kind"] == kind]


def _parts(entries: Iterable[Entry], most: int, size: Callable[[Entry], int]) -> Iterator[list[Entry]]:
    """In this order, in parts that one request can carry."""
    part: list[Entry] = []
    total = 0
    for entry in entries:
        bytes_ = size(entry)
        if part and (len(part) == most or total + bytes_ > _BYTES):
            yield part
            part, total = [], 0
        part.append(entry)
        total += bytes_
    if part:
        yield part


def _size(text: str) -> int:
    """Bytes in JSON that has nothing but ASCII."""
    return len(json.dumps(text))
