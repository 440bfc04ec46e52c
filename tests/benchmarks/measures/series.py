"""Reading one metric of one run back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tests.benchmarks import work
from tests.benchmarks.contestant import Unavailable, find
from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

NAME: Final = "train/loss"
READS: Final = 3


def measure(bench: Bench) -> Table:
    """Seconds and points/s of the fastest of a few first reads, each in a process of its own."""
    table = Table(
        "series",
        "Reading back one series",
        "Steps and values of one metric, from opening the tool's files to two columns in memory; imports are not "
        "counted. The length is what each tool bears being written in a few seconds; the rate compares.",
        (
            Quantity("points", "points", "higher", compared=False),
            Quantity("seconds", "s", "lower", compared=False),
            Quantity("points/s read", "/s", "higher"),
        ),
    )

    def leg(key: str, home: Path) -> dict[str, float]:
        points = bench.size(find(key).series_points, least=1_000)
        bench.run("series:write", key, home, points=points)
        reads = [bench.run("series:read", key, home, points=points) for _ in range(READS)]
        seconds = min(reads)
        return {"points": points, "seconds": seconds, "points/s read": points / seconds}

    bench.interleaved(table, leg, rounds=1)
    return table


def write(contestant: Contestant, home: Path, *, points: int) -> None:
    """In a process before: the series."""
    contestant.write_series(home, NAME, points)


def read(contestant: Contestant, home: Path, *, points: int) -> float:
    """In a process after that: seconds to have it whole."""
    contestant.prepare_reading()
    began = time.perf_counter()
    steps, values = contestant.series(home, NAME)
    seconds = time.perf_counter() - began
    if len(steps) != points or len(values) != points or values[-1] != work.series_value(points - 1):
        raise Unavailable(f"{len(steps):,} of {points:,} points came back")
    return seconds
