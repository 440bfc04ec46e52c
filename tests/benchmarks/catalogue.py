"""Many finished runs, and one question about them, the same for every tool that can be asked.

The question: completed runs with ``val/loss < 2.1`` and ``lr >= 1e-3``, the lowest loss first.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

LOSS: Final = 2.1
LR: Final = 1e-3


@dataclass(frozen=True)
class RunFacts:
    """One run of the catalogue."""

    name: str
    status: Literal["completed", "failed"]
    lr: float
    loss: float
    accuracy: float
    steps: int


def run_facts(count: int) -> Iterator[RunFacts]:
    """The runs, in the order in which they started."""
    draw = random.Random(11)
    for number in range(1, count + 1):
        yield RunFacts(
            name=f"run-{number}",
            status="failed" if draw.random() < 0.1 else "completed",
            lr=10 ** draw.uniform(-5, -2),
            loss=draw.uniform(1.8, 4.0),
            accuracy=draw.uniform(0.2, 0.9),
            steps=draw.randrange(100, 10_000),
        )


def answer(count: int) -> tuple[str, ...]:
    """What the question's right answer is."""
    found = [r for r in run_facts(count) if r.status == "completed" and r.loss < LOSS and r.lr >= LR]
    return tuple(run.name for run in sorted(found, key=lambda run: run.loss))
