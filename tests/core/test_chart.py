"""Curves as a picture: small, well-formed, and true to what was logged."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from ledger.read.chart import chart, thinned, ticks
from ledger.read.series import Series

numbers = st.floats(allow_nan=True, allow_infinity=True)
SVG = "{http://www.w3.org/2000/svg}"


def series(*points: tuple[float, float], name: str = "loss") -> Series:
    step, value = (tuple(column) for column in zip(*points, strict=True)) if points else ((), ())
    return Series(name, step, (0.0,) * len(step), value, (1,) * len(step))


def drawn(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def test_one_panel_for_each_metric_and_one_line_for_each_run() -> None:
    runs = {
        "run-1": {"loss": series((0, 2), (1, 1)), "acc": series((0, 0), (1, 1), name="acc")},
        "run-2": {"loss": series((0, 3), (1, 2))},
    }
    picture = drawn(chart(runs))
    panels = picture.findall(f"{SVG}g")
    assert [panel.findtext(f"{SVG}text") for panel in panels] == ["loss", "acc"]
    assert [len([p for p in panel.iter(f"{SVG}path") if p.get("class") == "curve"]) for panel in panels] == [2, 1]
    assert {"run-1", "run-2"} <= {text.text for text in picture.iter(f"{SVG}text")}


def test_a_million_points_make_a_small_picture_that_keeps_the_peaks() -> None:
    points = [(float(n), math.sin(n / 1e4)) for n in range(1_000_000)]
    points[123_456] = (123_456.0, 50.0)
    kept = list(thinned(points, 400))
    assert len(kept) <= 1600
    assert (123_456.0, 50.0) in kept
    assert len(chart({"run-1": {"loss": series(*points)}})) < 40_000


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6)), max_size=300), st.integers(1, 20))
def test_thinning_keeps_ends_extremes_and_order(points: list[tuple[float, float]], columns: int) -> None:
    points = sorted(points)
    kept = list(thinned(points, columns))
    assert kept == [point for point in points if point in kept][: len(kept)] or len(set(points)) < len(points)
    assert len(kept) <= max(4 * columns, 0) or len(points) <= 4 * columns
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert {min(v for _, v in kept), max(v for _, v in kept)} == {
            min(v for _, v in points),
            max(v for _, v in points),
        }


@given(st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False, width=32), numbers), max_size=20), st.text())
def test_whatever_was_logged_makes_a_picture(points: list[tuple[float, float]], name: str) -> None:
    drawn(chart({name: {name: series(*points)}}))


def test_what_cannot_be_drawn_is_marked() -> None:
    titles = [
        title.text for title in drawn(chart({"r": {"x": series((0, 1), (7, math.nan), (8, 2))}})).iter(f"{SVG}title")
    ]
    assert titles == ["nan at step 7"]


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12))
def test_ticks_are_few_and_lie_within(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 6
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


def test_ticks_are_round() -> None:
    assert ticks(0, 1000) == [0, 200, 400, 600, 800, 1000]
    assert ticks(2, 2) == [2]
    assert ticks(1801439851, 1801439851.000001) == [1801439851, 1801439851.000001]
