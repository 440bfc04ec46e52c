"""When a checkpoint is written, what it is called, and which ones give way to it. Pure: decides and does nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ledger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.events import CheckpointWritten, Trigger


@dataclass(frozen=True)
class Superseded:
    """A checkpoint that may be deleted, and why."""

    checkpoint: CheckpointWritten
    reason: str


@dataclass(frozen=True)
class Due:
    """A checkpoint to write now."""

    name: str
    trigger: Trigger = "steps"

    @property
    def best(self) -> bool:
        """Whether it is the best so far, which is kept apart from the regular ones."""
        return self.trigger == "best"


@dataclass(frozen=True)
class Policy:
    """When to write a checkpoint and what to keep. Raises ``UsageError`` for numbers that make no sense."""

    every: int | None = None
    """Steps between two regular checkpoints; None: the steps do not count."""
    minutes: float | None = None
    """Most minutes between two regular checkpoints; None: the time does not count."""
    best: str | None = None
    """The metric whose best value so far gets a checkpoint of its own."""
    mode: Literal["min", "max"] = "min"
    """Whether lower or higher is better."""
    keep_last: int | None = None
    """How many regular checkpoints stay; None: all of them."""
    keep_every: int | None = None
    """Steps between two regular checkpoints that stay for good, beside the last ones; None: none does."""
    full_every: int | None = None
    """Each checkpoint is stored as the difference to the one before, every so many one is whole; None: each is whole.

    What a difference is based on stays as long as the difference does, whatever ``keep_last`` says.
    """

    def __post_init__(self) -> None:
        for name in ("every", "keep_last", "keep_every", "full_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}: it must be at least 1, or None")
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"minutes is {self.minutes}: it must be above 0, or None")
        if self.keep_every and not self.keep_last:
            raise UsageError(
                f"keep_every = {self.keep_every} names what stays beside the last ones, but without keep_last all stay",
                mend="set keep_last, or leave keep_every out",
            )

    def due(self, step: float) -> bool:
        """Whether a regular checkpoint is due after ``step``, by the steps."""
        return self.every is not None and step % self.every == 0

    def improves(self, value: float, best: float | None) -> bool:
        """Whether ``value`` is better than ``best``, the best so far.

        NaN is never better, an equal value neither.
        """
        if math.isnan(value):
            return False
        if best is None or math.isnan(best):
            return True
        return value < best if self.mode == "min" else value > best

    def best_of(self, written: Sequence[CheckpointWritten]) -> CheckpointWritten | None:
        """The checkpoint that was written for the best value so far; of equal ones the first."""
        best: CheckpointWritten | None = None
        for checkpoint in written:
            if checkpoint.best and (best is None or self.improves(self._value(checkpoint), self._value(best))):
                best = checkpoint
        return best

    def base_of(self, written: Sequence[CheckpointWritten]) -> CheckpointWritten | None:
        """Which of ``written`` the next one may be stored as the difference to; None where it is to be whole."""
        last = next((c for c in reversed(written) if not c.best), None)
        # Bases of bases are named too: their number is the length of the chain.
        return last if last and self.full_every and len(last.bases) + 1 < self.full_every else None

    def superseded(self, written: Sequence[CheckpointWritten]) -> list[Superseded]:
        """Those of ``written``, in the order of writing, that may go, newest first.

        Never the newest, never the best, and nothing that one which stays is based on.
        """
        best = self.best_of(written)
        surplus = self._surplus([c for c in written if not c.best])
        gone = [Superseded(c, f"keep_last = {self.keep_last}") for c in surplus]
        if best is not None:
            gone += [
                Superseded(c, f"{best.name} has a better {self.best}") for c in written if c.best and c is not best
            ]
        places = {id(c): place for place, c in enumerate(written)}
        going = {id(s.checkpoint) for s in gone} - {id(c) for c in written[-1:]}
        needed = {base for c in written if id(c) not in going for base in c.bases}
        # Newest first: who dies in between has deleted no base of what is still there.
        return sorted(
            (s for s in gone if id(s.checkpoint) in going and s.checkpoint.digest not in needed),
            key=lambda s: places[id(s.checkpoint)],
            reverse=True,
        )

    def _surplus(self, regular: Sequence[CheckpointWritten]) -> list[CheckpointWritten]:
        """The regular ones that are neither among the last nor kept for good."""
        if not self.keep_last:
            return []
        return [c for c in regular[: -self.keep_last] if not (self.keep_every and c.step % self.keep_every == 0)]

    def _value(self, checkpoint: CheckpointWritten) -> float:
        return checkpoint.metrics.get(self.best or "", math.nan)
