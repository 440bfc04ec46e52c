"""Runs beside a real MLflow server: mirrored while they train, and brought there years later."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.e2e.desk import PATIENCE_S, Desk
from tests.e2e.test_training import RECIPE

if TYPE_CHECKING:
    from mlflow.entities import Run

    from tests.servers import Mlflow

TOML = """
[ledger]
mirrors = {mirrors}
[plugin.mlflow]
tracking_uri = "{url}"
experiment = "{experiment}"
"""
TRAIN = """
import math, sys
import ledger

for n in range(int(sys.argv[1])):
    with ledger.start_run({"lr": 0.1 * n, "deep": {"er": [1, 2]}}, seed=n, tags=["toy"]) as run:
        for step in range(30):
            run.log({"loss": 1 / (step + 1), "odd": math.nan if step % 3 else math.inf}, step=step)
"""


class Beside:
    """A desk, and MLflow beside it."""

    def __init__(self, desk: Desk, server: Mlflow) -> None:
        self.desk = desk
        self._server = server
        self._experiment = f"experiment {uuid4().hex[:8]}"

    def settings(self, mirrors: str) -> None:
        self.desk.write(ledger__toml=TOML.format(mirrors=mirrors, url=self._server.url, experiment=self._experiment))

    def await_equal(self, runs: int) -> None:
        """Wait until MLflow shows what the log says, of every run."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            checked = self.desk.ledger("mirror", "--all", "--to", "mlflow", "--check", "--json", code=None).json
            if len(checked) == runs and not any(each["behind"] or each["differences"] for each in checked):
                return
            assert time.monotonic() < deadline, checked
            time.sleep(1)

    def shown(self) -> dict[str, Run]:
        """The runs of the experiment by name, as MLflow's users find them."""
        from mlflow import MlflowClient

        client = MlflowClient(self._server.url)
        experiment: Any = client.get_experiment_by_name(self._experiment)
        return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


@pytest.fixture
def beside(desk: Desk, mlflow_service: Mlflow) -> Beside:
    return Beside(desk, mlflow_service)


@pytest.mark.slow
def test_a_run_is_shown_while_it_trains(beside: Beside) -> None:
    beside.settings('["mlflow"]')
    beside.desk.write(train__py=TRAIN)
    beside.desk.commit()
    done = beside.desk.ledger("run", "--", "python", "-c", "print('training')")
    assert done.out == "training\n"
    beside.await_equal(1)
    assert beside.shown()["run-1"].info.status == "FINISHED"


@pytest.mark.slow
def test_killed_resumed_and_replayed_it_is_shown_as_it_was(beside: Beside) -> None:
    desk = beside.desk
    desk.write(recipe__toml=RECIPE, __gitignore="data/\n")
    beside.settings('["mlflow"]')
    desk.run("python", "-m", "ledger_trainer.tasks.kjv", "data/whole.txt")
    text = (desk.home / "data/whole.txt").read_text()[:50_000]
    (desk.home / "data/whole.txt").unlink()
    (desk.home / "data/kjv.txt").write_text(text)
    desk.commit()
    desk.kill_at(30, "train", "recipe.toml", run="run-1")
    desk.ledger("resume", "run-1")
    assert desk.ledger("replay", "run-1").out.startswith("identical")
    beside.await_equal(2)
    shown = beside.shown()
    original, replay = shown["run-1"], shown["run-2"]
    assert {run.info.status for run in shown.values()} == {"FINISHED"}
    assert replay.data.tags["mlflow.parentRunId"] == original.info.run_id
    assert original.data.tags["attempt/2/status"] == "completed"
    assert original.data.tags[f"replay/{replay.data.tags['ledger.run_id']}/verdict"] == "identical"
    assert [each.dataset.name for each in original.inputs.dataset_inputs] == ["train"]


@pytest.mark.slow
def test_twenty_runs_are_brought_to_a_new_tracker(beside: Beside) -> None:
    desk = beside.desk
    beside.settings("[]")
    desk.write(train__py=TRAIN)
    desk.commit()
    desk.run("python", "train.py", "20")
    told = desk.ledger("mirror", "--all", "--to", "mlflow", "--json").json
    assert len(told) == 20
    beside.await_equal(20)
    again = desk.ledger("mirror", "--all", "--to", "mlflow", "--json").json
    assert [each["events"] for each in again] == [0] * 20
    assert len(beside.shown()) == 20
