"""``ledger gpu-hours`` over a run that was killed and resumed, a quick one, and its replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.desk import Desk

KILLED = """
import os, pathlib, signal, time
import ledger

run = ledger.current_run()
began = time.monotonic()
run.log({"loss": 1.0}, step=1)
if run.attempt == 1:
    state = pathlib.Path("state")
    state.mkdir()
    (state / "weights").write_text("1")
    run.checkpoint(state, step=1)
    while time.monotonic() - began < 7:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
run.finish()
"""
QUICK = "import ledger\nwith ledger.current_run() as run:\n    run.log({'loss': 1.0}, step=1)\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.git("init", "--quiet", "--initial-branch", "main")
    desk.write(killed__py=KILLED, quick__py=QUICK, __gitignore="state/\n")
    desk.ledger("init")
    desk.commit()
    desk.ledger("run", "--", "python", "killed.py", code=130)
    desk.ledger("resume", "run-1")
    desk.ledger("run", "--", "python", "quick.py")
    desk.ledger("replay", "run-2")
    return desk


def told(desk: Desk, *words: str) -> dict[str, Any]:
    return {group["name"]: group for group in desk.ledger("gpu-hours", "--json", *words).json}


def test_time_after_the_checkpoint_is_lost_and_that_of_a_replay_a_replays(desk: Desk) -> None:
    runs = told(desk)
    assert list(runs) == ["run-1", "run-2", "run-3"]
    assert all(run["gpu"]["hours"] == 0 for run in runs.values())
    # Of the seven seconds five were on record when it was killed, the first of them before the checkpoint.
    assert runs["run-1"]["cpu"]["lost"] * 3600 == pytest.approx(4, abs=1.5)
    assert runs["run-1"]["cpu"]["useful"] > 0
    assert runs["run-2"]["cpu"]["lost"] == runs["run-2"]["cpu"]["replays"] == 0
    assert runs["run-3"]["cpu"]["replays"] == runs["run-3"]["cpu"]["hours"] > 0
    for run in runs.values():
        parts = (run["cpu"][use] for use in ("useful", "lost", "replays"))
        assert sum(parts) == pytest.approx(run["cpu"]["hours"])


def test_groups_add_up(desk: Desk) -> None:
    hours = sum(run["cpu"]["hours"] for run in told(desk).values())
    programs = told(desk, "--by", "model")
    assert set(programs) == {"killed.py", "quick.py"}
    assert sum(group["cpu"]["hours"] for group in programs.values()) == pytest.approx(hours)
    assert set(told(desk, "--where", "kind = replay")) == {"run-3"}


def test_the_table_has_a_sum_and_no_column_without_anything_in_it(desk: Desk) -> None:
    titles, *rows = desk.ledger("gpu-hours").out.splitlines()
    assert titles.split() == ["run", "cpu", "hours", "useful", "lost", "replays"]
    assert [row.split()[0] for row in rows] == ["run-1", "run-2", "run-3", "all"]
    titles, row = desk.ledger("gpu-hours", "--by", "project").out.splitlines()  # these runs are in none
    assert (titles.split()[0], row.split()[0]) == ("project", "-")
    assert desk.ledger("gpu-hours", "--where", "name = run-9").err.startswith("no run that fits")


def test_show_says_it_in_a_line(desk: Desk) -> None:
    (line,) = [line for line in desk.ledger("show", "run-1").out.splitlines() if line.strip().startswith("devices")]
    assert "CPU hours: useful" in line
    assert ", lost " in line
    (facts,) = desk.ledger("show", "run-1", "--json").json
    assert facts["gpu_hours"] == told(desk)["run-1"]


def test_prices_make_it_cost_something(desk: Desk) -> None:
    settings = desk.home / "ledger.toml"
    before = settings.read_text()
    try:
        settings.write_text(before + '\n[prices]\ncurrency = "EUR"\ncpu = 3600\n')
        runs = told(desk)
        assert runs["run-1"]["currency"] == "EUR"
        assert runs["run-1"]["cost"] == pytest.approx(runs["run-1"]["cpu"]["hours"] * 3600)
        assert "EUR" in desk.ledger("gpu-hours").out.splitlines()[0]
        settings.write_text(before + '\n[prices]\ncurrency = "EUR"\n"H100" = 2\n')
        assert "without a price in ledger.toml" in desk.ledger("gpu-hours").err
        settings.write_text(before + "\n[prices]\ncpu = 1\n")
        assert "prices.currency" in desk.ledger("gpu-hours", code=2).err
    finally:
        settings.write_text(before)


def test_what_is_no_group_is_a_usage_error(desk: Desk) -> None:
    assert "'planet'" in desk.ledger("gpu-hours", "--by", "planet", code=2).err


def test_a_ledger_without_runs_has_nothing_to_tell(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.ledger("init")
    assert desk.ledger("gpu-hours").err.strip() == "no run has any device time on record"
