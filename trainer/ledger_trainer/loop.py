"""The training loop."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import ledger
from ledger.errors import InvalidRecipe
from ledger_trainer import checkpoint, ranks
from ledger_trainer.console import Console
from ledger_trainer.fingerprint import Exporting
from ledger_trainer.saver import Saver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.hooks.ports import Engine
    from ledger_trainer.feed import Feed
    from ledger_trainer.interruption import Interruption
    from ledger_trainer.recipe import Checkpoint, TrainingRecipe


def train(
    run: ledger.Run, recipe: TrainingRecipe, engine: Engine, feed: Feed, stop: Interruption, *, after: int
) -> int:
    """Train from the step ``after`` to the last; every rank calls it. Returns the exit code of the process.

    What a step measured is recorded before its fingerprint and its checkpoint: an attempt that resumes there never
    comes back to it.
    """
    rank, stopped, step = run.rank or 0, 0, after
    keeper = ledger.Keeper(run, policy(recipe.checkpoint))
    console = Console(rank, recipe.steps)
    require_best(recipe.checkpoint, engine, feed)
    require_export(recipe.checkpoint, engine)
    with Saver(run, keeper, engine, console, seed=recipe.seed, export=recipe.checkpoint.export) as saver:
        console.begin(after)
        go_on(run, keeper, saver, console, after, last=after == recipe.steps)
        for step in range(after + 1, recipe.steps + 1):
            last = step == recipe.steps
            measured = engine.step(feed.train(step))
            trained = {"train/loss": measured.pop("loss"), **measured}
            broken = recipe.stop_on_nan and not math.isfinite(trained["train/loss"])
            if last or broken or due(step, recipe.log.every):
                record(run, console, step, trained)
            if broken:
                raise RuntimeError(f"the loss is not finite at step {step}; stop_on_nan = false goes on regardless")

            evaluated: dict[str, float] = {}
            if last or due(step, recipe.evaluate.every):
                evaluated = evaluate(engine, feed, recipe.evaluate.batches)
                record(run, console, step, evaluated)

            stopped, overdue = ranks.agree(stop.signal, rank == 0 and keeper.overdue())
            names = keeper.due(step, evaluated, last=last, interrupted=bool(stopped), overdue=bool(overdue))
            # Never for the clock or an interruption: they must leave no mark in what a replay compares.
            regular = any(due(step, every) for every in (recipe.checkpoint.every, recipe.fingerprint.every))
            saver.take(step, names, fingerprint=bool(last or evaluated or regular), metrics=trained | evaluated)
            if stopped:
                break
    if not stopped or step == recipe.steps:
        return 0
    stored = f"was not stored: {saver.failure}" if saver.failure else "is written"
    console.say(f"stopped after step {step} of {recipe.steps}; its checkpoint {stored}")
    return 128 + stopped


def go_on(run: ledger.Run, keeper: ledger.Keeper, saver: Saver, console: Console, after: int, *, last: bool) -> None:
    """Say what is otherwise than before, and make up for what a killed attempt left out at this very step."""
    if run.resumed_from is None:
        return
    before = checkpoint.processes(run.resumed_from)
    if before != (now := ranks.world()):
        said = f"the checkpoint of step {after} is of {before} processes, training goes on with {now}: not bit for bit"
        console.say(said)
        if not run.rank:
            run.annotate(said, ["resumed"])
    if missing := keeper.unfinished(last=last):
        metrics = next((c.metrics for c in reversed(run.checkpoints()) if c.step == after), {})
        saver.take(after, missing, fingerprint=False, metrics=metrics)


def due(step: int, every: int) -> bool:
    """Whether ``step`` is one of every ``every``; 0 means never."""
    return every > 0 and step % every == 0


def evaluate(engine: Engine, feed: Feed, batches: int) -> dict[str, float]:
    """Means of the task's metrics over the validation batches, as ``val/…``; empty without such batches."""
    measured = [engine.evaluate(batch) for batch in feed.validation(batches)]
    names = measured[0] if measured else {}
    return {f"val/{name}": math.fsum(m[name] for m in measured) / len(measured) for name in names}


def require_best(options: Checkpoint, engine: Engine, feed: Feed) -> None:
    """Fail before the first step, not after hours, where the best checkpoint's metric is never measured."""
    metric = options.best
    if metric and metric not in (measured := evaluate(engine, feed, batches=1)):
        offered = ", ".join(measured) or "none, as there is not one validation batch of batch.size"
        raise InvalidRecipe(f'checkpoint.best = "{metric}" is not measured', mend=f"measured are: {offered}")


def require_export(options: Checkpoint, engine: Engine) -> None:
    """Fail before the first step where the engine cannot give what an export is made of."""
    if options.export and not isinstance(engine, Exporting):
        raise InvalidRecipe(
            f'checkpoint.export = "{options.export}" is more than this engine can do',
            mend="remove it, or choose another engine.name",
        )


def record(run: ledger.Run, console: Console, step: int, metrics: Mapping[str, float]) -> None:
    """Log and print on rank 0; the values are those of all ranks already."""
    if not run.rank and metrics:
        run.log(metrics, step=step)
        console.step(step, metrics)


def policy(options: Checkpoint) -> ledger.Policy:
    """The recipe's words in those of the keeper."""
    return ledger.Policy(
        every=options.every or None,
        minutes=options.minutes or None,
        best=options.best or None,
        mode=options.mode,
        keep_last=options.keep_last or None,
        keep_every=options.keep_every or None,
        full_every=options.full_every or None,
    )
