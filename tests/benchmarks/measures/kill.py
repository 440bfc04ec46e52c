"""What is left when the training process is killed right after ``log`` has returned."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import work
from tests.benchmarks.contestant import Unavailable
from tests.benchmarks.figures import Quantity, Table
from tests.benchmarks.process import Killed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

CALLS: Final = 3_000
RATE: Final = 1_000
ROUNDS: Final = 2
SETTLE_S: Final = 2.0
"""Before anybody counts: a tool's helper process outlives the killed one and may still write what it was handed."""


def measure(bench: Bench) -> Table:
    """Points lost of those whose call had returned."""
    calls = bench.size(CALLS, least=50)
    acknowledged = calls * len(work.METRICS)
    table = Table(
        "kill",
        "Points lost to SIGKILL",
        f"The process kills itself (SIGKILL) right after call {calls:,} has returned: {acknowledged:,} points were "
        f"acknowledged. A helper process of the tool lives on. {SETTLE_S:g} s later the tool's own reader counts, in a "
        "new process. Below zero: points that are there twice.",
        (
            Quantity("lost, burst", "points", "lower"),
            Quantity("lost, 1,000 calls/s", "points", "lower"),
        ),
    )

    def leg(key: str, home: Path) -> dict[str, float]:
        return {
            "lost, burst": acknowledged - _kept(bench, key, home / "burst", calls=calls, rate=None),
            "lost, 1,000 calls/s": acknowledged - _kept(bench, key, home / "paced", calls=calls, rate=RATE),
        }

    bench.interleaved(table, leg, rounds=min(bench.rounds, ROUNDS))
    return table


def _kept(bench: Bench, key: str, home: Path, **how: Any) -> float:
    try:
        bench.run("kill:die", key, home, **how)
    except Killed:
        pass
    else:
        raise Unavailable("the process survived its SIGKILL")
    time.sleep(SETTLE_S * min(1, bench.scale * 10))
    return float(bench.run("kill:count", key, home))


def die(contestant: Contestant, home: Path, *, calls: int, rate: int | None) -> None:
    """In the contestant's process: log and be killed."""
    rows = work.steps(calls)
    run = contestant.start(home)
    began = time.perf_counter()
    for step, row in enumerate(rows):
        if rate is not None:
            time.sleep(max(0.0, began + step / rate - time.perf_counter()))
        run.log(row, step)
    os.kill(os.getpid(), signal.SIGKILL)


def count(contestant: Contestant, home: Path) -> int:
    """In a process after that: what is there."""
    return contestant.points(home)
