"""Whole trainings in processes of their own, recorded as `ledger train` records them."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ledger
from ledger.events import RunInterrupted
from ledger.record.command import Request, record_command
from ledger.record.resume import resume_command
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ledger.events import CheckpointWritten
    from ledger.read.state import RunState
    from ledger.record.command import Outcome

RECIPE = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
steps = 12
[data.train]
uri = "file:kjv.txt"
[task_options]
n_layer = 1
n_head = 2
n_embd = 32
block_size = 32
dropout = 0.2
[batch]
size = 8
accumulation = 2
[optim]
lr = 1e-2
[schedule]
kind = "cosine"
warmup = 3
[evaluate]
every = 4
batches = 2
[log]
every = 2
[checkpoint]
every = 4
best = "val/loss"
[determinism]
threads = 1
"""
MORTAL = """
import os
import psutil
from ledger_trainer.tasks import kjv
class Mortal(kjv.CharGpt):
    made = 0
    def batch(self, samples):
        self.made += 1
        if self.made == int(os.environ.get("DIE_IN_BATCH", 0)) and os.environ.get("RANK", "0") == "0":
            launcher = [psutil.Process(os.getppid())] if "RANK" in os.environ else []
            for process in [*launcher, *(c for p in launcher for c in p.children() if c.pid != os.getpid())]:
                process.kill()
            psutil.Process().kill()
        return super().batch(samples)
def gpt(options: kjv.GptOptions, data):
    return Mortal(options, data["train"].read_text())
"""
TWO = "parallel.processes=2"
DEADLINE_S = 120
HERE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Workshop:
    """A directory with a recipe and data, and a ledger."""

    home: Path
    book: ledger.Book

    def request(self, *overrides: str) -> Request:
        recipe = self.book.plugins.trainer(self.book.settings).resolve(self.home / "recipe.toml", overrides)
        return Request(
            "train", ["ledger", "train"], recipe.command, self.home,
            world=recipe.world, seed=recipe.seed, config=recipe.config, data=recipe.data,
        )  # fmt: skip

    def train(self, *overrides: str) -> tuple[Outcome, RunState]:
        outcome = record_command(self.book, self.request(*overrides))
        return outcome, self.book.run(outcome.name)

    def resume(self, run: RunState) -> RunState:
        resume_command(self.book, run.name)
        return self.book.run(run.name)

    def files(self, written: CheckpointWritten) -> dict[str, str]:
        """Digest of each file of a checkpoint, read back from its store."""
        place = self.home / f"fetched-{time.monotonic_ns()}"
        self.book.checkpoints().read(written, place)
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in place.iterdir()}

    def console(self, run: RunState) -> str:
        return self.book.objects.get_bytes(run.consoles[-1].digest).decode()


@pytest.fixture
def workshop(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    (tmp_path / "kjv.txt").write_text(text.read_text()[:40_000])
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    book = ledger.open_ledger(str(tmp_path / ".ledger"))
    yield Workshop(tmp_path, book)
    book.close()


def curve(run: RunState) -> dict[str, list[tuple[float, float]]]:
    return {name: [*zip((s := run.series(name)).step, s.value, strict=True)] for name in run.metrics}


def prints(run: RunState) -> dict[float, tuple[str, str | None]]:
    return {f.step: (f.parameters, f.optimizer) for _, f in run.fingerprinted}


def last(run: RunState) -> CheckpointWritten:
    return run.written[-1][1]


@pytest.mark.parametrize(
    ("overrides", "batch", "step"),
    [((), 4, None), ((), 15, 4), ((TWO,), 23, 8)],
    ids=["before the first checkpoint", "one process", "two processes"],
)
def test_the_same_recipe_trains_to_the_same_bits_even_when_it_is_killed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, overrides: Sequence[str], batch: int, step: float | None
) -> None:
    (workshop.home / "mortal.py").write_text(MORTAL)
    outcome, straight = workshop.train("task=mortal:gpt", *overrides)
    assert outcome.status == "completed"
    assert set(prints(straight)) == {4, 8, 12}
    assert [c.name for _, c in straight.written if not c.best] == ["step-4", "step-8", "step-12"]
    assert curve(straight)["train/loss"][-1][1] < curve(straight)["train/loss"][0][1]
    assert [step for step, _ in curve(straight)["val/loss"]] == [4, 8, 12]

    monkeypatch.setenv("DIE_IN_BATCH", str(batch))
    killed = workshop.train("task=mortal:gpt", *overrides)[1]
    assert isinstance(killed.ended, RunInterrupted)
    assert killed.ended.signal == "SIGKILL"
    monkeypatch.delenv("DIE_IN_BATCH")

    resumed = workshop.resume(killed)
    assert resumed.status == "completed"
    assert resumed.resumed_at == {2: step}
    assert curve(resumed) == curve(straight)
    assert prints(resumed) == prints(straight)
    assert workshop.files(last(resumed)) == workshop.files(last(straight))


def test_another_seed_trains_to_other_bits(workshop: Workshop) -> None:
    first, second = (workshop.train(f"seed={seed}", "steps=4")[1] for seed in (1, 2))
    assert prints(first)[4] != prints(second)[4]


def test_the_checkpoint_of_two_processes_holds_the_generators_of_both(workshop: Workshop) -> None:
    written = last(workshop.train(TWO, "steps=4")[1])
    assert {f.path for f in written.files} == {
        "model.safetensors", "optimizer.pt", "progress.json", "rng-rank0.pt", "rng-rank1.pt",
    }  # fmt: skip
    assert {"model", "optimizer", "rng.python", "rng.numpy", "rng.torch"} <= set(written.holds)
    files = workshop.files(written)
    assert files["rng-rank0.pt"] != files["rng-rank1.pt"]


@pytest.mark.parametrize(
    ("overrides", "number"),
    [((), signal.SIGINT), ((TWO,), signal.SIGTERM)],
    ids=["Ctrl-C for one process", "SIGTERM for two"],
)
def test_an_interrupted_training_keeps_the_step_that_was_under_way(
    workshop: Workshop, overrides: Sequence[str], number: signal.Signals
) -> None:
    request = "steps=100000", "log.every=1", "evaluate.every=0", "checkpoint.every=0", *overrides
    program = f"""
import sys
from pathlib import Path
import ledger
sys.path.insert(0, {HERE!r})
from test_training import Workshop
print(Workshop(Path.cwd(), ledger.open_ledger(str(Path(".ledger").absolute()))).train(*{request!r})[0])
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=workshop.home, stdout=subprocess.PIPE, text=True) as process:
        run = wait_for_metrics(workshop, process)
        process.send_signal(number)
        told, _ = process.communicate(timeout=DEADLINE_S)
    state = workshop.book.run(run)
    assert state.status == "interrupted", told
    (_, written), *more = state.written
    assert not more
    assert written.step == curve(state)["train/loss"][-1][0]
    assert f"stopped after step {written.step:.0f} of 100000" in workshop.console(state)
    assert not prints(state), "an interruption leaves no mark in what a replay compares"


def test_a_loss_that_is_no_number_is_recorded_and_ends_the_training(workshop: Workshop) -> None:
    outcome, run = workshop.train("optim.lr=1e30", "optim.clip=0.0", "schedule.kind=constant", "schedule.warmup=0")
    assert outcome.status == "failed"
    step, value = curve(run)["train/loss"][-1]
    assert value != value
    assert run.ended is not None
    assert f"the loss is not finite at step {step:.0f}" in getattr(run.ended, "exception", "")

    outcome, run = workshop.train(
        "optim.lr=1e30", "optim.clip=0.0", "schedule.kind=constant", "schedule.warmup=0", "stop_on_nan=false"
    )
    assert outcome.status == "completed"
    assert [c.best for _, c in run.written if c.step == 12] == [False]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("checkpoint.best=val/accuracy", 'checkpoint.best = "val/accuracy" is not measured'),
        ("task_options.block_size=50000", "no sample to train on"),
    ],
)
def test_what_only_the_training_process_can_know_ends_it_before_the_first_step(
    workshop: Workshop, override: str, says: str
) -> None:
    outcome, run = workshop.train(override)
    assert outcome.status == "failed"
    assert says in (outcome.error or "")
    assert "error: " in workshop.console(run)
    assert not run.metrics


def test_a_users_own_task_is_found_in_the_directory(workshop: Workshop) -> None:
    (workshop.home / "my_task.py").write_text("""
from pydantic import BaseModel
import torch
from torch import nn
class Options(BaseModel):
    width: int = 4
class Line:
    def __init__(self, options): self.options = options
    def samples(self, split): return range(64) if split == "train" else range(64, 80)
    def batch(self, samples):
        x = torch.tensor(samples, dtype=torch.float32)[:, None] / 80
        return {"x": x, "y": 3 * x + 1}
    def model(self):
        width = self.options.width
        return nn.Sequential(nn.Linear(1, width), nn.Dropout(0.1), nn.Linear(width, 1))
    def loss(self, model, batch): return (model(batch["x"]) - batch["y"]).square().mean()
    def metrics(self, model, batch): return {"loss": self.loss(model, batch)}
def line(options: Options, data): return Line(options)
""")
    (workshop.home / "recipe.toml").write_text("""
task = "my_task:line"
steps = 100
[task_options]
width = 8
[optim]
lr = 0.05
[evaluate]
every = 50
""")
    outcome, run = workshop.train()
    assert outcome.status == "completed", outcome
    assert run.last_metrics["val/loss"] < 1.0
    outcome, _ = workshop.train("task_options.width=wide")
    assert "task_options.width: Input should be a valid integer" in (outcome.error or "")


def wait_for_metrics(workshop: Workshop, process: subprocess.Popen[Any]) -> str:
    """The name of the run, once it has trained a few steps."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        for run in workshop.book.runs():
            if sum(e.type == "metrics.logged" for e in workshop.book.store.read(run_stream(run.id))) >= 2:
                return str(run.name)
        time.sleep(0.1)
    raise AssertionError(f"no step in {DEADLINE_S} s; it ended with {process.poll()}: {process.communicate()}")
