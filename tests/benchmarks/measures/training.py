"""What logging every step costs a real training loop: the bundled GPT on the text of the King James Version.

Both loops run in one process on one model, segment by segment in turn (bare first, then logged first), so that a
slow second of the machine hits both. After a logged segment comes ``flush``, and the processor time that it takes is
added: work that a tool puts off is not lent to the bare segment that follows, while the disk is waited for by no
training loop.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final, Literal

from tests.benchmarks.contestant import OURS, Unavailable
from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
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
FINGERPRINTED: Final = "Ledger with fingerprints"
FINGERPRINT_EVERY: Final = 50
"""Steps: the trainer's default is with each evaluation and checkpoint, and these are the steps of its own recipe."""


def measure(bench: Bench) -> Table:
    """Overhead in per cent of the bare loop's time."""
    pairs, steps = bench.size(PAIRS, least=2), bench.size(STEPS, least=2)
    table = Table(
        "training",
        "Overhead on a real training loop",
        f"A character GPT (4 layers, 64 wide) on English text, 5 metrics logged at every step; {pairs} pairs of a bare "
        f"and a logged segment of {steps} steps, in turn, in one process. Median of the pairs' ratios; the quartiles "
        "tell how noisy the machine was, and `in the calls` how much of the logged time went into `log` and `flush`. "
        f"`{FINGERPRINTED}` also takes digests of all parameters and of AdamW's state every {FINGERPRINT_EVERY} steps, "
        "as its recipe has them: copied in the loop, digested in a thread.",
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
    if OURS in bench.keys:
        home = bench.fresh("training-fingerprints")
        bench.say(f"training · {FINGERPRINTED}")
        try:
            table.add(
                FINGERPRINTED,
                bench.run("training:overhead", OURS, home, pairs=pairs, steps=steps, every=FINGERPRINT_EVERY),
            )
        except Unavailable as error:
            table.reasons[FINGERPRINTED] = str(error)
        bench.remove(home)
    return table


@dataclass(frozen=True)
class Segment:
    """So many steps, timed."""

    seconds: float
    logging: float = 0.0
    """Of these, in ``log`` and in the work that ``flush`` did."""


def overhead(contestant: Contestant, home: Path, *, pairs: int, steps: int, every: int = 0) -> dict[str, float]:
    """In the contestant's process: the pairs; with a fingerprint ``every`` so many logged steps."""
    engine, feed = loop(home.with_name(home.name + "-data.txt"), total=WARM_UP + 2 * pairs * steps)
    run = contestant.start(home)
    if every:
        run = _Fingerprinting(run, engine, every)
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


class _Fingerprinting:
    """Also records digests of the engine's state, as the trainer does: copied in the loop, digested in a thread."""

    def __init__(self, run: Any, engine: TorchEngine, every: int) -> None:
        self._run = run
        self._engine = engine
        self._every = every
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(metrics, step)
        if step % self._every == 0:
            self._wait()
            self._pending = self._pool.submit(self._record, step, self._engine.fingerprint())

    def _record(self, step: int, digest: Callable[[], Any]) -> None:
        from ledger_trainer.fingerprint import merge

        found = merge([digest()])
        self._run.fingerprint(step, found.parameters, found.optimizer, found.tensors)

    def _wait(self) -> None:
        if self._pending:
            self._pending.result()

    def flush(self) -> None:
        self._wait()
        self._run.flush()

    def finish(self) -> None:
        self._wait()
        self._run.finish()


def loop(
    text: Path,
    *,
    total: int,
    layers: int = 4,
    heads: int = 4,
    width: int = 64,
    size: int = 8,
    block: int = BLOCK,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> tuple[TorchEngine, Feed]:
    """The trainer's own engine and feed, on the text that comes with it."""
    import torch

    from ledger_trainer.engines import TorchEngine
    from ledger_trainer.feed import Feed
    from ledger_trainer.mesh import Mesh
    from ledger_trainer.recipe import Engine, Optim, Schedule, TrainingRecipe
    from ledger_trainer.session import engine_config
    from ledger_trainer.tasks import kjv

    torch.set_num_threads(1)
    torch.manual_seed(7)
    kjv.write_text(text)
    options = kjv.GptOptions(n_layer=layers, n_head=heads, n_embd=width, block_size=block, dropout=0.1)
    task = kjv.gpt(options, {"train": text})
    recipe = TrainingRecipe(
        task="ledger_trainer.tasks.kjv:gpt",
        steps=total,
        optim=Optim(lr=2e-3),
        schedule=Schedule(kind="cosine", warmup=min(20, total)),
        engine=Engine(precision=precision),
    )
    engine = TorchEngine(engine_config(recipe, task))
    return engine, Feed(task, seed=7, size=size, accumulation=1, rank=0, mesh=Mesh())
