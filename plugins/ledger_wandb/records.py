"""A run's page as W&B's records, and what a file of such records holds.

A delivery is: the run (the first time, and when its tags or notes change), its configuration, metrics that are new,
rows of history, and the summary, in which fields stand as ``ledger/<field>`` and ``ledger/log`` says which events the
file has. That mark makes the delivery whole; what stands behind the last one was cut off. A run that has ended has an
exit record behind it, so that W&B does not take it for one that crashed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from ledger.hooks.pages import STATUS, moment, page_of, whole_page
from ledger_wandb.limits import OURS, adapt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ledger.codec import Recorded
    from ledger.hooks.pages import Page, Point, Scalar

STEP: Final = f"{OURS}step"
ATTEMPT: Final = f"{OURS}attempt"
MARK: Final = f"{OURS}log"
FIRST: Final = f"{OURS}first event"
"""Digest of the first event, in the configuration: whose run it is that W&B has under this id."""
_NOTE: Final = "note/"
_PROJECT: Final = "run/project"
_NO_PROJECT: Final = "ledger"
_EXIT_CODE: Final = {"completed": 0, "failed": 1, "interrupted": 255}
"""255 is what W&B itself ends an interrupted run with, and shows as killed."""


@dataclass(frozen=True)
class Place:
    """Where a run's page goes on W&B."""

    run: str
    """Its id: the run's UUID."""
    entity: str
    project: str
    """Empty for the run's own."""


@dataclass
class Held:
    """What the whole deliveries in a run's files hold, as far as the next one depends on it."""

    end: int = 0
    """Offset in the last file behind its last whole delivery; 0 where the next one begins a file."""
    parts: int = 0
    """How many files there are."""
    records: int = 0
    """How many the last file has."""
    run: Any = None
    """The run's record as it was written last."""
    config: dict[str, str] = field(default_factory=dict)
    """Values as JSON, as are those of the summary."""
    summary: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, None] = field(default_factory=dict)

    @property
    def mark(self) -> Mapping[str, Any]:
        """``first``, ``last``: digests of these events; ``events``: how many; ``exit``: a code; ``start``: seconds."""
        return json.loads(self.summary.get(MARK, "{}"))  # type: ignore[no-any-return]

    @property
    def project(self) -> str:
        """The run's own, whatever the files were written for."""
        return json.loads(self.summary.get(OURS + _PROJECT, "null")) or _NO_PROJECT

    @property
    def step(self) -> int:
        """W&B's own: the number of the last row."""
        return int(self.summary.get("_step", -1))

    def take(self, record: Any) -> None:
        """Count a record in."""
        self.records = record.num
        match record.WhichOneof("record_type"):
            case "run":
                self.run = record.run
            case "config":
                self.config |= {item.key: item.value_json for item in record.config.update}
            case "metric":
                self.metrics[record.metric.name] = None
            case "summary":
                self.summary |= {item.nested_key[0]: item.value_json for item in record.summary.update}


def is_whole(record: Any) -> bool:
    """Whether a delivery is whole with this record."""
    return any(list(item.nested_key) == [MARK] for item in record.summary.update)


def delivery(held: Held, events: Sequence[Recorded], place: Place) -> list[Any]:
    """The records that bring ``events``, which follow upon what is held, up to the mark.

    A file that begins with them has all but the history of the files before it, too: when W&B is given a file, it takes
    the configuration and the summary of the run from that one.
    """
    pages = [adapt(page_of(event))[0] for event in events]
    page = whole_page(pages)
    mark = _mark(held, events, page)
    rows = [row for each in pages for row in _rows(each.points, mark["start"])]
    made = [
        *([] if held.end else [_header()]),
        *_run(held, events[0], page, place),
        *_config(held, page),
        *_metrics(held, page.points),
        *(_history(number, row) for number, row in enumerate(rows, held.step + 1)),
        _summary(held, page, rows, mark),
    ]
    for number, record in enumerate(made, held.records + 1 if held.end else 1):
        record.num = number
        record._info.stream_id = place.run
    return made


def ending(code: int) -> Any:
    """The record that ends a run, behind all others."""
    from wandb.proto.wandb_internal_pb2 import Record

    return Record(exit={"exit_code": code})


def _header() -> Any:
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    return Record(header={"version_info": {"producer": wandb.__version__, "min_consumer": "0.70.0"}})


def _run(held: Held, first: Recorded, page: Page, place: Place) -> Iterator[Any]:
    """The run's record, where a file begins or it changes."""
    from wandb.proto.wandb_internal_pb2 import Record

    record = Record(run=held.run or _begun(first, page, place))
    notes = [str(value) for key, value in page.fields.items() if key.startswith(_NOTE)]
    tags = [tag for tag in page.tags if tag not in set(record.run.tags)]
    if held.end and not (notes or tags):
        return
    record.run.tags.extend(tags)
    record.run.notes = "\n\n".join(filter(None, (record.run.notes, *notes)))
    if not held.end:  # W&B takes the files of one run in the order of these times
        record.run.start_time.FromNanoseconds(record.run.start_time.ToNanoseconds() + 1000 * (held.parts > 0))
    yield record


def _begun(first: Recorded, page: Page, place: Place) -> Any:
    from wandb.proto.wandb_internal_pb2 import RunRecord

    begun = RunRecord(
        run_id=place.run,
        entity=place.entity,
        project=place.project or str(page.fields.get(_PROJECT) or _NO_PROJECT),
        display_name=str(page.fields.get("run/name", "")),
        host=str(page.fields.get("run/host", "")),
        config={"update": [{"key": FIRST, "value_json": json.dumps(first.digest)}]},
    )
    begun.start_time.FromJsonString(first.recorded_at)
    return begun


def _config(held: Held, page: Page) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    values = {key: json.dumps(value) for key, value in page.config.items()}
    if not held.end:
        values = held.config | values
    if values:
        yield Record(config={"update": [{"key": key, "value_json": value} for key, value in values.items()]})


def _metrics(held: Held, points: Iterable[Point]) -> Iterator[Any]:
    """Each new metric has the log's steps on its axis: W&B's own count rows."""
    from wandb.proto.wandb_internal_pb2 import Record

    known = held.metrics if held.end else {}
    wanted = dict.fromkeys((*([] if held.end else held.metrics), *(point.metric for point in points)))
    if wanted and STEP not in known:
        yield Record(metric={"name": STEP, "options": {"defined": True, "hidden": True}})
    for name in wanted:
        if name not in known and name != STEP:
            yield Record(metric={"name": name, "step_metric": STEP, "options": {"defined": True, "step_sync": True}})


def _rows(points: Iterable[Point], start: float) -> Iterator[dict[str, float]]:
    """The points of one event: those of one moment in a row."""
    for (step, time, attempt), together in groupby(points, key=lambda point: (point.step, point.time, point.attempt)):
        known = {STEP: step, ATTEMPT: attempt, "_timestamp": time, "_runtime": time - start}
        row: dict[str, float] = {}
        for point in together:
            if point.metric in row:
                yield known | row
                row = {}
            row[point.metric] = point.value
        yield known | row


def _history(number: int, row: Mapping[str, float]) -> Any:
    from wandb.proto.wandb_internal_pb2 import Record

    values = {key: json.dumps(value) for key, value in {**row, "_step": number}.items()}
    return Record(history={"item": _items(values), "step": {"num": number}})


def _summary(held: Held, page: Page, rows: Sequence[Mapping[str, float]], mark: Mapping[str, Any]) -> Any:
    """The fields, the last value of each metric, and the mark."""
    from wandb.proto.wandb_internal_pb2 import Record

    values: dict[str, Any] = {}
    for row in rows:
        values |= row
    if rows:
        values["_step"] = held.step + len(rows)
    values |= {OURS + key: value for key, value in page.fields.items()} | {MARK: mark}
    told = {key: json.dumps(value) for key, value in values.items()}
    return Record(summary={"update": _items(told if held.end else held.summary | told)})


def _items(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"nested_key": [key], "value_json": value} for key, value in values.items()]


def _mark(held: Held, events: Sequence[Recorded], page: Page) -> dict[str, Any]:
    return {
        "first": held.mark.get("first", events[0].digest),
        "last": events[-1].digest,
        "events": events[-1].position + 1,
        "exit": _exit_code(page.fields) if STATUS in page.fields else held.mark.get("exit"),
        "start": held.mark.get("start", moment(events[0].recorded_at)),
    }


def _exit_code(fields: Mapping[str, Scalar]) -> int | None:
    """What W&B is told of a run's end; None while it goes on."""
    status = str(fields[STATUS])
    codes = [value for key, value in fields.items() if key.startswith("attempt/") and key.endswith("/exit code")]
    if status == "failed" and codes and codes[-1]:
        return int(codes[-1])
    return _EXIT_CODE.get(status)
