"""The spine with the bundled trainer: killed at several steps, resumed, replayed, on one process and on two."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.e2e.desk import Desk

RECIPE = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
steps = 120
[data.train]
uri = "file:data/kjv.txt"
[task_options]
n_layer = 1
n_head = 2
n_embd = 32
block_size = 32
dropout = 0.2
[batch]
size = 8
[log]
every = 1
[evaluate]
every = 12
batches = 2
[checkpoint]
every = 12
best = "val/loss"
keep_last = 2
[determinism]
threads = 1
"""


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.write(recipe__toml=RECIPE, __gitignore="data/\n")
    desk.run("python", "-m", "ledger_trainer.tasks.kjv", "data/whole.txt")
    text = (desk.home / "data/whole.txt").read_text()[:50_000]
    (desk.home / "data/whole.txt").unlink()
    (desk.home / "data/kjv.txt").write_text(text)
    desk.commit()
    desk.ledger("init")
    return desk


# A weight that no loss depends on counts the steps; beyond the 30th, anywhere but here, so in a replay, it is wrong.
UNREAD = """
import os
import torch
from ledger_trainer.tasks.kjv import CharGpt, GptOptions, gpt

def task(options: GptOptions, data) -> CharGpt:
    made = gpt(options, data)
    fresh, steps = made.model, []

    def count(module, inputs):
        if module.training:
            steps.append(None)
            elsewhere = os.getcwd() != HOME and len(steps) > 30
            module.unread.data.fill_(len(steps) + elsewhere)

    def model():
        model = fresh()
        model.unread = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
        model.register_forward_pre_hook(count)
        return model

    made.model = model
    return made
"""


@pytest.mark.slow
def test_weights_that_part_while_every_loss_agrees_are_found_at_the_first_fingerprint(desk: Desk) -> None:
    desk.write(mine__py=f"HOME = {os.fspath(desk.home.resolve())!r}\n{UNREAD}")
    desk.write(recipe__toml=RECIPE.replace("ledger_trainer.tasks.kjv:gpt", "mine:task"))
    desk.ledger("train", "recipe.toml")
    (compared,) = desk.ledger("replay", "run-1", "--keep-going", "--json", code=1).json
    assert compared["verdict"] == "diverged"
    first = compared["first_divergence"]
    assert (first["what"], first["step"]) == ("tensor unread", 36)
    checks = {check["name"]: check for check in compared["checks"]}
    assert all(checks[metric]["passed"] for metric in ("train/loss", "grad_norm", "val/loss"))
    assert "2 equal bit for bit" in checks["fingerprints"]["actual"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.thorough)])
def test_killed_resumed_replayed_equals_never_killed(desk: Desk, processes: str) -> None:
    desk.ledger("train", "recipe.toml", "--nproc", processes)
    # Long enough that each kill finds it in mid-training, short enough between checkpoints to lose some steps.
    slow = ["train", "recipe.toml", "--nproc", processes]
    desk.kill_at(18, *slow, run="run-2")
    (status,) = [run["status"] for run in desk.ledger("ls", "--json").json if run["name"] == "run-2"]
    assert status == "interrupted"
    desk.kill_at(50, "resume", "run-2", run="run-2")
    desk.ledger("resume", "run-2")

    assert desk.metrics("run-2") == desk.metrics("run-1")
    assert desk.fingerprints("run-2") == desk.fingerprints("run-1")
    (compared,) = desk.ledger("replay", "run-2", "--json").json
    assert compared["verdict"] == "identical"
    assert "completed" in desk.ledger("show", "run-2").out


@pytest.mark.thorough
def test_killed_before_its_first_checkpoint_it_starts_over(desk: Desk) -> None:
    desk.kill_at(2, "train", "recipe.toml", run="run-1")
    desk.ledger("resume", "run-1")
    assert desk.ledger("replay", "run-1").out.startswith("identical")


@pytest.mark.slow
def test_a_truncated_checkpoint_is_skipped_and_the_reason_is_shown(desk: Desk) -> None:
    desk.kill_at(40, "train", "recipe.toml", run="run-1")
    newest = max(c["step"] for c in desk.ledger("checkpoints", "run-1", "--json").json)
    for index in (desk.home / ".ledger/checkpoints/run-1").glob(f"*step*{newest:g}/checkpoint.json"):
        os.truncate(index, index.stat().st_size // 2)
    told = desk.ledger("resume", "run-1").err
    # Killed between the two of one step, there is only the best one.
    truncated = re.compile(rf"(best_model_step_|step-){newest:g}\b")
    assert truncated.search(told.partition("passed over")[2])
    (resumed,) = [f for f in desk.ledger("log", "run-1", "--json").json if f["type"] == "training.resumed"]
    assert resumed["payload"]["step"] < newest
    assert any(truncated.search(reason) for reason in resumed["payload"]["skipped"])
    assert desk.ledger("replay", "run-1").out.startswith("identical")


STOPS = [
    pytest.param(signal.SIGINT, "1", marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, "1", marks=pytest.mark.thorough),
    pytest.param(signal.SIGINT, "2", marks=pytest.mark.thorough),
    pytest.param(signal.SIGTERM, "2", marks=pytest.mark.thorough),
]


@pytest.mark.parametrize(("number", "processes"), STOPS)
def test_stopped_early_it_keeps_its_state_and_goes_on(desk: Desk, number: signal.Signals, processes: str) -> None:
    training = desk.start("train", "recipe.toml", "--nproc", processes)
    desk.await_step(training, "run-1", 3)
    training.send_signal(number)
    training.communicate(timeout=60)
    assert training.returncode == 130
    (run,) = desk.ledger("ls", "--json").json
    assert run["status"] == "interrupted"
    # All ranks have left after the same step, and its checkpoint is on record.
    kept = max(checkpoint["step"] for checkpoint in desk.ledger("checkpoints", "run-1", "--json").json)
    assert kept == max(desk.metrics("run-1"))
    nowhere = (desk.home / "recipe.toml" / "checkpoints").as_uri()
    assert "recipe.toml/checkpoints" in desk.ledger("resume", "run-1", code=4, LEDGER_CHECKPOINTS=nowhere).err
    assert not any(fact["type"] == "training.resumed" for fact in desk.ledger("log", "run-1", "--json").json)
    desk.ledger("resume", "run-1")
    assert desk.ledger("replay", "run-1").out.startswith("identical")


def test_two_that_resume_at_once_exactly_one_wins(desk: Desk) -> None:
    desk.kill_at(18, "train", "recipe.toml", run="run-1")
    both = [desk.start("resume", "run-1") for _ in range(2)]
    outputs = [each.communicate(timeout=120)[0] for each in both]
    codes = sorted(each.returncode for each in both)
    assert codes == [0, 4], outputs
    attempts = [
        f["payload"]["attempt"] for f in desk.ledger("log", "run-1", "--json").json if f["type"] == "training.resumed"
    ]
    assert attempts == [2]


@pytest.mark.thorough
def test_another_seed_is_another_run_and_compare_says_so(desk: Desk) -> None:
    desk.ledger("train", "recipe.toml", "steps=6")
    desk.ledger("train", "recipe.toml", "steps=6", "seed=8")
    assert desk.fingerprints("run-1") != desk.fingerprints("run-2")
    assert "seed" in desk.ledger("compare", "run-1", "run-2").out


def test_the_samples_of_a_step_can_be_listed(desk: Desk) -> None:
    desk.ledger("train", "recipe.toml", "steps=6")
    first, again, other = (desk.ledger("audit", "run-1", "--step", step, "--json").json for step in ("2", "2", "3"))
    assert first == again != other


@pytest.mark.slow
def test_a_bare_checkpoint_tells_where_it_comes_from(desk: Desk) -> None:
    desk.ledger("train", "recipe.toml", "steps=6")
    desk.ledger("fetch", "run-1", "best", "model")
    for target in ("model", "model/model/rank-00000.safetensors"):
        told = desk.ledger("audit", target).out
        assert "run-1" in told
        assert "file:data/kjv.txt" in told


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ("steps = \n", "line 1"),
        (RECIPE.replace("steps", "stepz"), "stepz"),
        (RECIPE.replace("size = 8", "size = 'big'"), "batch.size"),
        (RECIPE.replace("kjv:gpt", "kjv:gtp"), "gtp"),
        (RECIPE.replace("data/kjv.txt", "data/none.txt"), "data/none.txt"),
        (RECIPE.replace("file:data", "gopher:data"), "gopher"),
    ],
)
def test_a_bad_recipe_starts_no_run(desk: Desk, recipe: str, named: str) -> None:
    desk.write(recipe__toml=recipe)
    done = desk.ledger("train", "recipe.toml", code=None)
    assert done.code in (2, 4)
    assert named in done.err
    assert "Traceback" not in done.err
    assert desk.ledger("ls", "--json").json == []


def test_a_missing_recipe_and_a_bad_override(desk: Desk) -> None:
    assert "none.toml" in desk.ledger("train", "none.toml", code=2).err
    assert "optim.ler" in desk.ledger("train", "recipe.toml", "optim.ler=1", code=2).err
