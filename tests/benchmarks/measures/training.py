"""What logging every step costs a real training loop: the bundled GPT on the text of the King James Version.

Both loops run in one process on one model, segment by segment in turn (bare first, then logged first), so that a
slow second of the machine hits both. After a logged segment comes ``flush``, and the processor time that it takes is
added: work that a tool puts off is not lent to the bare segment that follows, while the disk is waited for by no
training loop.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final

from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from pathlib import Path

    from ledger_trainer.engines import TorchEngine
    from ledger_trainer.feed import Feed
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant, Logging

PAIRS: Final = 12
STEPS: Final = 80
"""Of one segment: a second or two."""
WARM_UP: Final = 20
BLOCK: Final = 64


def measure(bench: Bench) -> Table:
    """Overhead in per cent of the bare loop's time."""
    pairs, steps = bench.size(PAIRS, least=2), bench.size(STEPS, least=2)
    table = Table(
        "training",
        "Overhead on a real training loop",
        f"A character GPT (4 layers, 64 wide) on English text, 5 metrics logged at every step; {pairs} pairs of a bare "
        f"and a logged segment of {steps} steps, in turn, in one process. Median of the pairs' ratios; the quartiles "
        "tell how noisy the machine was, and `in the calls` how much of the logged time went into `log` and `flush`.",
        (
            Quantity("overhead", "%", "lower", compared=False),
            Quantity("lower quartile", "%", "lower", compared=False),
            Quantity("upper quartile", "%", "lower", compared=False),
            Quantity("in the calls", "%", "lower", compared=False),
            Quantity("bare step", "ms", "lower", compared=False),
        ),
    )

    def leg(key: str, home: Path) -> dict[str, float]:
        told: dict[str, float] = bench.run("training:overhead", key, home, pairs=pairs, steps=steps)
        return told

    bench.interleaved(table, leg, rounds=1)
    return table


@dataclass(frozen=True)
class Segment:
    """So many steps, timed."""

    seconds: float
    logging: float = 0.0
    """Of these, in ``log`` and in the work that ``flush`` did."""


def overhead(contestant: Contestant, home: Path, *, pairs: int, steps: int) -> dict[str, float]:
    """In the contestant's process: the pairs."""
    engine, feed = _loop(home.with_name(home.name + "-data.txt"), total=WARM_UP + 2 * pairs * steps)
    run = contestant.start(home)
    _segment(engine, feed, WARM_UP, None)
    bare: list[Segment] = []
    logged: list[Segment] = []
    for pair in range(pairs):
        order = (None, run) if pair % 2 == 0 else (run, None)
        for logging in order:
            (bare if logging is None else logged).append(_segment(engine, feed, steps, logging))
    run.finish()
    per_cent = [(with_it.seconds / without.seconds - 1) * 100 for without, with_it in zip(bare, logged, strict=True)]
    quarter = quantiles(per_cent, n=4)
    return {
        "overhead": median(per_cent),
        "lower quartile": quarter[0],
        "upper quartile": quarter[2],
        "in the calls": median(segment.logging / segment.seconds for segment in logged) * 100,
        "bare step": median(segment.seconds for segment in bare) / steps * 1e3,
    }


def _segment(engine: TorchEngine, feed: Feed, steps: int, run: Logging | None) -> Segment:
    """The bare loop measures and forms the same five numbers; it only logs nothing."""
    clock = time.perf_counter
    logging = 0.0
    began = clock()
    for _ in range(steps):
        step = engine.done + 1
        before = clock()
        measured = engine.step(feed.train(step))
        metrics = {
            "train/loss": measured["loss"],
            "grad_norm": measured["grad_norm"],
            "lr": measured["lr"],
            "seconds": clock() - before,
            "tokens": float(step * feed.size * BLOCK),
        }
        if run is not None:
            before = clock()
            run.log(metrics, step)
            logging += clock() - before
    seconds = clock() - began
    if run is None:
        return Segment(seconds)
    before = time.process_time()
    run.flush()
    flushing = time.process_time() - before
    return Segment(seconds + flushing, logging + flushing)


def _loop(text: Path, *, total: int) -> tuple[TorchEngine, Feed]:
    """The trainer's own engine and feed, on the recipe that comes with it."""
    import torch

    from ledger_trainer.engines import TorchEngine
    from ledger_trainer.feed import Feed
    from ledger_trainer.recipe import Engine, Optim, Schedule
    from ledger_trainer.tasks import kjv

    torch.set_num_threads(1)
    torch.manual_seed(7)
    kjv.write_text(text)
    task = kjv.gpt(kjv.GptOptions(n_layer=4, n_head=4, n_embd=64, block_size=BLOCK, dropout=0.1), {"train": text})
    engine = TorchEngine(
        {
            "task": task,
            "steps": total,
            "optim": Optim(lr=2e-3).model_dump(),
            "schedule": Schedule(kind="cosine", warmup=20).model_dump(),
            "engine": Engine(name="torch").model_dump(),
        }
    )
    return engine, Feed(task, seed=7, size=8, accumulation=1, rank=0, world=1)
