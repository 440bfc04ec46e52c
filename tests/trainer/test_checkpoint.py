from __future__ import annotations

import hashlib
import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ledger.errors import CheckpointUnavailable
from ledger_trainer import checkpoint
from ledger_trainer.determinism import seed_all
from ledger_trainer.engines import TorchEngine
from ledger_trainer.feed import Feed
from ledger_trainer.mesh import Mesh
from ledger_trainer.recipe import TrainingRecipe
from ledger_trainer.session import engine_config
from ledger_trainer.tasks import kjv

if TYPE_CHECKING:
    from pathlib import Path

RECIPE: dict[str, Any] = {
    "task": "ledger_trainer.tasks.kjv:gpt",
    "steps": 8,
    "batch": {"size": 4, "accumulation": 2},
    "schedule": {"kind": "cosine", "warmup": 2},
}
OPTIONS = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "dropout": 0.3}


def start(text: Path, options: dict[str, Any] = OPTIONS, **changes: Any) -> tuple[TorchEngine, Feed]:
    recipe = TrainingRecipe.model_validate(RECIPE | changes)
    task = kjv.gpt(kjv.GptOptions(**options), {"train": text})
    seed_all(recipe.seed, "model")
    return TorchEngine(engine_config(recipe, task)), Feed(task, recipe.seed, 4, 2, rank=0, mesh=Mesh())


def digests(directory: Path) -> dict[str, str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def save(directory: Path, engine: TorchEngine, step: int) -> Path:
    checkpoint.save(directory, engine, step=step, seed=0, rank=0)()
    return directory


@pytest.mark.parametrize("optim", [{"name": "adamw", "lr": 1e-2}, {"name": "sgd", "lr": 1e-1, "momentum": 0.9}])
def test_training_resumed_in_the_middle_ends_in_the_same_bytes(
    tmp_path: Path, text: Path, optim: dict[str, Any]
) -> None:
    engine, feed = start(text, optim=optim)
    measured = []
    for step in range(1, 9):
        if step == 4:
            save(tmp_path / "middle", engine, 3)
        measured.append(engine.step(feed.train(step)))
    straight = save(tmp_path / "straight", engine, 8)

    engine, feed = start(text, optim=optim, seed=0)
    assert checkpoint.load(tmp_path / "middle", engine, seed=0, rank=0, world=1) == 3
    assert [engine.step(feed.train(step)) for step in range(4, 9)] == measured[3:]
    assert digests(save(tmp_path / "resumed", engine, 8)) == digests(straight)


@pytest.mark.parametrize("forgotten", ["optimizer", "done", "rng"])
def test_each_part_of_the_state_is_needed(tmp_path: Path, text: Path, forgotten: str) -> None:
    """A test of the test above: without any one part, resuming is not exact."""
    engine, feed = start(text)
    for step in range(1, 4):
        engine.step(feed.train(step))
    middle = save(tmp_path / "middle", engine, 3)
    expected = engine.step(feed.train(4)), engine.step(feed.train(5))

    fresh, _ = start(text)
    checkpoint.load(middle, fresh, seed=0, rank=0, world=1)
    if forgotten == "optimizer":
        fresh.optimizer.state.clear()
    elif forgotten == "done":
        fresh.done = 0
    else:
        seed_all(1, "another")
    assert (fresh.step(feed.train(4)), fresh.step(feed.train(5))) != expected


def test_what_a_checkpoint_holds(tmp_path: Path, text: Path) -> None:
    engine, feed = start(text)
    engine.step(feed.train(1))
    directory = save(tmp_path / "c", engine, 3)
    assert sorted(digests(directory)) == [
        "engine.json",
        "model/rank-00000.safetensors",
        "optimizer/rank-00000.safetensors",
        "progress.json",
        "rng-rank0.pt",
    ]
    assert json.loads((directory / "progress.json").read_text()) == {
        "format": 1,
        "seed": 0,
        "step": 3,
        "world": 1,
    }


def test_a_checkpoint_of_another_seed_is_refused(tmp_path: Path, text: Path) -> None:
    engine, _ = start(text)
    directory = save(tmp_path / "c", engine, 3)
    with pytest.raises(CheckpointUnavailable, match="has seed 0, this training 1"):
        checkpoint.load(directory, engine, seed=1, rank=0, world=1)


def test_with_another_number_of_processes_generators_begin_anew_at_every_step(tmp_path: Path, text: Path) -> None:
    engine, feed = start(text)
    engine.step(feed.train(1))
    drawn: dict[tuple[int, int], tuple[float, ...]] = {}
    for step, world in ((3, 2), (3, 2), (4, 2), (3, 1)):
        place = save(tmp_path / f"{len(drawn)}-{step}-{world}", engine, step)
        for k in range(1, world):
            (place / f"rng-rank{k}.pt").write_bytes((place / "rng-rank0.pt").read_bytes())
        (place / "progress.json").write_text(json.dumps({"format": 1, "seed": 0, "step": step, "world": world}))
        assert checkpoint.processes(place) == world
        seed_all(0, "share 0")
        assert checkpoint.load(place, engine, seed=0, rank=0, world=1) == step
        numbers = tuple(torch.rand(3).tolist())
        assert drawn.setdefault((step, world), numbers) == numbers
    assert len(set(drawn.values())) == 3
    seed_all(0, "share 0")
    assert tuple(torch.rand(3).tolist()) not in drawn.values(), "or the first step's would be drawn once more"


@pytest.mark.parametrize("options", [{"n_embd": 32}, {"n_layer": 2}])
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, text: Path, options: dict[str, int]) -> None:
    directory = save(tmp_path / "c", start(text)[0], 3)
    other, _ = start(text, OPTIONS | options)
    with pytest.raises(CheckpointUnavailable, match="not of this model"):
        checkpoint.load(directory, other, seed=0, rank=0, world=1)


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path, text: Path) -> None:
    engine, feed = start(text)
    engine.step(feed.train(1))
    directory = save(tmp_path / "c", engine, 1)
    other, _ = start(text, optim={"name": "sgd", "momentum": 0.9})
    with pytest.raises(CheckpointUnavailable, match="another optimizer"):
        checkpoint.load(directory, other, seed=0, rank=0, world=1)


@pytest.mark.parametrize(
    "name",
    [
        "engine.json",
        "model/rank-00000.safetensors",
        "optimizer/rank-00000.safetensors",
        "progress.json",
        "rng-rank0.pt",
    ],
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, text: Path, name: str, damage: str) -> None:
    engine, feed = start(text)
    engine.step(feed.train(1))
    directory = save(tmp_path / "c", engine, 1)
    file = directory / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]) if damage == "cut" else file.unlink()
    before = engine.fingerprint()()
    with pytest.raises(CheckpointUnavailable):
        checkpoint.load(directory, engine, seed=0, rank=0, world=1)
    engine.done += 1  # a fingerprint of a step is taken once
    assert engine.fingerprint()() == before, "nothing was changed"


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "was-here"), "w"))

    (tmp_path / "old.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save(Evil(), tmp_path / "new.pt")
    for name in ("old.pt", "new.pt"):
        with pytest.raises(CheckpointUnavailable):
            checkpoint.load_safely(tmp_path / name)
    assert not (tmp_path / "was-here").exists()
