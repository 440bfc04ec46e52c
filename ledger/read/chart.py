"""Curves of several runs as an SVG picture: one panel for each metric, one line for each run. Pure.

It needs no plotting library, opens in every browser, and stays small: of a million points only those are drawn that
can be told apart.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from operator import le
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ledger.read.series import Series

Point = tuple[float, float]

# Okabe and Ito's colours, which people with colour blindness can tell apart, too; then again, dashed.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES: Final = ("none", "6 3", "2 3", "8 3 2 3")
_WIDTH: Final = 400
_HEIGHT: Final = 220
_LEFT: Final = 64
_TOP: Final = 34
_RIGHT: Final = 16
_BOTTOM: Final = 30
_PANEL: Final = (_LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM)
_LEGEND: Final = 18
"""Height of a line of the legend."""
_TICKS: Final = 5
_ROUND: Final = 1e-9
"""A range that is a smaller share of its numbers has no round ones that can be told apart."""
_LARGEST: Final = 1e300
"""Beyond this, the difference of two numbers may be none."""
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#333}.name{font-weight:600}.grid{stroke:#e5e5e5}"
    ".curve{fill:none;stroke-width:1.4;stroke-linejoin:round;stroke-linecap:round;opacity:.85}"
)


def chart(runs: Mapping[str, Mapping[str, Series]]) -> str:
    """An SVG document with the series of each run, by the name of the run and of the metric."""
    metrics = list(dict.fromkeys(name for series in runs.values() for name in series))
    across = min(2, len(metrics)) or 1
    top = _LEGEND * len(runs) + 16
    width, height = across * _PANEL[0], top + math.ceil(len(metrics) / across) * _PANEL[1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        *_legend(list(runs)),
    ]
    for place, metric in enumerate(metrics):
        x, y = place % across * _PANEL[0], top + place // across * _PANEL[1]
        lines = {number: series[metric] for number, series in enumerate(runs.values()) if metric in series}
        parts += [f'<g transform="translate({x} {y})">', *_panel(metric, lines), "</g>"]
    return "\n".join((*parts, "</svg>", ""))


def thinned(points: Sequence[Point], columns: int) -> Iterator[Point]:
    """Of points by ascending step those that decide what a line ``columns`` pixels wide looks like.

    In each column the first, lowest, highest and last: M4 aggregation (Jugel et al., VLDB 2014).
    """
    if len(points) <= 4 * columns:
        yield from points
        return
    begin, end = points[0][0], points[-1][0]
    start = 0
    for column in range(1, columns + 1):
        edge = begin + (end - begin) * column / columns
        stop = len(points) if column == columns else bisect_left(points, edge, start, key=lambda point: point[0])
        if some := points[start:stop]:
            lowest = min(range(len(some)), key=lambda i: some[i][1])
            highest = max(range(len(some)), key=lambda i: some[i][1])
            yield from (some[i] for i in sorted({0, lowest, highest, len(some) - 1}))
        start = stop


def ticks(low: float, high: float) -> list[float]:
    """Some round numbers from ``low`` to ``high``: multiples of 1, 2 or 5 times a power of ten (Heckbert 1990)."""
    if low == high:
        return [low]
    if high - low < _ROUND * max(abs(low), abs(high)):
        return [low, high]
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _legend(runs: list[str]) -> Iterator[str]:
    for number, name in enumerate(runs):
        y = 16 + _LEGEND * number
        yield f'<path class="curve" {_stroke(number)} d="M{_LEFT} {y - 4}h24"/>'
        yield f'<text x="{_LEFT + 32}" y="{y}">{_text(name)}</text>'


def _panel(metric: str, lines: Mapping[int, Series]) -> Iterator[str]:
    """Axes and curves of one metric; ``lines`` by the number of the run."""
    yield f'<text class="name" x="{_LEFT}" y="{_TOP - 10}">{_text(metric)}</text>'
    curves = {number: _drawable(series) for number, series in lines.items()}
    steps = [step for number, points in curves.items() for step in (*lines[number].step[:1], *_ends(points))]
    if not steps:
        return
    values = [value for points in curves.values() for _, value in points]
    across = _Axis(min(steps), max(steps), _LEFT, _LEFT + _WIDTH)
    up = _Axis(min(values, default=0.0), max(values, default=0.0), _TOP + _HEIGHT, _TOP)
    for at in across.ticks():
        yield f'<path class="grid" d="M{across(at):.1f} {_TOP}v{_HEIGHT}"/>'
        yield f'<text x="{across(at):.1f}" y="{_TOP + _HEIGHT + 16}" text-anchor="middle">{at:.6g}</text>'
    for at in up.ticks():
        yield f'<path class="grid" d="M{_LEFT} {up(at):.1f}h{_WIDTH}"/>'
        yield f'<text x="{_LEFT - 6}" y="{up(at) + 4:.1f}" text-anchor="end">{at:.6g}</text>'
    for number, points in curves.items():
        if len(points) == 1:
            ((step, value),) = points
            yield f'<circle cx="{across(step):.1f}" cy="{up(value):.1f}" r="2.5" fill="{_colour(number)}"/>'
        elif points:
            path = "L".join(f"{across(step):.1f} {up(value):.1f}" for step, value in thinned(points, _WIDTH))
            yield f'<path class="curve" {_stroke(number)} d="M{path}"/>'
        yield from _lost(lines[number], number, across)


def _lost(series: Series, number: int, across: _Axis) -> Iterator[str]:
    """A cross on the upper edge where a curve first is no number that could be drawn."""
    first = next((n for n, value in enumerate(series.value) if not abs(value) < _LARGEST), None)
    if first is not None:
        step, value = series.step[first], series.value[first]
        cross = f"M{across(step) - 4:.1f} {_TOP - 4}l8 8m-8 0l8 -8"
        yield f'<path class="curve" {_stroke(number)} d="{cross}"><title>{value} at step {step:g}</title></path>'


class _Axis:
    """From values to pixels."""

    def __init__(self, low: float, high: float, start: int, end: int) -> None:
        self._low, self._high = low, high
        self._start, self._length = start, end - start

    def __call__(self, value: float) -> float:
        part = (value - self._low) / (self._high - self._low) if self._high > self._low else 0.5
        return self._start + part * self._length

    def ticks(self) -> list[float]:
        return ticks(self._low, self._high)


def _drawable(series: Series) -> list[Point]:
    points = list(zip(series.step, series.value, strict=True))
    if not all(map(math.isfinite, series.value)) or max(map(abs, series.value), default=0) >= _LARGEST:
        points = [point for point in points if abs(point[1]) < _LARGEST]
    return points if all(map(le, series.step, series.step[1:])) else sorted(points)


def _ends(points: Sequence[Point]) -> tuple[float, ...]:
    return (points[0][0], points[-1][0]) if points else ()


def _stroke(number: int) -> str:
    dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
    return f'stroke="{_colour(number)}" stroke-dasharray="{dash}"'


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _text(name: str) -> str:
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name))
