"""When a checkpoint is written, what it is called, and which ones give way to it.

``Policy`` decides and does nothing; ``Keeper`` acts on what it decides. The best checkpoint so far is kept
apart from the regular ones, and its name says what it is: ``best_model_step_300`` beside ``step-400``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ledger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ledger.events import CheckpointWritten


@dataclass(frozen=True)
class Superseded:
    """A checkpoint that may be deleted, and why."""

    checkpoint: CheckpointWritten
    reason: str


@dataclass(frozen=True)
class Due:
    """A checkpoint to write now."""

    name: str
    best: bool = False


@dataclass(frozen=True)
class Policy:
    """When to write a checkpoint and what to keep. Raises ``UsageError`` for numbers that make no sense."""

    every: int | None = None
    """Steps between two regular checkpoints; None: only at the end."""
    best: str | None = None
    """The metric whose best value so far gets a checkpoint of its own."""
    mode: Literal["min", "max"] = "min"
    """Whether lower or higher is better."""
    keep_last: int | None = None
    """How many regular checkpoints stay; None: all of them."""

    def __post_init__(self) -> None:
        for name in ("every", "keep_last"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}: it must be at least 1, or None")

    def due(self, step: float) -> bool:
        """Whether a regular checkpoint is due after ``step``."""
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

    def superseded(self, written: Sequence[CheckpointWritten]) -> list[Superseded]:
        """Those of ``written``, in the order of writing, that may go: never the newest, never the best."""
        best = self.best_of(written)
        regular = [c for c in written if not c.best]
        surplus = regular[: -self.keep_last] if self.keep_last else []
        gone = [Superseded(c, f"keep_last = {self.keep_last}") for c in surplus]
        if best is not None:
            gone += [
                Superseded(c, f"{best.name} has a better {self.best}") for c in written if c.best and c is not best
            ]
        return [s for s in gone if s.checkpoint is not written[-1]]

    def _value(self, checkpoint: CheckpointWritten) -> float:
        return checkpoint.metrics.get(self.best or "", math.nan)


class Run(Protocol):
    """What a keeper needs of a run; ``ledger.Run`` is one."""

    @property
    def resumed_step(self) -> float | None:
        """The step whose checkpoint this attempt went on from."""

    def checkpoints(self) -> Sequence[CheckpointWritten]:
        """Checkpoints of all attempts that were written and not deleted, oldest first."""

    def checkpoint(
        self,
        directory: Path,
        *,
        step: float,
        metrics: Mapping[str, float] | None = None,
        name: str | None = None,
        best: bool = False,
        holds: Sequence[str] = (),
    ) -> CheckpointWritten:
        """Store the directory; a fact once it is durable and read back."""

    def delete_checkpoint(self, written: CheckpointWritten, reason: str) -> None:
        """Remove a checkpoint from its store and say why."""


class Keeper:
    """Writes checkpoints of ``run`` by ``policy``. One on every rank, to agree; rank 0 alone calls ``keep``.

    Its memory is the log: on resume it knows what earlier attempts wrote up to the step that this one went on
    from. What they wrote beyond it was not whole, or it would have been resumed from: such a checkpoint
    counts neither as the newest nor as the best, and stays where it is until this attempt writes it anew.
    """

    def __init__(self, run: Run, policy: Policy) -> None:
        self._run = run
        self._policy = policy
        resumed = run.resumed_step
        known = [c for c in run.checkpoints() if resumed is not None and c.step <= resumed]
        latest = {c.name: c for c in known}
        self._written = [c for c in known if latest[c.name] is c]
        best = policy.best_of(self._written)
        self._best = best.metrics.get(policy.best or "") if best else None

    def due(self, step: float, metrics: Mapping[str, float], *, now: bool = False) -> list[Due]:
        """What to write after ``step``: call it once a step with the same ``metrics`` on every rank.

        ``now`` asks for a regular checkpoint whether one is due or not: at the last step, or before an early
        end.
        """
        due = []
        value = metrics.get(self._policy.best) if self._policy.best is not None else None
        if value is not None and self._policy.improves(value, self._best):
            self._best = value
            # First, so that a crash between the two loses neither: the run resumes from this one.
            due.append(Due(f"best_model_step_{_label(step)}", best=True))
        if now or self._policy.due(step):
            due.append(Due(f"step-{_label(step)}"))
        return due

    def keep(
        self,
        directory: Path,
        due: Sequence[Due],
        *,
        step: float,
        metrics: Mapping[str, float],
        holds: Sequence[str] = (),
    ) -> list[CheckpointWritten]:
        """Store ``directory`` under each name that is ``due``, then delete what is superseded."""
        written = [
            self._run.checkpoint(directory, step=step, metrics=metrics, name=d.name, best=d.best, holds=holds)
            for d in due
        ]
        names = {w.name for w in written}
        self._written = [c for c in self._written if c.name not in names] + written
        for old in self._policy.superseded(self._written):
            self._run.delete_checkpoint(old.checkpoint, old.reason)
            self._written.remove(old.checkpoint)
        return written


def _label(step: float) -> str:
    """A step without a needless decimal point."""
    return f"{step:.15g}"
