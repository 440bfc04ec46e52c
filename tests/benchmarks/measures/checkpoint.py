"""What a checkpoint of a large model costs: how long training waits, how long until it is safe, what it takes on disk.

Every way saves the same state, parameters and AdamW's two moments in float32, after a real step each time, in a
process of its own. A save counts as done when its bytes were synced to the disk, for every way alike; Ledger's also
when they were hashed, compressed, read back and are a fact in the log.
"""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.contestant import OURS, Unavailable
from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ledger_trainer.engines import TorchEngine
    from ledger_trainer.feed import Feed
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

WIDTH: Final = 1024
LAYERS: Final = 12
"""150 million parameters."""
SAVES: Final = 3
"""Of one leg; before them comes one that is not counted, which allocates buffers."""
ROUNDS: Final = 2
STALL: Final = "training waits"
TOTAL: Final = "until safe"
STORED: Final = "stored"


def measure(bench: Bench) -> Table:
    """A row for each way."""
    width = bench.size(WIDTH, least=32) // 32 * 32
    table = Table(
        "checkpoint",
        "Checkpoints",
        f"A GPT of {LAYERS} layers, {width} wide, and AdamW's state, all float32, saved after each of {SAVES} steps.",
        (
            Quantity("state", "MB", "lower", compared=False),
            Quantity(STALL, "s", "lower"),
            Quantity(TOTAL, "s", "lower"),
            Quantity(STORED, "MB", "lower"),
        ),
    )
    if OURS not in bench.keys:
        return table
    for number in range(min(bench.rounds, ROUNDS)):
        for row in (OURS, *WAYS):
            if row in table.reasons:
                continue
            home = bench.fresh(f"checkpoint-{number}")
            bench.say(f"checkpoint · {row} · round {number + 1}")
            try:
                table.add(row, bench.run("checkpoint:saved", OURS, home, way=row, width=width, layers=LAYERS))
            except Unavailable as error:
                table.samples.pop(row, None)
                table.reasons[row] = str(error)
            bench.remove(home)
    return table


def saved(contestant: Contestant, home: Path, *, way: str, width: int, layers: int) -> dict[str, float]:
    """Medians over the counted saves of one way."""
    import torch

    engine, feed = _training(home, width, layers)
    torch.set_num_threads(2)
    save = _ledger(engine, home) if way == OURS else WAYS[way](engine, home)
    stalls, totals, sizes = [], [], []
    for number in range(1 + SAVES):
        engine.step(feed.train(engine.done + 1))
        os.sync()
        before = _bytes(home)
        began = time.perf_counter()
        finish = save(number)
        stalls.append(time.perf_counter() - began)
        finish()
        totals.append(time.perf_counter() - began)
        sizes.append(_bytes(home) - before)
    return {
        "state": sum(t.numel() * t.element_size() for t in _tensors(engine).values()) / 1e6,
        STALL: median(stalls[1:]),
        TOTAL: median(totals[1:]),
        STORED: median(sizes[1:]) / 1e6,
    }


def _ledger(engine: TorchEngine, home: Path) -> Callable[[int], Callable[[], None]]:
    """As the trainer does it: a copy, and the rest in a thread."""
    import ledger
    from ledger_trainer import checkpoint

    run = ledger.start_run()
    keeper = ledger.Keeper(run, ledger.Policy(every=1))
    behind = ledger.BackgroundKeeper(run, keeper)

    def save(number: int) -> Callable[[], None]:
        take = partial(checkpoint.save, engine=engine, step=engine.done, seed=7, rank=0, lend=True)
        behind.keep(take, keeper.due(engine.done, {}), step=engine.done, metrics={})
        return stored

    def stored() -> None:
        while behind.busy:
            time.sleep(0.002)
        if behind.failure:
            raise behind.failure

    return save


def _torch(engine: TorchEngine, home: Path) -> Callable[[int], Callable[[], None]]:
    import torch

    def save(number: int) -> Callable[[], None]:
        path = home / f"{number}.pt"
        torch.save({"model": engine.model.state_dict(), "optimizer": engine.optimizer.state_dict()}, path)
        return lambda: _sync(path)

    return save


def _safetensors(engine: TorchEngine, home: Path) -> Callable[[int], Callable[[], None]]:
    from safetensors.torch import save_file

    def save(number: int) -> Callable[[], None]:
        path = home / f"{number}.safetensors"
        save_file(_tensors(engine), path)
        return lambda: _sync(path)

    return save


def _dcp(engine: TorchEngine, home: Path) -> Callable[[int], Callable[[], None]]:
    from torch.distributed import checkpoint

    def save(number: int) -> Callable[[], None]:
        path = home / str(number)
        checkpoint.save(_tensors(engine), checkpoint_id=path, no_dist=True)  # it syncs its files
        return lambda: None

    return save


def _dcp_async(engine: TorchEngine, home: Path) -> Callable[[int], Callable[[], None]]:
    """With a stager that reuses its buffers, as a training that saves again and again has it."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    stager = DefaultStager(StagingOptions(use_pinned_memory=False, use_non_blocking_copy=False, use_shared_memory=True))

    def save(number: int) -> Callable[[], None]:
        path = home / str(number)
        told: Any = checkpoint.async_save(_tensors(engine), checkpoint_id=path, no_dist=True, async_stager=stager)
        told.staging_completion.result()  # before that, a step would change what is saved

        def finish() -> None:
            told.upload_completion.result()

        return finish

    return save


WAYS: Final[dict[str, Callable[[TorchEngine, Path], Callable[[int], Callable[[], None]]]]] = {
    "torch.save": _torch,
    "safetensors": _safetensors,
    "torch DCP": _dcp,
    "torch DCP async": _dcp_async,
}


def _tensors(engine: TorchEngine) -> dict[str, Any]:
    """The whole state as tensors by name."""
    names = {id(p): name for name, p in engine.model.named_parameters()}
    moments = {
        f"optimizer.{names[id(p)]}.{key}": value
        for p, state in engine.optimizer.state.items()
        for key, value in state.items()
    }
    return {**engine.model.state_dict(), **moments}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())


def _training(home: Path, width: int, layers: int) -> tuple[TorchEngine, Feed]:
    from tests.benchmarks.measures.training import loop

    text = home.with_name(home.name + "-data.txt")
    engine, feed = loop(text, total=1 + SAVES, layers=layers, width=width, heads=width // 32, size=1)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    os.chdir(home)
    return engine, feed
