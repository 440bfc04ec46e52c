"""Listing many runs, and asking which of them were good."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tests.benchmarks import catalogue
from tests.benchmarks.contestant import Unavailable
from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

RUNS: Final = 10_000
ROUNDS: Final = 3


def measure(bench: Bench) -> Table:
    """Seconds for each question in a fresh process, its modules imported before the clock starts."""
    runs = bench.size(RUNS, least=50)
    table = Table(
        "runs",
        f"Listing and filtering {runs:,} runs",
        "By the Python API, from opening to the answer, imports not counted. List: every run with status and last "
        f"metrics. Filter: the {len(catalogue.answer(runs)):,} completed runs with val/loss < {catalogue.LOSS:g} and "
        f"lr >= {catalogue.LR:g}, sorted by val/loss; the answer is checked.",
        (Quantity("list", "s", "lower"), Quantity("filter and sort", "s", "lower")),
    )

    def leg(key: str, home: Path) -> dict[str, float]:
        full = bench.catalogue(key, runs)
        return {
            "list": bench.run("runs:listed", key, full, runs=runs),
            "filter and sort": bench.run("runs:filtered", key, full, runs=runs),
        }

    bench.interleaved(table, leg, rounds=min(bench.rounds, ROUNDS))
    return table


def write(contestant: Contestant, home: Path, *, runs: int) -> None:
    """In a process before: the catalogue."""
    contestant.write_runs(home, runs)


def listed(contestant: Contestant, home: Path, *, runs: int) -> float:
    """Seconds to list all."""
    contestant.prepare_reading()
    began = time.perf_counter()
    names = contestant.list_runs(home)
    seconds = time.perf_counter() - began
    if len(set(names)) != runs:
        raise Unavailable(f"{len(set(names)):,} of {runs:,} runs were listed")
    return seconds


def filtered(contestant: Contestant, home: Path, *, runs: int) -> float:
    """Seconds to answer the question."""
    contestant.prepare_reading()
    began = time.perf_counter()
    names = contestant.filter_runs(home)
    seconds = time.perf_counter() - began
    if tuple(names) != catalogue.answer(runs):
        raise Unavailable(f"{len(names):,} runs came back, not the {len(catalogue.answer(runs)):,} asked for")
    return seconds
