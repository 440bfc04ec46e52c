"""Whole trainings in processes of their own, recorded as `ledger train` records them."""

from __future__ import annotations

import hashlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import safetensors.torch
import torch

import ledger
from ledger.codec import canonical_digest
from ledger.events import CheckpointWritten, MetricsLogged, ParametersFingerprinted, RunInterrupted
from ledger.record.command import Request, record_command
from ledger.record.resume import resume_command
from ledger.record.world import Asked
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
import time
from pathlib import Path
import psutil
from ledger_trainer.tasks import kjv
class Mortal(kjv.CharGpt):
    made = 0
    def batch(self, samples):
        self.made += 1
        if self.made == int(os.environ.get("DIE_IN_BATCH", 0)) and os.environ.get("RANK", "0") == "0":
            saving = Path(os.environ["LEDGER_SCRATCH"], "saving")
            # What is under way is stored by a thread, sooner or later.
            while any(saving.glob(os.environ["LEDGER_RUN"] + "-*/step-*")):
                time.sleep(0.01)
            launcher = [psutil.Process(os.getppid())] if "RANK" in os.environ else []
            for process in [*launcher, *(c for p in launcher for c in p.children() if c.pid != os.getpid())]:
                process.kill()
            psutil.Process().kill()
        return super().batch(samples)
def gpt(options: kjv.GptOptions, data):
    return Mortal(options, data["train"].read_text())
"""
FAULTY = """
import os
import signal
import time
import ledger
from ledger.errors import Conflict
from ledger_trainer.engines import TorchEngine
from ledger_trainer.saver import Saver
from ledger_trainer.tasks import kjv
store = ledger.Run.checkpoint
def checkpoint(self, directory, **named):
    if named["name"] == os.environ.get("DIE_BEFORE"):
        os.kill(os.getpid(), signal.SIGKILL)
    if named["name"] == os.environ.get("REFUSE"):
        raise Conflict("somebody else has it")
    time.sleep(float(os.environ.get("SLOW", 0)))
    return store(self, directory, **named)
ledger.Run.checkpoint = checkpoint
save = TorchEngine.save
def save_badly(self, directory):
    write = save(self, directory)
    def written():
        write()
        if os.environ.get("RANK") == "1" and directory.name == os.environ.get("FAIL_TO_WRITE"):
            raise OSError("no space left")
        if os.environ.get("RANK") == "1" and directory.name == os.environ.get("HANG_IN_WRITE"):
            time.sleep(600)
    return written
if "HANG_IN_WRITE" in os.environ:
    Saver.__init__.__kwdefaults__["patience"] = 2.0
TorchEngine.save = save_badly
def gpt(options: kjv.GptOptions, data):
    return kjv.gpt(options, data)
"""
"""A task whose process stores and saves with the faults that the environment asks for."""
TWO = "parallel.processes=2"
NO_BEST = 'checkpoint.best=""'
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
        files = (path for path in place.rglob("*") if path.is_file())
        return {str(p.relative_to(place)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

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
    [
        pytest.param((), 4, None, marks=pytest.mark.thorough, id="before the first checkpoint"),
        pytest.param((), 15, 4, marks=pytest.mark.thorough, id="one process"),
        pytest.param((TWO,), 23, 8, marks=pytest.mark.slow, id="two processes"),
    ],
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


@pytest.mark.thorough
@pytest.mark.slow
def test_another_seed_trains_to_other_bits(workshop: Workshop) -> None:
    first, second = (workshop.train(f"seed={seed}", "steps=4")[1] for seed in (1, 2))
    assert prints(first)[4] != prints(second)[4]


@pytest.mark.thorough
def test_the_checkpoint_of_two_processes_holds_the_generators_of_both(workshop: Workshop) -> None:
    _, run = workshop.train(TWO, "steps=6", "fingerprint.every=5", "checkpoint.export=bfloat16")
    written = last(run)
    assert {"progress.json", "rng-rank0.pt", "rng-rank1.pt"} < {f.path for f in written.files}
    assert {"model", "optimizer", "rng.python", "rng.numpy", "rng.torch"} <= set(written.holds)
    assert (written.trigger, written.processes) == ("last", 2)
    files = workshop.files(written)
    assert files["rng-rank0.pt"] != files["rng-rank1.pt"]

    assert set(prints(run)) == {4, 5, 6}
    for _, print_ in run.fingerprinted:
        assert print_.parameters == canonical_digest(print_.tensors)
        assert set(print_.shards) == {"0", "1"}
    best = next(c for _, c in reversed(run.written) if c.best)
    with tempfile.TemporaryDirectory() as place:
        workshop.book.checkpoints().read(best, Path(place, "c"))
        model = safetensors.torch.load_file(Path(place, "c/model-bfloat16.safetensors"))
    assert {tensor.dtype for tensor in model.values()} == {torch.bfloat16}
    assert set(model) == set(run.fingerprinted[0][1].tensors)

    told = [r.event for r in workshop.book.store.read(run_stream(run.id))]
    order = [
        (at, kind)
        for event in told
        for kind, at in [
            *(("metrics", step) for step in (event.step if isinstance(event, MetricsLogged) else ())),
            *([("fingerprint", event.step)] if isinstance(event, ParametersFingerprinted) else []),
            *([("checkpoint", event.step)] if isinstance(event, CheckpointWritten) else []),
        ]
    ]
    for step in (4, 6):
        kinds = [kind for at, kind in order if at == step]
        assert kinds == sorted(kinds, key=["metrics", "fingerprint", "checkpoint"].index)
    assert re.search(
        r"checkpoints: \d written, training stood still for [\d.]+ s \([\d.]+%\), [\d.]+ s behind it; fingerprints: 3 ",
        workshop.console(run),
    )


@pytest.mark.parametrize(
    ("overrides", "number"),
    [
        pytest.param((), signal.SIGINT, id="Ctrl-C for one process"),
        pytest.param((TWO,), signal.SIGTERM, id="SIGTERM for two", marks=pytest.mark.thorough),
    ],
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


@pytest.fixture
def faulty(workshop: Workshop) -> str:
    """An override: the task that comes with faults."""
    (workshop.home / "faulty.py").write_text(FAULTY)
    return "task=faulty:gpt"


def names(run: RunState) -> list[str]:
    return [c.name for _, c in run.written]


def scratch(workshop: Workshop, run: RunState) -> list[Path]:
    return list((workshop.book.settings.scratch / "saving").glob(f"{run.id}*"))


def test_by_the_clock_a_checkpoint_leaves_no_mark_in_what_is_compared(workshop: Workshop) -> None:
    _, run = workshop.train("checkpoint.every=0", "checkpoint.minutes=0.00001", NO_BEST, "steps=6")
    assert [(c.step, c.trigger) for _, c in run.written] == [*((s, "minutes") for s in range(1, 6)), (6, "last")]
    assert set(prints(run)) == {4, 6}


@pytest.mark.thorough
def test_killed_between_the_two_checkpoints_of_a_step_the_second_is_made_up_for(
    workshop: Workshop, faulty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, straight = workshop.train(faulty, "steps=8")
    assert names(straight)[:2] == ["best_model_step_4", "step-4"]
    monkeypatch.setenv("DIE_BEFORE", "step-4")
    _, killed = workshop.train(faulty, "steps=8")
    assert names(killed) == ["best_model_step_4"]
    assert scratch(workshop, killed), "what it was saving"
    monkeypatch.delenv("DIE_BEFORE")
    resumed = workshop.resume(killed)
    assert resumed.resumed_at == {2: 4}
    assert names(resumed) == names(straight)
    assert [c.digest for _, c in resumed.written] == [c.digest for _, c in straight.written]
    assert scratch(workshop, resumed) == []


@pytest.mark.slow
def test_a_checkpoint_that_is_refused_is_on_record_and_the_last_one_fails_the_run(
    workshop: Workshop, faulty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSE", "step-4")
    outcome, run = workshop.train(faulty, "steps=6")
    assert outcome.status == "completed"
    assert "step-4" not in names(run)
    assert "warning: the checkpoint step-4 was not stored: somebody else has it" in [n.text for n in run.notes]
    assert 4 in prints(run)

    monkeypatch.setenv("REFUSE", "step-6")
    outcome, run = workshop.train(faulty, "steps=6")
    assert outcome.status == "failed"
    assert "step-6, the last one, was not stored: somebody else has it" in (outcome.error or "")
    assert "keep a copy, mend the cause, and go on from there" in workshop.console(run)
    monkeypatch.delenv("REFUSE")
    assert names(workshop.resume(run))[-1] == "step-6"


@pytest.mark.slow
def test_a_rank_that_cannot_write_its_part_is_named_and_training_goes_on(
    workshop: Workshop, faulty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL_TO_WRITE", "step-4")
    outcome, run = workshop.train(faulty, TWO, "steps=6", NO_BEST)
    assert outcome.status == "completed"
    assert names(run) == ["step-6"]
    (told,) = [note.text for note in run.notes]
    assert re.fullmatch(r"warning: the checkpoint step-4 was not stored: rank 1 on \S+: OSError: no space left", told)
    assert set(prints(run)) == {4, 6}


@pytest.mark.thorough  # torchrun gives the rank that hangs half a minute to end
def test_a_rank_that_hangs_is_named_and_ends_the_training(
    workshop: Workshop, faulty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANG_IN_WRITE", "step-4")
    outcome, run = workshop.train(faulty, TWO, "steps=8", NO_BEST)
    assert outcome.status == "failed"
    assert names(run) == []
    (told,) = [note.text for note in run.notes if note.text.startswith("warning: ")]
    assert re.search(r"step-4 was not stored: rank 1 on \S+ has said nothing of its part for 2 s", told)
    assert re.search(r"rank 1 on \S+ does not come to an end with its part", outcome.error or "")


@pytest.mark.slow
def test_on_another_number_of_processes_training_goes_on_and_says_what_that_means(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workshop.home / "mortal.py").write_text(MORTAL)
    monkeypatch.setenv("DIE_IN_BATCH", "23")
    _, killed = workshop.train("task=mortal:gpt", TWO)
    monkeypatch.delenv("DIE_IN_BATCH")
    resume_command(workshop.book, killed.name, Asked(processes=1))
    resumed = workshop.book.run(killed.name)
    assert resumed.status == "completed"
    assert last(resumed).processes == 1
    step = resumed.resumed_at[2]
    said = f"the checkpoint of step {step:.0f} is of 2 processes, training goes on with 1: not bit for bit"
    assert said in workshop.console(resumed)
    assert said in [note.text for note in resumed.notes]
    assert {f.path for f in last(resumed).files if f.path.startswith("rng")} == {"rng-rank0.pt"}


@pytest.mark.thorough
def test_training_waits_for_a_slow_store_and_says_so(
    workshop: Workshop, faulty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW", "1.5")
    _, run = workshop.train(faulty, "steps=4", "checkpoint.every=2", NO_BEST, "evaluate.every=0")
    assert names(run) == ["step-2", "step-4"]
    console = workshop.console(run)
    assert "step 4 waits for the checkpoint step-2" in console
    assert "at the end, waiting for the checkpoint step-4" in console
    (note,) = run.notes
    assert re.fullmatch(r"training waited 1\.\d s at step 4 for the checkpoint step-2", note.text)
    assert note.tags == ("checkpoint",)


_SEEDS = (
    pytest.param(1, marks=pytest.mark.slow),
    *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(2, 10)),
)


@pytest.mark.parametrize("seed", _SEEDS)
def test_killed_at_any_moment_no_acknowledged_fact_is_lost(
    workshop: Workshop, faulty: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    kept = "checkpoint.every=2", "checkpoint.keep_last=2", "checkpoint.full_every=3"
    overrides = faulty, *kept, "log.every=1", "fingerprint.every=1"
    _, straight = workshop.train(*overrides)
    assert [len(c.bases) for _, c in straight.written if not c.best] == [0, 1, 2, 0, 1, 2]
    chance = random.Random(seed)
    monkeypatch.setenv("SLOW", "0.1")
    killed = kill_at(workshop, overrides, checkpoints=chance.randint(1, 5), after=chance.uniform(0.0, 0.3))
    acknowledged = [c for _, c in killed.written]
    taken = set(prints(killed))
    for checkpoint in killed.checkpoints:
        assert workshop.files(checkpoint) == {f.path: f.digest for f in checkpoint.files}
        assert checkpoint.step in taken
    resumed = workshop.resume(killed)
    assert [c for _, c in resumed.written][: len(acknowledged)] == acknowledged
    assert resumed.resumed_at == {2: acknowledged[-1].step}
    assert curve(resumed) == curve(straight)
    assert prints(resumed) == prints(straight)
    assert [c.name for c in resumed.checkpoints if not c.best] == [c.name for c in straight.checkpoints if not c.best]
    assert workshop.files(last(resumed)) == workshop.files(last(straight))
    assert scratch(workshop, resumed) == []


def kill_at(workshop: Workshop, overrides: Sequence[str], *, checkpoints: int, after: float) -> RunState:
    """Train in a process of its own, and kill training and launcher ``after`` seconds of so many checkpoints."""
    program = f"""
import sys
from pathlib import Path
import ledger
sys.path.insert(0, {HERE!r})
from test_training import Workshop
Workshop(Path.cwd(), ledger.open_ledger(str(Path(".ledger").absolute()))).train(*{tuple(overrides)!r})
"""
    before = {run.id for run in workshop.book.runs()}
    with subprocess.Popen([sys.executable, "-c", program], cwd=workshop.home) as process:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            started = [run for run in workshop.book.runs() if run.id not in before]
            if started and len(workshop.book.run(started[0].id).written) >= checkpoints:
                break
            time.sleep(0.02)
        time.sleep(after)
        whole = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in whole:
            one.kill()
        psutil.wait_procs(whole)
    workshop.book.recover()
    return workshop.book.run(started[0].id)


@pytest.mark.thorough
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


@pytest.mark.thorough
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
