"""Runs beside W&B and Neptune: mirrored to both while they train, killed, resumed, and what their files then hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.desk import PATIENCE_S, Desk
from tests.e2e.test_training import RECIPE
from tests.wandb_standin import ENTITY, KEY, WandbStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTH = '[ledger]\nmirrors = ["wandb", "neptune"]\n[plugin.wandb]\nentity = "team"\nproject = "kjv"\n'
TRAIN = """
import math
import ledger

with ledger.start_run({"lr": 0.1, "deep": {"er": [1, 2]}}, seed=7, tags=["toy"]) as run:
    for step in range(30):
        run.log({"loss": 1 / (step + 1), "odd": math.nan if step % 3 else math.inf}, step=step)
"""


@pytest.fixture
def standin() -> Iterator[WandbStandIn]:
    with WandbStandIn() as running:
        yield running
        assert running.unknown == []


def await_equal(desk: Desk, mirror: str, runs: int) -> list[str]:
    """Wait until the mirror shows what the log says, of every run; the ids of the runs."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        checked = desk.ledger("mirror", "--all", "--to", mirror, "--check", "--json", code=None).json
        if len(checked) == runs and not any(each["behind"] or each["differences"] for each in checked):
            return [each["id"] for each in checked]
        assert time.monotonic() < deadline, checked
        time.sleep(1)


@pytest.mark.slow
def test_a_run_of_ones_own_is_brought_to_both(desk: Desk) -> None:
    desk.write(train__py=TRAIN)
    desk.commit()
    desk.run("python", "train.py")
    for mirror in ("wandb", "neptune"):
        (told,) = desk.ledger("mirror", "run-1", "--to", mirror, "--json").json
        assert told["events"] > 0
        (again,) = desk.ledger("mirror", "run-1", "--to", mirror, "--json").json
        assert again["events"] == 0
        await_equal(desk, mirror, 1)


@pytest.mark.slow
@pytest.mark.parametrize("mirror", ["wandb", pytest.param("neptune", marks=pytest.mark.thorough)])
def test_twenty_runs_are_brought_to_a_new_tracker(desk: Desk, mirror: str) -> None:
    desk.write(train__py=TRAIN, many__py="import runpy\nfor _ in range(20):\n    runpy.run_path('train.py')\n")
    desk.commit()
    desk.run("python", "many.py")
    told = desk.ledger("mirror", "--all", "--to", mirror, "--json").json
    assert len(told) == 20
    assert len({*await_equal(desk, mirror, 20)}) == 20
    again = desk.ledger("mirror", "--all", "--to", mirror, "--json").json
    assert [each["events"] for each in again] == [0] * 20


@pytest.mark.slow
def test_killed_resumed_and_replayed_beside_both_it_is_shown_as_it_was(desk: Desk, standin: WandbStandIn) -> None:
    desk.write(recipe__toml=RECIPE, ledger__toml=BOTH, __gitignore="data/\n")
    desk.run("python", "-m", "ledger_trainer.tasks.kjv", "data/whole.txt")
    text = (desk.home / "data/whole.txt").read_text()[:50_000]
    (desk.home / "data/whole.txt").unlink()
    (desk.home / "data/kjv.txt").write_text(text)
    desk.commit()
    desk.kill_at(30, "train", "recipe.toml", run="run-1")
    desk.ledger("resume", "run-1")
    assert desk.ledger("replay", "run-1").out.startswith("identical")
    runs = await_equal(desk, "wandb", 2)
    assert await_equal(desk, "neptune", 2) == runs

    key = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": standin.url}
    desk.run("wandb", "sync", ".ledger/mirrors/wandb", **key)
    uploaded = {run.facts["displayName"]: run for run in standin.runs.values()}
    assert {run.exits[-1] for run in uploaded.values()} == {0}
    for name, run in uploaded.items():
        rows = [(row["ledger/step"], row["train/loss"]) for row in run.rows if "train/loss" in row]
        logged = desk.ledger("log", name, "--json").json
        assert rows == [
            (step, value)
            for fact in logged
            if fact["type"] == "metrics.logged"
            for step, value in zip(
                fact["payload"]["step"], fact["payload"]["values"].get("train/loss", []), strict=False
            )
            if value is not None
        ]
    attempts = [row["ledger/attempt"] for row in uploaded["run-1"].rows]
    assert attempts == sorted(attempts)
    assert set(attempts) == {1, 2}


@pytest.mark.thorough
def test_uploaded_at_once_and_away_for_a_while(desk: Desk, standin: WandbStandIn) -> None:
    online = f'[plugin.wandb]\nmode = "online"\nentity = "{ENTITY}"\nproject = "toy"\nbase_url = "{standin.url}"\n'
    desk.environ["WANDB_API_KEY"] = KEY
    desk.write(train__py=TRAIN, ledger__toml=online)
    desk.commit()
    desk.run("python", "train.py")
    standin.stop()
    away = desk.ledger("mirror", "run-1", "--to", "wandb", code=4)
    assert "nothing is lost" in away.err
    assert KEY not in away.out + away.err
    standin.start()
    desk.ledger("mirror", "run-1", "--to", "wandb")
    await_equal(desk, "wandb", 1)
    (run,) = standin.runs.values()
    assert len([row for row in run.rows if "loss" in row]) == 30
