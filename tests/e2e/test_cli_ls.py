"""`ledger ls`: filtering and sorting from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import ledger
from ledger.book import Book
from ledger.errors import UsageError
from tests.e2e.desk import Desk

RUNS = """
import ledger
for tag, loss, lr in [("even", 2.5, 1e-2), ("odd", 2.0, 1e-3), ("even", 1.5, 1e-4), ("odd", float("nan"), 1e-1)]:
    with ledger.start_run(config={"optim": {"lr": lr, "name": "adam"}}, tags=[tag]) as run:
        run.log({"val/loss": loss + 1, "lr": lr / 2}, step=1)
        run.log({"val/loss": loss, "lr": lr / 4}, step=2)
"""
KILLED = """
import ledger, os
run = ledger.start_run()
run.log({"val/loss": 9.0}, step=1)
run.flush()
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    for name, program in (("runs.py", RUNS), ("killed.py", KILLED)):
        (desk.home / name).write_text(program)
        done = subprocess.run(
            [sys.executable, name], cwd=desk.home, env=desk.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == (0 if name == "runs.py" else -signal.SIGKILL), done.stderr
    return desk


@pytest.fixture
def book(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.chdir(desk.home)
    for name in [name for name in os.environ if name.startswith("LEDGER_")]:
        monkeypatch.delenv(name)
    return ledger.open_ledger()


def names(desk: Desk, *words: str) -> list[str]:
    return [run["name"] for run in desk.ledger("ls", "--json", *words).json]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("val/loss < 2.1", ["run-2", "run-3"]),
        ("not val/loss < 2.1", ["run-1", "run-5"]),
        ("max(val/loss) >= 3 and tag != even", ["run-2", "run-5"]),
        ("lr >= 1e-3 and status = completed", ["run-1", "run-2", "run-4"]),
        ("metric.lr < 1e-3", ["run-2", "run-3"]),
        ("status = interrupted", ["run-5"]),
        ("status = running", []),
        ("optim.name ~ a* and started > 2020-01-01", ["run-1", "run-2", "run-3", "run-4"]),
        ("name = run-1 or (step = 1)", ["run-1", "run-5"]),
    ],
)
def test_a_filter(desk: Desk, where: str, found: list[str]) -> None:
    assert names(desk, "--where", where) == found


def test_an_order_with_what_it_is_by_as_a_column(desk: Desk) -> None:
    assert names(desk, "--sort", "val/loss") == ["run-3", "run-2", "run-1", "run-5", "run-4"]
    assert names(desk, "--sort", "-val/loss", "-n", "2") == ["run-5", "run-1"]
    lines = desk.ledger("ls", "--where", "config.lr > 0", "--sort", "min(val/loss)", "-n", "1").out.splitlines()
    assert lines[0].split()[6:8] == ["optim.lr", "min(val/loss)"]
    assert lines[1].split()[-3:] == ["val/loss", "1.5", "even"]


def test_a_filter_that_fits_nothing_says_so(desk: Desk) -> None:
    done = desk.ledger("ls", "--where", "val/loss < 0")
    assert (done.out, done.err) == ("", "no run fits\n")


def test_which_of_two_meanings_was_taken_is_told(desk: Desk) -> None:
    err = desk.ledger("ls", "--where", "lr > 0").err
    assert err == "note: lr means the configured optim.lr; metric.lr is the metric of that name\n"


def test_a_syntax_error_has_a_caret_under_its_place(desk: Desk) -> None:
    done = desk.ledger("ls", "--where", "val/loss < and lr > 1", code=2)
    assert done.err.splitlines()[:3] == [
        "ledger: a value is missing here",
        "  val/loss < and lr > 1",
        "             ^",
    ]
    assert "mend:" in done.err


def test_the_library_answers_the_same(book: Book) -> None:
    with book:
        found = book.runs(where="val/loss < 3 and lr >= 1e-3", sort="-val/loss", limit=1)
        assert [(run.name, run.metrics) for run in found] == [("run-1", {"lr": 0.0025, "val/loss": 2.5})]
        assert [run.name for run in book.runs()] == list(book.names().values())
        with pytest.raises(UsageError):
            book.runs(where="nothing = 1")
        with pytest.raises(UsageError):
            book.runs(limit=0)
