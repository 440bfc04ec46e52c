"""From a recorded recipe to a training under way.

What one rank sets up, in the order that makes it repeatable.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import ledger
from ledger.hooks.manager import load_plugins
from ledger_trainer import checkpoint, determinism
from ledger_trainer.feed import Feed
from ledger_trainer.interruption import Interruption
from ledger_trainer.loop import train
from ledger_trainer.recipe import TrainingRecipe
from ledger_trainer.task import find_factory

if TYPE_CHECKING:
    from ledger_trainer.task import Task


def train_rank(run: ledger.Run) -> int:
    """Train as this process's rank of ``run``. Returns the exit code of the process."""
    stop = Interruption()
    recipe = TrainingRecipe.model_validate(run.config)
    settings = ledger.find_settings()
    rank, world = run.rank or 0, recipe.parallel.processes
    scratch = settings.scratch / "saving" / run.id
    if rank == 0:
        shutil.rmtree(scratch, ignore_errors=True)  # what an attempt that was killed while saving has left

    determinism.settle(recipe.determinism)
    task = open_task(run, recipe)
    feed = Feed(task, recipe.seed, recipe.batch.size, recipe.batch.accumulation, rank, world)
    determinism.seed_all(recipe.seed, "model")  # the same on every rank
    config = recipe.model_dump() | {"task": task}
    with contextlib.closing(load_plugins(settings).engine(recipe.engine.name or "", config)) as engine:
        determinism.seed_all(recipe.seed, f"rank {rank}")
        if rank == 0:
            facts = determinism.facts(recipe.engine.precision)
            run.environment(determinism=facts, libraries=determinism.library_facts())
        after = 0
        if run.resumed_from is not None:
            after = checkpoint.load(run.resumed_from, engine, seed=recipe.seed, rank=rank, world=world)
        return train(run, recipe, engine, feed, stop, after=after, scratch=scratch)


def open_task(run: ledger.Run, recipe: TrainingRecipe) -> Task:
    """The task over the data of this run."""
    return find_factory(recipe.task).task(recipe.task_options, {name: run.data(name).fetch() for name in recipe.data})
