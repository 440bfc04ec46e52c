"""Where what a tracker shows is not what the log says, to the last bit. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.hooks.pages import Page, Point, Scalar

_LONG: Final = 60
"""Characters of a text that a difference shows."""
_NOTHING: Final = "nothing"


@dataclass(frozen=True)
class Difference:
    """Something that a tracker shows otherwise than the log says, by the mirror's own rules."""

    what: str
    expected: str
    shown: str


def differences(expected: Page, shown: Page) -> list[Difference]:
    """Everything in which two pages differ, to the last bit of a number; 1 and 1.0 are one number, NaN equals NaN.

    Points are compared metric by metric, attempt by attempt in the order of their times; of each metric the first place
    is told. Their order of arrival and that of tags is nothing that a tracker shows, and of points that are equal in
    everything a tracker may show one.
    """
    found = _between("config ", expected.config, shown.config)
    found += _between("", expected.fields, shown.fields)
    found += _between("tag ", dict.fromkeys(expected.tags, "there"), dict.fromkeys(shown.tags, "there"))
    ours, theirs = _by_metric(expected), _by_metric(shown)
    for metric in dict.fromkeys((*ours, *theirs)):
        found += _first_difference(metric, ours.get(metric, []), theirs.get(metric, []))
    return found


def _between(kind: str, expected: Mapping[str, Scalar], shown: Mapping[str, Scalar]) -> list[Difference]:
    found = []
    for key in dict.fromkeys((*expected, *shown)):
        ours, theirs = expected.get(key), shown.get(key)
        if _same_scalar(ours, theirs):
            continue
        start = _parting(ours, theirs) if isinstance(ours, str) and isinstance(theirs, str) else 0
        found.append(Difference(kind + key, _told(ours, start), _told(theirs, start)))
    return found


def _same_scalar(one: Scalar | None, other: Scalar | None) -> bool:
    if isinstance(one, bool | str | None) or isinstance(other, bool | str | None):
        return type(one) is type(other) and one == other
    return _number(one) == _number(other)


def _number(value: float) -> float | str:
    """Equal for the same number: a zero keeps its sign, a NaN is one."""
    if isinstance(value, float) and (math.isnan(value) or value == 0):
        return repr(value)
    return repr(0.0) if value == 0 else value


def _parting(one: str, other: str) -> int:
    """Where two texts part, if that is beyond what is shown of their beginnings."""
    length = min(len(one), len(other))
    place = next((n for n in range(length) if one[n] != other[n]), length)
    return place if place >= _LONG else 0


def _told(value: Scalar | None, start: int) -> str:
    if value is None:
        return _NOTHING
    if not isinstance(value, str) or len(value) <= _LONG:
        return repr(value)
    return f"{value[start : start + _LONG]!r} ({len(value)} characters, from {start})"


def _by_metric(page: Page) -> Mapping[str, list[Point]]:
    points: defaultdict[str, list[Point]] = defaultdict(list)
    for point in page.points:
        points[point.metric].append(point)
    return {metric: sorted(each, key=_place) for metric, each in points.items()}


def _place(point: Point) -> tuple[int, float, float, bool, float, float]:
    """The same for points that are equal to the last bit; a NaN has a place, too."""
    missing = math.isnan(point.value)
    value = 0.0 if missing else point.value
    return point.attempt, point.time, point.step, missing, value, math.copysign(1, value)


def _first_difference(metric: str, ours: list[Point], theirs: list[Point]) -> list[Difference]:
    due = _as_often(ours, theirs)
    length = min(len(due), len(theirs))
    place = next((n for n in range(length) if _place(due[n]) != _place(theirs[n])), length)
    if place == len(due) == len(theirs):
        return []
    return [Difference(f"metric {metric}", _told_point(due, place), _told_point(theirs, place))]


def _as_often(points: list[Point], shown: list[Point]) -> list[Point]:
    """Equal points as often as they are shown, at least once and at most as often as there are."""
    if len(points) == len(shown):
        return points
    left = Counter(map(_place, shown))
    kept = []
    for place, equal in groupby(points, _place):
        several = list(equal)
        kept += several[: max(1, left[place])]
    return kept


def _told_point(points: list[Point], place: int) -> str:
    if place == len(points):
        return f"no more than {place} points"
    point = points[place]
    at = f"at {point.time!r}, attempt {point.attempt}"
    return f"point {place + 1}: step {point.step!r} is {point.value!r} {at}"
