"""One rank of a training with the engine alone: torchrun starts it, the tests read what rank 0 wrote."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from ledger.errors import LedgerError
from ledger_trainer.optimizer import build_optimizer
from ledger_trainer.recipe import Optim
from ledger_trainer.tasks.kjv import CharGpt, GptOptions

SIZE = 8


def main(asked: dict[str, Any]) -> None:
    from ledger_deepspeed import build_engine

    torch.set_num_threads(1)
    seed(0)
    with contextlib.closing(build_engine("deepspeed", recipe(asked))) as engine:
        mesh = engine.topology()["mesh"]
        rank = distributed.get_rank()
        share = rank % mesh["data"]
        seed(100 + rank)
        if asked.get("load"):
            engine.load(Path(asked["load"]))
            if asked.get("same_world", True):
                torch.set_rng_state(torch.load(Path(asked["load"]) / f"rng-{rank}.pt", weights_only=True))
        told: dict[str, Any] = {"metrics": {}, "digests": {}, "topology": engine.topology()}
        for step in range(engine.done + 1, asked["steps"] + 1):
            batch = micro_batches(task(asked), step, asked["accumulation"], share, mesh["data"])
            told["metrics"][step] = engine.step(batch)
            if step in asked.get("save", ()):
                directory = Path(asked["out"]) / f"step-{step}"
                if room := asked.get("room"):
                    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
                engine.save(directory)()
                torch.save(torch.get_rng_state(), directory / f"rng-{rank}.pt")
                distributed.barrier()
        before = torch.get_rng_state()
        told["evaluated"] = engine.evaluate(batch[0])
        told["undisturbed"] = torch.equal(before, torch.get_rng_state())
        found = engine.fingerprint()()
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, (dict(found.parameters), dict(found.optimizer)))
        told["digests"] = gathered
        if rank == 0 and asked.get("save"):
            whole = engine.export(Path(asked["out"]) / f"step-{asked['save'][-1]}")
            told["exported"] = {
                name: [str(t.dtype), list(t.shape), float(t.float().sum())] for name, t in whole.items()
            }
        if rank == 0:
            (Path(asked["out"]) / "told.json").write_text(json.dumps(told))
        distributed.barrier()


def task(asked: dict[str, Any]) -> CharGpt:
    text = "".join(random.Random(3).choices("abcdefgh ", k=4000))
    width, dropout = asked.get("n_embd", 16), asked.get("dropout", 0.1)
    return CharGpt(GptOptions(n_layer=2, n_head=2, n_embd=width, block_size=8, dropout=dropout), text)


def recipe(asked: dict[str, Any]) -> dict[str, Any]:
    optim = Optim(lr=1e-2, clip=asked.get("clip", 1.0))
    return {
        "task": task(asked),
        "batch": {"size": SIZE, "accumulation": asked["accumulation"]},
        "optim": optim.model_dump(),
        "engine": {"name": "deepspeed", "precision": asked.get("precision", "float32"), "options": asked["options"]},
        "parallel": {"shard": 1, "tensor": 1, "pipeline": 1} | asked["parallel"],
        "optimizer": partial(build_optimizer, optim),
        "learning_rate": lambda step: 1e-2 / step,
    }


def micro_batches(of: CharGpt, step: int, accumulation: int, share: int, shares: int) -> list[Any]:
    first = step * SIZE % 64
    samples = list(range(first, first + SIZE))[share::shares]
    assert len(samples) % accumulation == 0
    return [of.batch(samples[i::accumulation]) for i in range(accumulation)]


def seed(value: int) -> None:
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except LedgerError as error:
        sys.stderr.write(f"refused: {error}\nmend: {error.mend}\n")
        sys.exit(error.exit_code)
