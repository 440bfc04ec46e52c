"""The training loop."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

import ledger
from ledger.errors import InvalidRecipe
from ledger_trainer import checkpoint, ranks
from ledger_trainer.console import Console
from ledger_trainer.fingerprint import Fingerprinting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ledger.hooks.ports import Engine
    from ledger_trainer.feed import Feed
    from ledger_trainer.interruption import Interruption
    from ledger_trainer.recipe import Checkpoint, TrainingRecipe


def train(
    run: ledger.Run,
    recipe: TrainingRecipe,
    engine: Engine,
    feed: Feed,
    stop: Interruption,
    *,
    after: int,
    scratch: Path,
) -> int:
    """Train from the step ``after`` to the last; every rank calls it. Returns the exit code of the process.

    What a step measured is recorded before its checkpoint: an attempt that resumes there never comes back to
    it.
    """
    keeper = ledger.Keeper(run, policy(recipe.checkpoint))
    console = Console(feed.rank, recipe.steps)
    require_best(recipe.checkpoint.best, engine, feed)
    console.begin(after)
    for step in range(after + 1, recipe.steps + 1):
        last = step == recipe.steps
        measured = engine.step(feed.train(step))
        trained = {"train/loss": measured.pop("loss"), **measured}
        broken = recipe.stop_on_nan and not math.isfinite(trained["train/loss"])
        if last or broken or due(step, recipe.log.every):
            record(run, console, feed.rank, step, trained)
        if broken:
            raise RuntimeError(f"the loss is not finite at step {step}; stop_on_nan = false goes on regardless")

        evaluated: dict[str, float] = {}
        if last or due(step, recipe.evaluate.every):
            evaluated = evaluate(engine, feed, recipe.evaluate.batches)
            record(run, console, feed.rank, step, evaluated)
        # Never for an interruption: it must leave no mark in what a replay compares.
        if last or evaluated or due(step, recipe.checkpoint.every):
            record_fingerprint(run, feed.rank, engine, step)

        stopped = ranks.agree(stop.signal)
        if names := keeper.due(step, evaluated, now=last or bool(stopped)):
            directory = scratch / f"step-{step}"
            checkpoint.save(directory, engine, step=step, seed=recipe.seed, rank=feed.rank)
            if feed.rank == 0:
                holds, metrics = checkpoint.holds(), trained | evaluated
                keeper.keep(directory, names, step=step, metrics=metrics, holds=holds)
                shutil.rmtree(directory)
        if stopped and not last:
            ranks.agree(0)  # a launcher ends all ranks when the first one leaves: let rank 0 finish storing
            console.say(f"stopped after step {step} of {recipe.steps}; its checkpoint is written")
            return 128 + stopped
    return 0


def due(step: int, every: int) -> bool:
    """Whether ``step`` is one of every ``every``; 0 means never."""
    return every > 0 and step % every == 0


def evaluate(engine: Engine, feed: Feed, batches: int) -> dict[str, float]:
    """Means of the task's metrics over the validation batches, as ``val/…``; empty without such batches."""
    measured = [engine.evaluate(batch) for batch in feed.validation(batches)]
    names = measured[0] if measured else {}
    return {f"val/{name}": math.fsum(m[name] for m in measured) / len(measured) for name in names}


def require_best(metric: str, engine: Engine, feed: Feed) -> None:
    """Fail before the first step, not after hours, where the best checkpoint's metric is never measured."""
    if metric and metric not in (measured := evaluate(engine, feed, batches=1)):
        offered = ", ".join(measured) or "none, as there is not one validation batch of batch.size"
        raise InvalidRecipe(f'checkpoint.best = "{metric}" is not measured', mend=f"measured are: {offered}")


def record(run: ledger.Run, console: Console, rank: int, step: int, metrics: Mapping[str, float]) -> None:
    """Log and print on rank 0; the values are those of all ranks already."""
    if rank == 0 and metrics:
        run.log(metrics, step=step)
        console.step(step, metrics)


def record_fingerprint(run: ledger.Run, rank: int, engine: Engine, step: int) -> None:
    """Record digests of the state, from engines that can tell them."""
    if isinstance(engine, Fingerprinting):
        found = engine.fingerprint()
        if rank == 0:
            run.fingerprint(step, found.parameters, found.optimizer, found.tensors)


def policy(options: Checkpoint) -> ledger.Policy:
    """The recipe's words in those of the keeper."""
    return ledger.Policy(
        every=options.every or None,
        best=options.best or None,
        mode=options.mode,
        keep_last=options.keep_last or None,
    )
