"""Engines in as many processes as they need: what each rank does, and starting all of them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

import ledger_trainer.plugin
from ledger.hooks.manager import Plugins
from ledger_trainer.determinism import capture_random_state, restore_random_state, seed_all
from ledger_trainer.feed import Feed
from ledger_trainer.recipe import TrainingRecipe
from ledger_trainer.session import engine_config
from ledger_trainer.tasks import kjv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger_trainer.task import Task

SECONDS = 240
OPTIONS: dict[str, Any] = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 16, "dropout": 0.0}


class Odd:
    """A task whose model has what is easily forgotten."""

    def __init__(self, *, splittable: bool) -> None:
        self._splittable = splittable

    def samples(self, split: str) -> range:
        return range(256)

    def batch(self, samples: Sequence[int]) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor([[float(k % 7), float(k % 11), k / 256] for k in samples])}

    def model(self) -> nn.Module:
        return OddModel(splittable=self._splittable)

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()

    def metrics(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": self.loss(model, batch)}


class OddModel(nn.Module):
    """Tied, frozen, in the wrong order, of one element, of none, not a number, and buffers, one of them not kept."""

    tokens: torch.Tensor
    passing: torch.Tensor

    def __init__(self, *, splittable: bool) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.middle = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
        self.middle[1].weight = self.middle[0].weight
        self.norm = nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 1)
        self.unlike = nn.Parameter(torch.randn(5, 3) if splittable else torch.randn(3, 5).T)
        self.nothing = nn.Parameter(torch.ones(int(splittable), 3))
        self.register_buffer("tokens", torch.tensor([float("nan"), float("inf"), -0.0]))
        self.register_buffer("passing", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x) + x @ self.unlike.T + self.nothing.sum()
        for layer in (self.frozen, *self.middle):
            y = torch.tanh(layer(y))
        z: torch.Tensor = self.last(self.norm(y))
        return z


@dataclass(frozen=True)
class Training:
    """A small training to be made by some engine; everything a rank needs."""

    text: Path
    tables: dict[str, Any] = field(default_factory=dict)
    """Of the recipe."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the task."""
    odd: Literal["", "all", "splittable"] = ""
    """Train ``Odd`` instead of the GPT, with all that it has or with what can be split."""

    def recipe(self) -> TrainingRecipe:
        batch = {"size": 16, "accumulation": 4}
        tables = {"task": "a:b", "steps": 8, "seed": 7, "batch": batch, "determinism": {"threads": 1}} | self.tables
        return TrainingRecipe.model_validate(tables).settled()

    @property
    def processes(self) -> int:
        return self.recipe().mesh().processes

    def start(self, rank: int = 0) -> tuple[Any, Feed]:
        recipe = self.recipe()
        mesh = recipe.mesh()
        if self.odd:
            task: Task = Odd(splittable=self.odd == "splittable")
        else:
            task = kjv.gpt(kjv.GptOptions(**OPTIONS | self.options), {"train": self.text})
        seed_all(recipe.seed, "model")
        engine = Plugins.of(ledger_trainer.plugin).engine(recipe.engine.name or "", engine_config(recipe, task))
        seed_all(recipe.seed, f"stage {mesh.coordinates(rank)['pipeline']}, share {mesh.share(rank)}")
        return engine, Feed(task, recipe.seed, recipe.batch.size, recipe.batch.accumulation, rank, mesh)


def train(training: Training, rank: int, saved: Path, came_from: Path | None = None) -> dict[str, Any]:
    """Four steps; saved and evaluated after the second, loaded again after the fourth, and the last two once more.

    Before all that it loads what it ``came_from``, and saves that as ``<saved>-again``.
    """
    engine, feed = training.start(rank)
    if came_from:
        engine.load(came_from)
        engine.save(saved.with_name(f"{saved.name}-again"))()
    first = [engine.step(feed.train(step)) for step in (1, 2)]
    write, digests, random_state = engine.save(saved), engine.fingerprint(), capture_random_state()
    evaluated = engine.evaluate(next(feed.validation(1)))
    straight = [engine.step(feed.train(step)) for step in (3, 4)]
    write()  # not before: what was taken must not have moved on
    at_save = digests()
    at_end = engine.fingerprint()()
    topology = engine.topology()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # all have written
    engine.load(saved)
    restore_random_state(random_state)
    reloaded = engine.fingerprint()()
    again = [engine.step(feed.train(step)) for step in (3, 4)]
    result = {
        "steps": [*first, *straight],
        "evaluated": evaluated,
        "resumed": again,
        "at_save": at_save,
        "reloaded": reloaded,
        "at_end": at_end,
        "resumed_at_end": engine.fingerprint()(),
        "topology": topology,
    }
    engine.close()
    engine.close()
    return result


def in_processes(worker: Any, training: Training, *arguments: Any) -> list[Any]:
    """What ``worker(training, rank, *arguments)`` returns on each rank; a failed or hanging rank is an error."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, children = [], []
    for rank in range(training.processes):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_rank, args=(theirs, port, worker, training, rank, arguments), daemon=True)
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    deadline = time.monotonic() + SECONDS
    try:
        results = []
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(max(0, deadline - time.monotonic())), f"rank {rank} hangs"
            ok, result = pipe.recv()
            assert ok, f"rank {rank}:\n{result}"
            results.append(result)
        return results
    finally:
        for child in children:
            child.join(max(0.1, min(10, deadline - time.monotonic())))
            child.kill()


def _rank(pipe: Any, port: int, worker: Any, training: Training, rank: int, arguments: tuple[Any, ...]) -> None:
    world = str(training.processes)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world,
    }
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        pipe.send((True, worker(training, rank, *arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
        raise
