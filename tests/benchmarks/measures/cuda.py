"""What determinism, records and fingerprints cost on one GPU: a GPT in bfloat16, parameters in float32."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.contestant import OURS, Unavailable
from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

WIDTH: Final = 1024
LAYERS: Final = 12
"""150 million parameters."""
BATCH: Final = 32
BLOCK: Final = 512
STEPS: Final = 60
WARM_UP: Final = 10
FINGERPRINT_EVERY: Final = 50
WAYS: Final = {
    "bare": (False, 0, False),
    "deterministic": (True, 0, False),
    "deterministic, recorded": (True, 0, True),
    "deterministic, recorded, fingerprints": (True, FINGERPRINT_EVERY, True),
}
"""Row -> deterministic algorithms only, steps between two fingerprints, whether metrics are logged."""


def measure(bench: Bench) -> Table:
    """A row for each way; the segments of a row are timed with the device waited for."""
    width = bench.size(WIDTH, least=32) // 32 * 32
    steps, batch = bench.size(STEPS, least=4), bench.size(BATCH)
    table = Table(
        "cuda",
        "Steps on a GPU",
        f"A GPT of {LAYERS} layers, {width} wide, {batch} samples of {BLOCK} characters in a step, in bfloat16; "
        f"{steps} steps after {WARM_UP}. A fingerprint every {FINGERPRINT_EVERY} steps, waited for in the row's time.",
        (
            Quantity("step", "ms", "lower", compared=False),
            Quantity("characters/s", "/s", "higher", compared=False),
            Quantity("memory", "MB", "lower", compared=False),
        ),
    )
    for number in range(bench.rounds):
        for row in WAYS:
            if row in table.reasons:
                continue
            home = bench.fresh("cuda")
            bench.say(f"cuda · {row} · round {number + 1}")
            try:
                table.add(row, bench.run("cuda:timed", OURS, home, way=row, width=width, steps=steps, batch=batch))
            except Unavailable as error:
                table.samples.pop(row, None)
                table.reasons[row] = str(error)
            bench.remove(home)
    return table


def timed(contestant: Contestant, home: Path, *, way: str, width: int, steps: int, batch: int) -> dict[str, float]:
    """Median step of one way."""
    import torch

    import ledger
    from ledger_trainer.fingerprint import merge
    from tests.benchmarks.measures.training import loop

    deterministic, every, recorded = WAYS[way]
    engine, feed = loop(
        home.with_name(home.name + "-data.txt"),
        total=WARM_UP + steps,
        layers=LAYERS,
        heads=width // 32,
        width=width,
        size=batch,
        block=BLOCK,
        precision="bfloat16",
    )
    torch.use_deterministic_algorithms(deterministic)
    run: Any = ledger.start_run() if recorded else None
    seconds = []
    for step in range(1, WARM_UP + steps + 1):
        samples = feed.train(step)
        _finish(engine)
        began = time.perf_counter()
        measured = engine.step(samples)
        if run:
            run.log(measured, step=step)
        if every and step % every == 0:
            found = merge([engine.fingerprint()()])
            run.fingerprint(step, found.parameters, found.optimizer, found.tensors)
        _finish(engine)
        seconds.append(time.perf_counter() - began)
    if run:
        run.finish()
    # The mean where something happens at every so manieth step, which a median would not see.
    step_s = sum(seconds[WARM_UP:]) / steps if every else median(seconds[WARM_UP:])
    memory = torch.cuda.max_memory_allocated() / 1e6 if engine.device.type == "cuda" else 0.0
    return {"step": step_s * 1e3, "characters/s": batch * BLOCK / step_s, "memory": memory}


def _finish(engine: Any) -> None:
    import torch

    if engine.device.type == "cuda":
        torch.cuda.synchronize()
