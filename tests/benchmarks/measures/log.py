"""What ``log`` costs: the caller's time for each call, the rate up to the end of ``finish``, and the bytes at rest."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from statistics import quantiles
from typing import TYPE_CHECKING, Final

from tests.benchmarks import work
from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

STEPS: Final = 4_000


def measure(bench: Bench) -> Table:
    """Time, rate and size of one short run."""
    steps = bench.size(STEPS, least=100)
    table = Table(
        "log",
        "Logging",
        f"{steps:,} calls one after the other, {len(work.METRICS)} metrics each. Bytes per point: what lies on disk "
        "after `finish`, less what a run without a call leaves.",
        (
            Quantity("p50", "µs", "lower"),
            Quantity("p99", "µs", "lower"),
            Quantity("max", "µs", "lower"),
            Quantity("points/s with finish", "/s", "higher"),
            Quantity("bytes/point", "B", "lower"),
        ),
    )

    empty: dict[str, int] = {}
    """Size of a run without a call, which is the same in every round."""

    def leg(key: str, home: Path) -> dict[str, float]:
        if key not in empty:
            bench.run("log:record", key, home, steps=0)
            empty[key] = size_at_rest(home)
            home = bench.fresh(home)
        told: dict[str, float] = bench.run("log:record", key, home, steps=steps)
        told["bytes/point"] = (size_at_rest(home) - empty[key]) / (steps * len(work.METRICS))
        return told

    bench.interleaved(table, leg)
    return table


def record(contestant: Contestant, home: Path, *, steps: int) -> dict[str, float]:
    """In the contestant's process: log and finish."""
    rows = work.steps(steps)
    clock = time.perf_counter_ns
    costs = []
    run = contestant.start(home)
    began = clock()
    for step, row in enumerate(rows):
        before = clock()
        run.log(row, step)
        costs.append(clock() - before)
    run.finish()
    seconds = (clock() - began) / 1e9
    if not steps:
        return {}
    percentile = quantiles(costs, n=100)
    return {
        "p50": percentile[49] / 1e3,
        "p99": percentile[98] / 1e3,
        "max": max(costs) / 1e3,
        "points/s with finish": steps * len(work.METRICS) / seconds,
    }


def size_at_rest(home: Path) -> int:
    """Bytes of all files below ``home``, the write-ahead logs of SQLite taken in.

    Such a log is as large as it once had to be, whatever is in it, and the next reader takes it in: with it the size
    of a run could be smaller than that of an empty one.
    """
    for path in home.rglob("*"):
        if path.is_file() and _is_sqlite(path):
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(path.lstat().st_size for path in home.rglob("*") if path.is_file())


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"
