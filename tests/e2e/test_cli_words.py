"""How values are worded."""

from __future__ import annotations

import math

import pytest

from ledger.cli import render


@pytest.mark.parametrize(
    ("amount", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (999_999, "1 MB"), (5 * 10**15, "5 PB")],
)
def test_size(amount: int, words: str) -> None:
    assert render.size(amount) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (245, "4 min 05 s"), (7620, "2 h 07 min"),
     (273_600, "3 d 4 h")],
)  # fmt: skip
def test_duration(seconds: float, words: str) -> None:
    assert render.duration(seconds) == words


@pytest.mark.parametrize(
    ("after", "words"),
    [(-5, "just now"), (9, "just now"), (59, "59 s ago"), (190, "3 min ago"), (7300, "2 h ago"), (90_000, "1 d ago")],
)
def test_ago(after: float, words: str) -> None:
    assert render.ago("1970-01-02T00:00:00.000000Z", now=86_400 + after) == words


def test_long_ago_is_a_date() -> None:
    assert render.ago("2020-06-15T12:00:00.000000Z", now=1.8e9) == "2020-06-15"


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, ""), (3, "3"), (3.0, "3"), (0.5, "0.5"), (1 / 3, "0.333333"), (math.nan, "nan"), (-math.inf, "-inf")],
)
def test_number(value: float | None, words: str) -> None:
    assert render.number(value) == words


def test_json_has_words_for_what_it_lacks() -> None:
    value = {"a": math.nan, "b": (math.inf, [-math.inf]), "c": 0.1}
    assert render.plain(value) == {"a": "NaN", "b": ["Infinity", ["-Infinity"]], "c": 0.1}


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({}, ""),
        ({"accuracy": 0.5}, "accuracy 0.5"),
        ({"lr": 1.0, "train/loss": 2.0, "val/loss": 3.0}, "val/loss 3"),
        ({"lr": 1.0, "train/loss": 2.0}, "train/loss 2"),
    ],
)
def test_key_metric(metrics: dict[str, float], words: str) -> None:
    assert render.key_metric(metrics) == words


def test_what_steers_a_terminal_is_spelled_out() -> None:
    assert render.clean("a\x1b[31mb\x07ü\tc") == "a\\x1b[31mb\\x07ü\tc"


def test_what_steers_a_terminal_is_spelled_out_in_labels(capsys: pytest.CaptureFixture[str]) -> None:
    render.fields([("a\x1b[31m\nb", "1"), ("c", "2")])
    assert capsys.readouterr().out == "  a\\x1b[31m b  1\n  c            2\n"


def test_a_table_leaves_out_columns_that_hold_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [render.Column("name"), render.Column("none"), render.Column("n", right=True)]
    render.table(columns, [["a", "", "1"], ["long", "", ""], ["b", "", "100"]])
    assert capsys.readouterr().out == "name    n\na       1\nlong    -\nb     100\n"
