"""The language of filters: what is understood, what is refused and how."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import UsageError
from ledger.read.names import Reading
from ledger.read.where import Expression
from ledger.store.projections.query import FIELDS, And, Comparison, Config, Metric, Names, Not, Or

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.store.projections.query import Condition, Quantity

METRICS = frozenset({"val/loss", "train/loss", "lr", "acc", "my metric", "loss"})
CONFIGS = {
    "optim.lr": True, "optim.name": False, "model.width": True, "data.batch": True, "eval.batch": True, "depth": True,
    "head.depth": True, "criterion.loss": False,
}  # fmt: skip


def find(name: str | None = None) -> Names:
    if name is None:
        return Names(METRICS, CONFIGS)
    ending = {path: number for path, number in CONFIGS.items() if path == name or path.endswith(f".{name}")}
    return Names(METRICS & {name}, ending)


def read(text: str) -> Condition:
    return Reading(text, find).condition()


def loss(op: str, value: float) -> Comparison:
    return Comparison(Metric("val/loss"), op, value)  # type: ignore[arg-type]


STATUS = FIELDS["status"]


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("val/loss < 2.1", loss("<", 2.1)),
        ("val/loss<2.1", loss("<", 2.1)),
        ("val/loss <= -1e-3", loss("<=", -1e-3)),
        ("val/loss > -inf", loss(">", -float("inf"))),
        ("'val/loss' == 2", loss("=", 2.0)),
        ('"my metric" >= .5', Comparison(Metric("my metric"), ">=", 0.5)),
        ("min(val/loss) < 2", Comparison(Metric("val/loss", "lowest"), "<", 2.0)),
        ("MAX( acc ) != 1", Comparison(Metric("acc", "highest"), "!=", 1.0)),
        ("last(acc) = 1", Comparison(Metric("acc"), "=", 1.0)),
        ("optim.lr >= 1e-3", Comparison(Config("optim.lr"), ">=", 1e-3)),
        ("width = 64", Comparison(Config("model.width"), "=", 64.0)),
        ("optim.name = adam", Comparison(Config("optim.name"), "=", "adam")),
        ("width = '64'", Comparison(Config("model.width"), "=", "64")),
        ("config.width = 64", Comparison(Config("model.width"), "=", 64.0)),
        ("depth = 3", Comparison(Config("depth"), "=", 3.0)),
        ("status = completed", Comparison(STATUS, "=", "completed")),
        ("name ~ run-1*", Comparison(FIELDS["name"], "~", "run-1*")),
        ("tags !~ 'a b*'", Comparison(FIELDS["tag"], "!~", "a b*")),
        ("name = 42", Comparison(FIELDS["name"], "=", "42")),
        ("steps > 10", Comparison(FIELDS["step"], ">", 10.0)),
        ("data = s3://bucket/x", Comparison(FIELDS["data"], "=", "s3://bucket/x")),
        ("NOT status = failed", Not(Comparison(STATUS, "=", "failed"))),
        ("status = 'and'", Comparison(STATUS, "=", "and")),
    ],
)
def test_a_comparison(text: str, means: Condition) -> None:
    assert read(text) == means


def test_and_binds_closer_than_or_and_not_closest() -> None:
    a, b, c = (loss("<", float(n)) for n in (1, 2, 3))
    assert read("val/loss < 1 or val/loss < 2 and not val/loss < 3") == Or((a, And((b, Not(c)))))
    assert read("(val/loss < 1 or val/loss < 2) and val/loss < 3") == And((Or((a, b)), c))
    assert read("not (val/loss < 1 or val/loss < 2)") == Not(Or((a, b)))


def test_what_was_configured_comes_before_what_was_measured_and_is_told() -> None:
    reading = Reading("lr >= 1e-3", find)
    assert reading.condition() == Comparison(Config("optim.lr"), ">=", 1e-3)
    assert reading.notes == ["lr means the configured optim.lr; metric.lr is the metric of that name"]
    assert read("metric.lr < 1") == Comparison(Metric("lr"), "<", 1.0)
    assert read("config.lr < 1") == Comparison(Config("optim.lr"), "<", 1.0)


def test_a_number_is_not_looked_for_where_a_configuration_has_only_text() -> None:
    assert read("loss < 1") == Comparison(Metric("loss"), "<", 1.0)
    assert read("loss = mse") == Comparison(Config("criterion.loss"), "=", "mse")


def test_a_digest_may_be_shortened() -> None:
    data = FIELDS["data"]
    either = Or((Comparison(data, "=", "ABCDEF0123"), Comparison(data, "~", "abcdef0123*")))
    assert read("data = ABCDEF0123") == either
    assert read("data != ABCDEF0123") == Not(either)


def test_times_are_moments_in_the_readers_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        started = FIELDS["started"]
        assert read("started > 2026-01-31") == Comparison(started, ">", "2026-01-30T18:30:00.000000Z")
        assert read("started > 2026-01-31T10:00Z") == Comparison(started, ">", "2026-01-31T10:00:00.000000Z")
        assert read("started <= '2026-01-31 10:00+01:00'") == Comparison(started, "<=", "2026-01-31T09:00:00.000000Z")
        assert read("started = 2026-01-31") == And(
            (
                Comparison(started, ">=", "2026-01-30T18:30:00.000000Z"),
                Comparison(started, "<", "2026-01-31T18:30:00.000000Z"),
            )
        )
        minute = read("ended != 2026-01-31T18:30:00Z")
        assert minute == Not(
            And(
                (
                    Comparison(FIELDS["ended"], ">=", "2026-01-31T18:30:00.000000Z"),
                    Comparison(FIELDS["ended"], "<", "2026-01-31T18:30:01.000000Z"),
                )
            )
        )
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "at", "what"),
    [
        ("val/loss < and lr > 1", 11, "a value is missing here"),
        ("val/loss <", 10, "a value is missing here"),
        ("val/loss 2", 9, "one of = != < <= > >= ~ !~ is missing here"),
        ("val/loss < 2 lr > 1", 13, "an 'and' or 'or' is missing here"),
        ("(val/loss < 2", 0, "this bracket is never closed"),
        ("val/loss < 2)", 12, "this bracket was never opened"),
        ("min(val/loss < 2", 3, "this bracket is never closed"),
        ("min() < 2", 4, "the name of a metric is missing here"),
        ("name = 'x", 7, "this quote is never closed"),
        ("name ! x", 5, "'!' means nothing here"),
        ("", 0, "a name is missing here"),
        ("and", 0, "a name is missing here"),
        ("val/loss < 2 and", 16, "a name is missing here"),
        ("val/loss < abc", 11, "val/loss is a number, and 'abc' is none"),
        ("val/loss < nan", 11, "val/loss is a number, and 'nan' is none"),
        ("val/loss ~ 2*", 11, "val/loss is a number, and ~ is for text"),
        ("started > soon", 10, "started is a time, such as 2026-01-31"),
        ("vall/loss < 2", 0, "no run of this ledger has anything called 'vall/loss'"),
        ("min(optim.lr) < 2", 4, "no run of this ledger has a metric 'optim.lr'"),
        ("batch = 3", 0, "batch may mean data.batch, eval.batch"),
        ("(" * 51 + "a = 1" + ")" * 51, 50, "nested more than 50 deep"),
        ("not " * 51 + "a = 1", 200, "nested more than 50 deep"),
        (" and ".join(["acc = 1"] * 201), 2400, "more than 200 comparisons"),
    ],
)
def test_an_error_says_what_and_where(text: str, at: int, what: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(text)
    message, line, caret = str(refused.value).split("\n")
    assert what in message
    assert line == f"  {text}"
    assert caret == f"  {' ' * at}^"
    assert refused.value.mend


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("vall/loss < 2", "did you mean val/loss"),
        ("batch = 3", "write data.batch or eval.batch"),
        ("statuss = failed", "did you mean status or"),
    ],
)
def test_an_unknown_or_ambiguous_name_comes_with_those_that_may_be_meant(text: str, mend: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(text)
    assert str(refused.value.mend).startswith(mend)


def test_control_characters_do_not_reach_the_terminal() -> None:
    with pytest.raises(UsageError) as refused:
        read("name = \x1b[31m\n'x")
    assert "\x1b" not in str(refused.value)
    assert str(refused.value).split("\n")[2].index("^") == 2 + len("name = \x1b[31m\n")


@pytest.mark.parametrize(
    ("text", "by"),
    [
        ("val/loss", Metric("val/loss")),
        ("min(val/loss)", Metric("val/loss", "lowest")),
        ("width", Config("model.width")),
    ],
)
def test_an_order(text: str, by: Quantity) -> None:
    assert Reading(text, find).order(descending=False).by == by


@pytest.mark.parametrize("text", ["tag", "data", "nothing", "val/loss < 2", ""])
def test_what_is_no_order(text: str) -> None:
    with pytest.raises(UsageError):
        Reading(text, find).order(descending=False)


def understood_or_refused_with_a_caret(reading: Callable[[], object]) -> bool:
    try:
        reading()
    except UsageError as error:
        return str(error).rstrip().endswith("^")
    return True


@given(st.text(max_size=60))
def test_any_text_is_understood_or_refused_with_a_caret(text: str) -> None:
    assert understood_or_refused_with_a_caret(lambda: read(text))


WORDS = st.sampled_from(
    ["val/loss", "status", "<", "=", "~", "2.1", "failed", "and", "or", "not", "(", ")", "min", "'x'", "lr"]
)


@given(st.lists(WORDS, max_size=14).map(" ".join))
def test_words_of_the_language_in_any_order_are_understood_or_refused(text: str) -> None:
    assert understood_or_refused_with_a_caret(lambda: Expression(text).condition(lambda *_: loss("<", 1)))
