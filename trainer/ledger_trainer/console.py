"""The lines that a training prints; who draws a progress bar reads the log instead."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.progress import Progress


class Console:
    """Prints on rank 0 and keeps the time.

    How fast a training is depends on the machine, so it is no metric.
    """

    def __init__(self, rank: int, steps: int) -> None:
        self._speaks = rank == 0
        self._steps = steps
        self._begun: tuple[int, float] | None = None

    def say(self, text: str) -> None:
        """One line."""
        if self._speaks:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Around a wait: a bar and the seconds on a terminal, elsewhere a line before and one after."""
        if not self._speaks:
            yield
        elif sys.stdout.isatty():
            with _new_bar(text):
                yield
        else:
            began = time.monotonic()
            self.say(text)
            yield
            self.say(f"{text}: done after {time.monotonic() - began:.1f} s")

    def begin(self, step: int) -> None:
        """Training goes on after ``step``."""
        self._begun = (step, time.monotonic())

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """``step 100/200  train/loss 2.3145  lr 3.0e-04  12.3 steps/s  ETA 0:00:09``."""
        first, begun = self._begun or (step, time.monotonic())
        rate = (step - first) / max(time.monotonic() - begun, 1e-9)
        left = datetime.timedelta(seconds=round((self._steps - step) / rate)) if rate else "?"
        shown = "  ".join(
            f"{name} {value:.1e}" if name == "lr" else f"{name} {value:.4f}" for name, value in metrics.items()
        )
        self.say(f"step {step}/{self._steps}  {shown}  {rate:.1f} steps/s  ETA {left}")


def _new_bar(text: str) -> Progress:
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),  # how much there is left to store nobody tells: it moves as long as it takes
        TimeElapsedColumn(),
        console=Terminal(file=sys.stdout),
        transient=True,
    )
    bar.add_task(text, total=None)
    return bar
