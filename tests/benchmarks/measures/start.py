"""How long a command line takes to say something."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.benchmarks.contestant import Unavailable, find
from tests.benchmarks.figures import Quantity, Table
from tests.benchmarks.measures.runs import RUNS

if TYPE_CHECKING:
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

TIMES: Final = 3
"""Starts in a round; their median counts, since one start is at the mercy of the disk cache."""
ROUNDS: Final = 3
HELP: Final = "help"
LIST: Final = "list"


def measure(bench: Bench) -> Table:
    """Milliseconds from starting the command to its end."""
    runs = bench.size(RUNS, least=50)
    table = Table(
        "start",
        "Cold start of the command line",
        f"A new process to its end: `--help`, and listing {runs:,} runs as text (`ledger ls`).",
        (Quantity(HELP, "ms", "lower"), Quantity(LIST, "ms", "lower")),
    )

    def leg(key: str, home: Path) -> dict[str, float]:
        full = home if "runs" in find(key).cannot else bench.catalogue(key, runs)
        told: dict[str, float] = bench.run("start:timed", key, full)
        return told

    bench.interleaved(table, leg, rounds=min(bench.rounds, ROUNDS))
    return table


def timed(contestant: Contestant, home: Path) -> dict[str, float]:
    """Median time of each of the contestant's commands."""
    found = {}
    for name, command in contestant.commands(home).items():
        times = []
        for _ in range(1 + TIMES):
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, check=False)
            times.append((time.perf_counter() - began) * 1e3)
            if done.returncode:
                why = done.stderr.decode().strip().rpartition("\n")[2]
                raise Unavailable(f"{Path(command[0]).name}: exit code {done.returncode}: {why}")
        found[name] = median(times[1:])  # at the first one Python may have compiled modules
    return found
