"""The harness itself: Ledger and the floors at a tiny size. What is right is checked, how long it took is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import catalogue, measures, targets
from tests.benchmarks.__main__ import main
from tests.benchmarks.contestant import MODULES, OURS, Contestant, Unavailable, find
from tests.benchmarks.figures import Quantity, Table
from tests.benchmarks.measures import checkpoint
from tests.benchmarks.process import call
from tests.benchmarks.report import FIGURES, Report, shown

if TYPE_CHECKING:
    from pathlib import Path

FLOORS = ("line", "sqlite")
MS = Quantity("a call", "ms", "lower")
RATE = Quantity("rate", "/s", "higher")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("bench")
    small = ("--rounds=1", "--scale=0.005", f"--out={out}")
    return main(["--only=log,kill,series,runs,verify", f"--with={OURS},{','.join(FLOORS)}", *small])


def table(report: Report, measure: str) -> Table:
    return next(found for found in report.tables if found.measure == measure)


@pytest.mark.slow
def test_every_contestant_has_its_figures_or_a_reason(report: Report) -> None:
    for found in report.tables:
        assert {*found.samples, *found.reasons} == ({OURS} if found.measure == "verify" else {OURS, *FLOORS})
        assert OURS not in found.reasons, found.reasons
        for figures in found.samples.values():
            assert set(figures) == {quantity.name for quantity in found.quantities}


@pytest.mark.slow
def test_none_of_those_that_write_before_they_return_loses_a_point(report: Report) -> None:
    for figures in table(report, "kill").samples.values():
        assert figures == {"lost, burst": [0.0], "lost, 1,000 calls/s": [0.0]}


def test_writers_that_start_together_leave_every_event_in_the_log(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    assert call("append:race", OURS, tmp_path / "race", url=url, batches=2, writers=2) > 0


@pytest.mark.slow
def test_targets_are_about_measures_and_quantities_that_exist(report: Report) -> None:
    assert {target.measure for target in targets.TARGETS} <= set(measures.NAMES)
    assert {target.against for target in targets.TARGETS} <= {None, *MODULES, *checkpoint.WAYS}
    judged = list(targets.judge(report.tables))
    assert {item.target.measure for item in judged} == {"log", "kill", "series", "verify"}


@pytest.mark.slow
def test_a_report_replaces_what_is_between_the_marks(report: Report, tmp_path: Path) -> None:
    page, (begin, end) = tmp_path / "benchmarks.md", FIGURES
    page.write_text(f"# Before\n\n{begin}\n\nold figures\n\n{end}\n\nafter\n")
    report.write_into(page)
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{begin}\n")
    assert text.endswith(f"{end}\n\nafter\n")
    assert "old figures" not in text
    assert "| Ledger |" in text


@pytest.mark.slow
def test_all_samples_are_in_the_json(report: Report) -> None:
    told = json.loads(report.to_json())
    assert told["tables"][0]["samples"][OURS]["p50"] == table(report, "log").samples[OURS]["p50"]


def test_a_ratio_says_how_many_times_worse_than_ours() -> None:
    compared = Table("log", "Logging", "", (MS, RATE), samples={
        OURS: {"a call": [1.0, 9.0, 2.0], "rate": [100.0]},
        "wandb": {"a call": [4.0], "rate": [50.0]},
    })  # fmt: skip
    assert compared.median(OURS, "a call") == 2.0
    assert compared.ratio("wandb", MS, OURS) == 2.0
    assert compared.ratio("wandb", RATE, OURS) == 2.0
    assert compared.ratio("mlflow", RATE, OURS) is None


def test_a_target_that_is_missed_says_by_how_much() -> None:
    slow = Table("log", "Logging", "", (Quantity("p50", "µs", "lower"),), samples={OURS: {"p50": [7.5]}})
    judged = targets.Judged(targets.TARGETS[0], slow.quantities[0], slow.median(OURS, "p50"))
    assert not judged.met
    assert judged.missed_by == 1.5


def test_the_question_about_runs_has_an_answer_that_is_neither_none_nor_all() -> None:
    assert 0 < len(catalogue.answer(10_000)) < 1_000


def test_what_a_contestant_raises_is_the_reason_why_it_has_no_figure(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="FileNotFoundError"):
        call("kill:count", "line", tmp_path / "empty")


@pytest.mark.parametrize("key", MODULES)
def test_a_contestant_costs_nothing_until_it_is_asked(key: str) -> None:
    contestant = find(key)
    assert isinstance(contestant, Contestant)
    assert set(contestant.cannot) <= set(measures.NAMES)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "0 µs"), (4.8123, "4.81 µs"), (830_123.4, "830,123 µs"), (-0.25, "-0.25 µs")]
)
def test_figures_are_shown_with_what_matters(value: float | None, text: str) -> None:
    assert shown(value, "µs") == text


def test_a_measure_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "log,speed"])
    assert "speed: choose from log, kill" in capsys.readouterr().err
