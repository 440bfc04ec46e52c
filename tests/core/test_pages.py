"""What a tracker shows of a run, made from its events; and where two such pictures differ."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import new_id
from ledger.events import ConfigResolved, MetricsLogged, ReplayCompared, UnknownEvent
from ledger.hooks.differences import differences
from ledger.hooks.pages import Page, Point, added, flat, page_of, whole_page
from ledger.testing.builders import logged, resumed, run_started, stream
from ledger.testing.eventful import EVENTFUL, STORIES, values
from ledger.testing.mirrors import pages


def story(name: str) -> Page:
    return whole_page(map(page_of, stream(STORIES[name])))


# --- a run's page


def test_every_call_that_logged_is_a_point_with_its_step_time_and_attempt() -> None:
    page = whole_page(
        map(page_of, stream([run_started(), logged({1: {"a": 1.0}}), resumed(2, 0), logged({0.5: {"a": 2}})]))
    )
    assert page.points == (Point("a", 1, 1e9 + 1, 1.0, 1), Point("a", 0.5, 1e9 + 0.5, 2.0, 2))


def test_a_value_that_was_not_given_is_no_point() -> None:
    [event] = stream([MetricsLogged(step=(1, 2), time=(1.0, 2.0), values={"a": (None, 1.0), "b": (2.0, None)})])
    assert [(point.metric, point.step) for point in page_of(event).points] == [("b", 1), ("a", 2)]


def test_the_metrics_of_another_rank_than_the_first_are_apart() -> None:
    names = {point.metric for point in story("several ranks").points}
    assert {"samples", "rank-1/samples", "rank-2/samples", "rank-1/system/gpu-3 seconds"} <= names


def test_the_latest_status_counts() -> None:
    page = story("interrupted and resumed")
    assert page.fields["status"] == "running"
    assert page.fields["attempt/1/status"] == "interrupted"
    assert page.fields["attempt/1/signal"] == "SIGTERM"
    assert page.fields["attempt/2/from step"] == 10
    assert story("failed").fields["attempt/1/exception"] == "RuntimeError: out of memory\nmore"


def test_a_checkpoint_is_kept_until_it_is_deleted() -> None:
    fields = story("checkpoints").fields
    assert (fields["checkpoint/step-20/state"], fields["checkpoint/step-20/best"]) == ("kept", True)
    assert fields["checkpoint/step-10/state"] == "deleted: only the best"


def test_a_configuration_has_dotted_keys_and_lists_as_json() -> None:
    assert flat({"a": {"b": {"c": 1}, "empty": {}}, "list": [1, {"x": 2}], "none": None, "yes": True, "": 0.5}) == {
        "a.b.c": 1, "a.empty": "{}", "list": '[1,{"x":2}]', "none": "null", "yes": True, "": 0.5,
    }  # fmt: skip


def test_what_no_tracker_has_a_place_for_adds_nothing() -> None:
    [event] = stream([run_started()])
    event.event = UnknownEvent(type="stranger.did", schema_version=1, payload={})
    assert page_of(event) == Page()


def test_tags_and_verdicts_are_there_once() -> None:
    assert story("tags").tags.count("baseline") == 1
    assert "suspicious" in story("tags").tags
    verdicts = {key: value for key, value in story("replayed").fields.items() if key.endswith("/verdict")}
    assert list(verdicts.values()) == ["not-replayable"]


def test_a_verdict_on_a_part_says_on_which() -> None:
    whole = ReplayCompared(original=new_id(), replay=new_id(), verdict="identical")
    [event, other] = stream([whole, whole.model_copy(update={"segment": (8.0, 11.0)})])
    verdict = {f"replay/{whole.replay}/verdict": "identical", f"replay/{whole.replay}/original": whole.original}
    assert page_of(event).fields == verdict
    steps = {f"replay/{whole.replay}/after step": 8.0, f"replay/{whole.replay}/until step": 11.0}
    assert page_of(other).fields == verdict | steps


@pytest.mark.parametrize("cut", [1, 7, len(EVENTFUL) - 1])
def test_a_page_is_the_sum_of_its_parts_wherever_they_are_cut(cut: int) -> None:
    each = [page_of(recorded) for recorded in stream(EVENTFUL)]
    whole = whole_page(each)
    assert repr(whole) == repr(reduce(added, each))
    assert repr(whole) == repr(added(whole_page(each[:cut]), whole_page(each[cut:])))


@settings(max_examples=40)
@given(pages(), pages(), pages())
def test_adding_is_associative_and_nothing_adds_nothing(one: Page, two: Page, three: Page) -> None:
    assert repr(added(added(one, two), three)) == repr(added(one, added(two, three)))
    assert differences(one, added(one, Page())) == differences(added(Page(), one), one) == []


# --- where two differ


@given(pages())
def test_a_page_does_not_differ_from_itself(page: Page) -> None:
    assert differences(page, replace(page, tags=page.tags[::-1])) == []


@given(pages(), pages())
def test_whatever_one_page_has_and_the_other_lacks_is_told(one: Page, other: Page) -> None:
    told = {each.what for each in differences(one, other)}
    assert {f"config {key}" for key in one.config.keys() ^ other.config.keys()} <= told
    assert one.fields.keys() ^ other.fields.keys() <= told
    assert {f"tag {tag}" for tag in {*one.tags} ^ {*other.tags}} <= told
    metrics = ({point.metric for point in page.points} for page in (one, other))
    assert {f"metric {metric}" for metric in next(metrics) ^ next(metrics)} <= told


@pytest.mark.parametrize(
    ("expected", "shown"),
    [
        (1, True), (1, "1"), (0.1 + 0.2, 0.3), (0.0, -0.0), (math.nan, 1.0), (math.inf, -math.inf), ("a", "A"),
        (2**53 + 1, float(2**53)), ("", None), (False, None), (5e-324, 0.0), ("\u00e4", "a\u0308"),
    ],
)  # fmt: skip
def test_other_values_differ(expected: float | str, shown: float | str | None) -> None:
    theirs = {} if shown is None else {"key": shown}
    [found] = differences(Page(config={"key": expected}), Page(config=theirs))
    assert found.what == "config key"
    assert found.expected != found.shown
    [found] = differences(Page(fields={"key": expected}), Page(fields=theirs))
    assert found.what == "key"


@pytest.mark.parametrize(("expected", "shown"), [(1, 1.0), (math.nan, -math.nan), (2**60, float(2**60)), (0, 0.0)])
def test_the_same_number_is_the_same(expected: float, shown: float) -> None:
    assert differences(Page(config={"key": expected}), Page(config={"key": shown})) == []


def test_texts_that_part_late_are_told_from_where_they_part() -> None:
    [found] = differences(Page(config={"key": "x" * 5000 + "a"}), Page(config={"key": "x" * 5000 + "b"}))
    assert (found.expected, found.shown) == ("'a' (5001 characters, from 5000)", "'b' (5001 characters, from 5000)")
    assert len(differences(Page(config={"key": "x" * 5000}), Page())[0].expected) < 100


POINT = Point("loss", 3, 1e9, 0.5, 1)


@pytest.mark.parametrize(
    "change", [{"step": 4}, {"time": 1e9 + 1e-6}, {"value": 0.5000000000000001}, {"attempt": 2}, {"value": math.nan}]
)
def test_a_point_differs_in_whatever_it_has(change: dict[str, float]) -> None:
    [found] = differences(Page(points=(POINT,)), Page(points=(replace(POINT, **change),)))  # type: ignore[arg-type]
    assert found.what == "metric loss"
    assert found.expected != found.shown


def test_points_that_are_missing_or_there_twice_are_told() -> None:
    points = tuple(Point("loss", step, 1e9 + step, 1.0, 1) for step in range(5))
    for wrong in (points[:-1], points[1:], (*points, points[-1]), ()):
        [found] = differences(Page(points=points), Page(points=wrong))
        assert found.expected != found.shown
    [missing] = differences(Page(points=points), Page(points=points[:-1]))
    assert missing.shown == "no more than 4 points"
    assert missing.expected == "point 5: step 4 is 1.0 at 1000000004.0, attempt 1"


def test_points_have_the_order_of_their_times() -> None:
    points = tuple(Point("loss", 9 - n, 1e9 + n, 1.0, 1) for n in range(5))
    assert differences(Page(points=points), Page(points=points[::-1])) == []


def test_of_points_that_are_equal_in_everything_one_may_be_shown_but_no_more_than_there_are() -> None:
    thrice, once = Page(points=(POINT,) * 3), Page(points=(POINT,))
    assert differences(thrice, once) == []
    assert len(differences(once, thrice)) == 1
    assert len(differences(thrice, Page())) == 1


def test_metrics_do_not_stand_in_each_others_way() -> None:
    one = [page_of(each) for each in stream([values("a", {1: 1.0}), values("b", {1: 1.0})])]
    assert differences(whole_page(one), whole_page(one[::-1])) == []


@given(st.integers(0, 2**31))
def test_a_changed_configuration_is_found_at_its_key(seed: int) -> None:
    def page(lr: int) -> Page:
        [event] = stream([ConfigResolved(config={"optim": {"lr": lr}, "same": 1}, digest="0")])
        return page_of(event)

    assert [each.what for each in differences(page(seed), page(seed + 1))] == ["config optim.lr"]
