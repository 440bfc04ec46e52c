from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ledger_trainer.plugin
from ledger.hooks.manager import Plugins
from ledger.hooks.ports import Engine
from ledger_trainer.determinism import seed_all
from ledger_trainer.engines import TorchEngine
from ledger_trainer.feed import Feed
from ledger_trainer.fingerprint import Digests, Exporting, Fingerprinting, tensor_digest
from ledger_trainer.loop import evaluate
from ledger_trainer.mesh import Mesh
from ledger_trainer.recipe import TrainingRecipe
from ledger_trainer.session import engine_config
from ledger_trainer.tasks import kjv

if TYPE_CHECKING:
    from pathlib import Path


def start(text: Path, *, dropout: float = 0.0, seed: int = 0, size: int = 8, **tables: Any) -> tuple[TorchEngine, Feed]:
    options = kjv.GptOptions(n_layer=1, n_head=2, n_embd=32, block_size=32, dropout=dropout)
    task = kjv.gpt(options, {"train": text})
    accumulation = tables.pop("accumulation", 1)
    recipe = TrainingRecipe.model_validate({"task": "a:b", "steps": 100, **tables})
    seed_all(seed, "model")
    engine = TorchEngine(engine_config(recipe, task))
    return engine, Feed(task, seed, size, accumulation, rank=0, mesh=Mesh())


def state_of(engine: TorchEngine) -> Digests:
    engine._staging.forget()  # look again, though there was no step
    return engine.fingerprint()()


def losses(engine: TorchEngine, feed: Feed, steps: int) -> list[float]:
    return [engine.step(feed.train(step))["loss"] for step in range(1, steps + 1)]


def test_the_hook_builds_one_that_keeps_the_port(text: Path) -> None:
    task = kjv.gpt(kjv.GptOptions(n_layer=1, n_head=1, n_embd=8, block_size=8), {"train": text})
    config = engine_config(TrainingRecipe(task="a:b", steps=1), task)
    engine = Plugins.of(ledger_trainer.plugin).engine("torch", config)
    assert isinstance(engine, Engine)
    assert isinstance(engine, Fingerprinting)
    assert isinstance(engine, Exporting)
    engine.close()
    engine.close()


def test_it_learns_real_text(text: Path) -> None:
    engine, feed = start(text, optim={"lr": 1e-2}, size=16)
    before = evaluate(engine, feed, 4)["val/loss"]
    losses(engine, feed, 60)
    assert evaluate(engine, feed, 4)["val/loss"] < before - 1.0


def test_equal_seeds_give_equal_weights_and_others_do_not(text: Path) -> None:
    prints = []
    for seed in (7, 7, 8):
        engine, feed = start(text, seed=seed, dropout=0.2)
        losses(engine, feed, 5)
        prints.append(engine.fingerprint()())
    assert prints[0] == prints[1]
    assert prints[0].parameters != prints[2].parameters
    assert prints[0].optimizer != prints[2].optimizer


def test_micro_batches_add_up_to_the_batch(text: Path) -> None:
    at_once, in_four = (losses(*start(text, size=16, accumulation=n), 5) for n in (1, 4))
    assert in_four == pytest.approx(at_once, rel=1e-4)


def test_gradients_are_clipped_to_the_norm_asked_for(text: Path) -> None:
    clip = 0.01
    engine, feed = start(text, optim={"clip": clip})
    assert engine.step(feed.train(1))["grad_norm"] > clip
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in engine.model.parameters() if p.grad is not None))
    assert norm == pytest.approx(clip, rel=1e-3)


def test_the_learning_rate_follows_the_schedule(text: Path) -> None:
    engine, feed = start(text, optim={"lr": 1.0}, schedule={"warmup": 4})
    assert [engine.step(feed.train(step))["lr"] for step in range(1, 6)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_bfloat16_computes_coarsely_and_keeps_parameters_whole(text: Path) -> None:
    fine = losses(*start(text), 5)
    engine, feed = start(text, engine={"precision": "bfloat16"})
    coarse = losses(engine, feed, 5)
    assert coarse != fine
    assert coarse == pytest.approx(fine, rel=0.02)
    assert {p.dtype for p in engine.model.parameters()} == {torch.float32}


def test_evaluation_changes_nothing(text: Path) -> None:
    expected = losses(*start(text, dropout=0.3), 3)
    engine, feed = start(text, dropout=0.3)
    found = []
    for step in range(1, 4):
        before = state_of(engine)
        assert evaluate(engine, feed, 2) == evaluate(engine, feed, 2)
        assert state_of(engine) == before
        found.append(engine.step(feed.train(step))["loss"])
    assert found == expected


def test_only_matrices_decay(text: Path) -> None:
    engine, _ = start(text)
    decays = {p.dim() >= 2: g["weight_decay"] for g in engine.optimizer.param_groups for p in g["params"]}
    assert decays == {True: 0.1, False: 0.0}
    assert sum(len(g["params"]) for g in engine.optimizer.param_groups) == len(list(engine.model.parameters()))


def test_validation_that_is_smaller_than_a_batch_is_one_smaller_batch(text: Path) -> None:
    _, feed = start(text, size=4096)
    assert [len(batch["tokens"]) for batch in feed.validation(8)] == [len(feed.task.samples("validation"))]
    halves = [Feed(feed.task, 0, 64, 1, rank=r, mesh=Mesh(data=2)) for r in (0, 1)]
    assert [len(batch["tokens"]) for half in halves for batch in half.validation(3)] == [32] * 6


def test_without_validation_samples_nothing_is_measured(text: Path) -> None:
    engine, feed = start(text)
    short = kjv.CharGpt(kjv.GptOptions(block_size=32), text.read_text()[:200])
    assert evaluate(engine, dataclasses.replace(feed, task=short), 8) == {}


def test_a_tensors_digest_tells_name_type_shape_and_every_bit() -> None:
    tensor = torch.arange(6, dtype=torch.float32)
    others = [
        tensor.reshape(2, 3),
        tensor.to(torch.bfloat16),
        tensor.view(torch.int32),
        -tensor,
        tensor.flip(0),
    ]
    digests = {tensor_digest("a", t) for t in (tensor, *others)} | {tensor_digest("b", tensor)}
    assert len(digests) == 7
    assert tensor_digest("a", tensor.reshape(2, 3).T.contiguous().T) == tensor_digest("a", tensor.reshape(2, 3))
    assert tensor_digest("a", torch.tensor(1.0)) != tensor_digest("a", torch.tensor([1.0]))
