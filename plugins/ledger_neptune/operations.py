"""A run's page as Neptune's operations, and what a queue of them holds.

Fields are ``ledger/<field>``, the configuration is ``config/<key>``, and a metric's points are in the series
``metrics/<metric>/attempt-<n>``: Neptune wants the steps of a series to rise, and a resumed run goes back. A delivery
ends with ``mirror/log``, which says which events are there; what stands behind the last of these was cut off.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ledger.hooks.pages import STATUS, Page, Point, page_of, whole_page
from ledger_neptune.limits import ATTEMPT, adapt, follows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ledger.codec import Recorded
    from ledger.hooks.pages import Scalar

_FIELDS: Final = "ledger"
_CONFIG: Final = "config"
_METRICS: Final = "metrics"
_TAGS: Final = ["sys", "tags"]
MARK: Final = ["mirror", "log"]
_WIDEST: Final = 2**31
"""Neptune's whole numbers have 32 bits; what is wider becomes one of its floats, and is still exact."""
_SERIES: Final = re.compile(rf"{ATTEMPT}(\d+)(?:\.(\d+))?( text)?")

Key = tuple[str, int, bool]
"""A metric, an attempt, and whether it is the series of what is not finite."""


@dataclass
class Held:
    """What the whole deliveries in a queue hold, as far as the next one depends on it."""

    end: int = 0
    """Bytes of the queue's file up to the end of the last whole delivery."""
    version: int = 0
    """Neptune's number of its last operation."""
    mark: Mapping[str, Any] = field(default_factory=dict)
    """``first`` and ``last``: digests of these events; ``events``: how many."""
    series: dict[Key, tuple[int, float, float]] = field(default_factory=dict)
    """The number of each metric's newest series, and step and time of its last point."""
    kinds: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Of each path that was assigned to, by which operation."""

    def take(self, operation: Any) -> None:
        """Count an operation in."""
        if operation.path == MARK:
            self.mark = json.loads(operation.value)
        if is_assignment(operation):
            self.kinds[tuple(operation.path)] = type(operation).__name__
        for metric, attempt, number, text in _of_series(operation):
            last = operation.values[-1]
            self.series[metric, attempt, text] = (number, last.step, last.ts)


def is_whole(operation: Any) -> bool:
    """Whether a delivery is whole with this operation."""
    return bool(operation.path == MARK)


def is_assignment(operation: Any) -> bool:
    """Whether the operation gives a field its value."""
    return type(operation).__name__.startswith("Assign")


def is_series(path: Sequence[str]) -> bool:
    """Whether a path is one that this mirror puts points under."""
    return path[0] == _METRICS and _SERIES.fullmatch(path[-1]) is not None


def delivery(held: Held, events: Sequence[Recorded]) -> list[Any]:
    """The operations that bring ``events``, which follow upon what is held."""
    from neptune.internal.operation import AddStrings, AssignString

    pages = [adapt(page_of(event))[0] for event in events]
    page = whole_page(pages)
    mark = {
        "first": held.mark.get("first", events[0].digest),
        "last": events[-1].digest,
        "events": events[-1].position + 1,
    }
    series = dict(held.series)
    return [
        *_assigned(held, {(_CONFIG, key): value for key, value in page.config.items()}),
        *_assigned(held, {(_FIELDS, *key.split("/")): value for key, value in page.fields.items()}),
        *_about_run(page.fields),
        *([AddStrings(_TAGS, set(page.tags))] if page.tags else []),
        *(operation for each in pages for operation in _logged(each.points, series)),
        AssignString(MARK, json.dumps(mark)),
    ]


def page_in(operations: Iterable[Any]) -> Page:
    """The page that a queue's operations come to, applied in their order."""
    config: dict[str, Scalar] = {}
    fields: dict[str, Scalar] = {}
    tags: dict[str, None] = {}
    points: list[Point] = []
    for operation in operations:
        for metric, attempt, _, _ in _of_series(operation):
            points += [Point(metric, each.step, each.ts, float(each.value), attempt) for each in operation.values]
        if is_assignment(operation) and operation.path[0] == _CONFIG:
            config[operation.path[1]] = operation.value
        if is_assignment(operation) and operation.path[0] == _FIELDS:
            fields["/".join(operation.path[1:])] = operation.value
        if operation.path == _TAGS:
            tags |= dict.fromkeys(operation.values)
    return Page(config, fields, tuple(tags), tuple(points))


def _assigned(held: Held, values: Mapping[tuple[str, ...], Scalar]) -> Iterator[Any]:
    """Neptune takes no value of another type than it has, so that one is deleted first."""
    from neptune.internal.operation import AssignFloat, DeleteAttribute

    for path, value in values.items():
        kind = _assignment(value)
        if held.kinds.get(path, kind.__name__) != kind.__name__:
            yield DeleteAttribute(list(path))
        yield kind(list(path), float(value) if kind is AssignFloat else value)


def _assignment(value: Scalar) -> Any:
    from neptune.internal.operation import AssignBool, AssignFloat, AssignInt, AssignString

    kinds = {bool: AssignBool, int: AssignInt, float: AssignFloat, str: AssignString}
    wide = type(value) is int and not -_WIDEST <= value < _WIDEST
    return AssignFloat if wide else kinds[type(value)]


def _about_run(fields: Mapping[str, Scalar]) -> Iterator[Any]:
    """What Neptune's own list of runs shows."""
    from neptune.internal.operation import AssignBool, AssignString

    if "run/name" in fields:
        yield AssignString(["sys", "name"], str(fields["run/name"]))
    if STATUS in fields:
        yield AssignBool(["sys", "failed"], fields[STATUS] == "failed")


def _logged(points: Iterable[Point], series: dict[Key, tuple[int, float, float]]) -> list[Any]:
    """One event's points: an operation for each series, in which the steps rise and the times do not go back."""
    from neptune.internal.operation import LogFloats, LogStrings

    operations: list[Any] = []
    newest: dict[str, Any] = {}
    for point in points:
        text = not math.isfinite(point.value)
        number, *last = series.get((point.metric, point.attempt, text), (1,))
        if last and not follows((last[0], last[1]), point):
            number += 1
        series[point.metric, point.attempt, text] = (number, point.step, point.time)
        name = f"{ATTEMPT}{point.attempt}" + (f".{number}" if number > 1 else "") + (" text" if text else "")
        path = [_METRICS, *point.metric.split("/"), name]
        kind = LogStrings if text else LogFloats
        if point.metric not in newest or newest[point.metric].path != path:  # else the order of points would be lost
            newest[point.metric] = kind(path, [])
            operations.append(newest[point.metric])
        value: Any = json.dumps(point.value) if text else point.value
        newest[point.metric].values.append(kind.ValueType(value, point.step, point.time))
    return operations


def _of_series(operation: Any) -> Iterator[tuple[str, int, int, bool]]:
    """Of an operation that logs points: the metric, the attempt, the number of the series, whether it is of texts."""
    if operation.path[0] == _METRICS:
        found = _SERIES.fullmatch(operation.path[-1])
        if found is None:
            raise ValueError(f"{operation.path} is no series of this mirror")
        yield "/".join(operation.path[1:-1]), int(found[1]), int(found[2] or 1), bool(found[3])
