"""From a recorded recipe to a training under way.

What one rank sets up, in the order that makes it repeatable.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import ledger
from ledger.errors import UsageError
from ledger.hooks.manager import load_plugins
from ledger_trainer import checkpoint, determinism, ranks
from ledger_trainer.feed import Feed
from ledger_trainer.interruption import Interruption
from ledger_trainer.loop import train
from ledger_trainer.optimizer import build_optimizer
from ledger_trainer.recipe import TrainingRecipe
from ledger_trainer.schedule import learning_rate
from ledger_trainer.task import find_factory

if TYPE_CHECKING:
    from ledger_trainer.task import Task


@runtime_checkable
class Laid(Protocol):
    """An engine that can tell how its processes are laid out."""

    def topology(self) -> dict[str, Any]:
        """The section ``topology`` of ``ledger.events.EnvironmentCaptured``; a collective."""


def train_rank(run: ledger.Run) -> int:
    """Train as this process's rank of ``run``. Returns the exit code of the process."""
    stop = Interruption()
    recipe = TrainingRecipe.model_validate(run.config)
    settings = ledger.find_settings()
    rank, mesh = run.rank or 0, recipe.mesh()

    determinism.settle(recipe.determinism)
    task = open_task(run, recipe)
    feed = Feed(task, recipe.seed, recipe.batch.size, recipe.batch.accumulation, rank, mesh)
    determinism.seed_all(recipe.seed, "model")  # the same on every rank
    name = recipe.engine_name(mesh)
    with contextlib.closing(load_plugins(settings).engine(name, engine_config(recipe, task))) as engine:
        require_one_attempt(run)
        # By place and not by rank: what a tensor group draws for activations that all of it hold must be the same.
        place = mesh.coordinates(rank)
        determinism.seed_all(recipe.seed, f"stage {place['pipeline']}, share {mesh.share(rank)}")
        topology = engine.topology() if isinstance(engine, Laid) else {}
        if rank == 0:
            facts = determinism.facts(recipe.engine.precision)
            run.environment(determinism=facts, libraries=determinism.library_facts(), topology=topology)
        after = 0
        if run.resumed_from is not None:
            after = checkpoint.load(run.resumed_from, engine, seed=recipe.seed, rank=rank, world=mesh.processes)
        return train(run, recipe, engine, feed, stop, after=after)


def require_one_attempt(run: ledger.Run) -> None:
    """Fail before the first step where ranks are not of the same attempt; a collective.

    A node that looked for the run too early may have joined an attempt, or a run, that node 0 had left behind.
    """
    first, *others = (told.decode() for told in ranks.gather(f"attempt {run.attempt} of {run.name}".encode()))
    strays = [(rank, told) for rank, told in enumerate(others, 1) if told != first]
    if strays:
        rank, told = strays[0]
        raise UsageError(
            f"rank 0 trains {first}, rank {rank} {told}: its node has joined what node 0 had left behind",
            mend="start the same command on each node once more",
        )


def engine_config(recipe: TrainingRecipe, task: Task) -> dict[str, Any]:
    """What an engine is built from: the recipe as plain values, and the objects that it stands for."""
    return recipe.settled().model_dump() | {
        "task": task,
        "optimizer": partial(build_optimizer, recipe.optim),
        "learning_rate": partial(learning_rate, recipe.schedule, recipe.optim.lr, steps=recipe.steps),
    }


def open_task(run: ledger.Run, recipe: TrainingRecipe) -> Task:
    """The task over the data of this run."""
    return find_factory(recipe.task).task(recipe.task_options, {name: run.data(name).fetch() for name in recipe.data})
