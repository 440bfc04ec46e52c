"""The engines, and how each is laid out in tests: once for the conformance kit, once for the kills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
steps = 80
[data.train]
uri = "file:kjv.txt"
[task_options]
n_layer = 2
n_head = 2
n_embd = 16
block_size = 16
dropout = 0.2
[batch]
size = 8
accumulation = 2
[optim]
lr = 0.003
[log]
every = 1
[evaluate]
every = 40
batches = 2
[checkpoint]
every = 20
[determinism]
threads = 1
"""
STILL = ("task_options.dropout=0.0",)


@dataclass(frozen=True)
class Laid:
    """An engine on so many processes."""

    engine: str
    processes: int
    sizes: tuple[tuple[str, int], ...] = ()
    options: tuple[str, ...] = ()
    elsewhere: int | None = None
    """Another number of processes that can go on with its checkpoints."""

    def train(self, recipe: str = "recipe.toml") -> list[str]:
        """The words that train it."""
        sizes = [f"parallel.{name}={size}" for name, size in self.sizes]
        several = ["--nproc", str(self.processes)] if self.processes > 1 else []
        return ["train", recipe, f"engine.name={self.engine}", *sizes, *self.options, *several]


ENGINES = {
    "torch": Laid("torch", 1, elsewhere=2),
    "ddp": Laid("ddp", 2, elsewhere=1),
    "fsdp": Laid("fsdp", 2, elsewhere=4),
    "hsdp": Laid("fsdp", 4, (("data", 2), ("shard", 2)), elsewhere=2),
    "tensor": Laid("ddp", 2, (("tensor", 2),), elsewhere=4),
    "pipeline": Laid("ddp", 2, (("pipeline", 2),), elsewhere=4),
    "ddp-tensor": Laid("ddp", 4, (("data", 2), ("tensor", 2)), elsewhere=2),
    "ddp-pipeline": Laid("ddp", 4, (("data", 2), ("pipeline", 2)), elsewhere=2),
    "fsdp-pipeline": Laid("fsdp", 4, (("shard", 2), ("pipeline", 2)), elsewhere=1),
    "zero-0": Laid("deepspeed", 2, options=("engine.options.zero=0",), elsewhere=1),
    "zero-1": Laid("deepspeed", 2, options=("engine.options.zero=1",), elsewhere=1),
    "zero-2": Laid("deepspeed", 2, options=("engine.options.zero=2",), elsewhere=1),
    "zero-3": Laid("deepspeed", 2, options=("engine.options.zero=3",), elsewhere=1),
    "deepspeed-pipeline": Laid("deepspeed", 2, (("pipeline", 2),)),
}


def write_text(home: Path) -> None:
    """The data of the recipe: some real text."""
    from ledger_trainer.tasks import kjv

    kjv.write_text(home / "kjv.txt")
    whole = (home / "kjv.txt").read_text()
    (home / "kjv.txt").write_text(whole[:20_000])
