"""Acting on what a policy decides: store what is due, delete what is superseded.

The best checkpoint so far is kept apart from the regular ones, and its name says what it is:
``best_model_step_300`` beside ``step-400``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from ledger.checkpoints.policy import Due, Policy
from ledger.errors import CheckpointUnavailable, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ledger.events import CheckpointWritten, Trigger
    from ledger.files import Lent


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
        trigger: Trigger = "steps",
        base: CheckpointWritten | None = None,
        lent: Lent | None = None,
    ) -> CheckpointWritten:
        """Store the directory; a fact once it is durable and read back."""

    def delete_checkpoint(self, written: CheckpointWritten, reason: str) -> None:
        """Remove a checkpoint from its store and say why; a second call for the same one only removes."""


class Keeper:
    """Writes checkpoints of ``run`` by ``policy``. One on every rank, to agree; rank 0 alone calls ``keep``.

    Its memory is the log: on resume it knows what earlier attempts wrote up to the step that this one went on
    from. What they wrote beyond it was not whole, or it would have been resumed from: such a checkpoint
    counts neither as the newest nor as the best, and stays where it is until this attempt writes it anew.

    ``keep`` may run in another thread than ``due``: see ``BackgroundKeeper``.
    """

    def __init__(self, run: Run, policy: Policy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._policy = policy
        self._clock = clock
        resumed = run.resumed_step
        known = [c for c in run.checkpoints() if resumed is not None and c.step <= resumed]
        latest = {c.name: c for c in known}
        self._written = [c for c in known if latest[c.name] is c]
        best = policy.best_of(self._written)
        self._best = best.metrics.get(policy.best or "") if best else None
        self._regular_at = clock()

    def overdue(self) -> bool:
        """Whether ``minutes`` have gone by, on the clock of this process, since a regular one was due."""
        minutes = self._policy.minutes
        return minutes is not None and self._clock() - self._regular_at >= minutes * 60

    def due(
        self,
        step: float,
        metrics: Mapping[str, float],
        *,
        last: bool = False,
        interrupted: bool = False,
        overdue: bool | None = None,
    ) -> list[Due]:
        """What to write after ``step``: call it once a step, with the same arguments on every rank.

        A regular checkpoint is due at the ``last`` step and before an early end, too. ``overdue`` is what rank 0's
        ``overdue()`` said, where several processes train together; by default this process looks at its own clock.
        """
        due = []
        value = metrics.get(self._policy.best) if self._policy.best is not None else None
        if value is not None and self._policy.improves(value, self._best):
            self._best = value
            # First, so that a crash between the two loses neither: the run resumes from this one.
            due.append(Due(f"best_model_step_{_label(step)}", "best"))
        reasons: list[tuple[Trigger, bool]] = [
            ("last", last),
            ("steps", self._policy.due(step)),
            ("interruption", interrupted),
            ("minutes", self.overdue() if overdue is None else overdue),
        ]
        trigger = next((trigger for trigger, holds in reasons if holds), None)
        if trigger is not None:
            self._regular_at = self._clock()
            due.append(Due(_regular(step), trigger))
        return due

    def unfinished(self, *, last: bool = False) -> list[Due]:
        """What a killed attempt left out at the step that this one goes on from.

        That is the regular checkpoint of a step whose best one it had just stored. ``last`` as in ``due``.
        """
        step = self._run.resumed_step
        if step is None or not (last or self._policy.due(step)) or all(c.step != step for c in self._written):
            return []
        # One that was stored and deleted since has left a newer one behind, whole or not.
        if any(not c.best and c.step >= step for c in self._run.checkpoints()):
            return []
        return [Due(_regular(step), "last" if last else "steps")]

    def keep(
        self,
        directory: Path,
        due: Sequence[Due],
        *,
        step: float,
        metrics: Mapping[str, float],
        holds: Sequence[str] = (),
        lent: Lent | None = None,
    ) -> list[CheckpointWritten]:
        """Store ``directory`` under each name that is ``due``, then delete what is superseded.

        ``lent`` are files of it that are in memory, as in ``Run.checkpoint``.
        """
        written = self.store(directory, due, step=step, metrics=metrics, holds=holds, lent=lent)
        self.tidy()
        return written

    def store(
        self,
        directory: Path,
        due: Sequence[Due],
        *,
        step: float,
        metrics: Mapping[str, float],
        holds: Sequence[str] = (),
        lent: Lent | None = None,
    ) -> list[CheckpointWritten]:
        """The first half of ``keep``. Called again after a failure it goes on with what is missing."""
        stored = {c.name for c in self._written if c.step == step}
        written = []
        for one in due:
            if one.name not in stored:
                written.append(self._store(directory, one, step=step, metrics=metrics, holds=holds, lent=lent))
                self._written = [c for c in self._written if c.name != one.name] + written[-1:]
        return written

    def tidy(self) -> None:
        """The second half of ``keep``, which can be called again as well."""
        for old in self._policy.superseded(self._written):
            self._run.delete_checkpoint(old.checkpoint, old.reason)
            self._written.remove(old.checkpoint)

    def _store(
        self,
        directory: Path,
        due: Due,
        *,
        step: float,
        metrics: Mapping[str, float],
        holds: Sequence[str],
        lent: Lent | None,
    ) -> CheckpointWritten:
        def store(base: CheckpointWritten | None) -> CheckpointWritten:
            return self._run.checkpoint(
                directory,
                step=step,
                metrics=metrics,
                name=due.name,
                best=due.best,
                holds=holds,
                trigger=due.trigger,
                base=base,
                lent=lent,
            )

        base = self._policy.base_of(self._written)
        try:
            return store(base)
        except (CheckpointUnavailable, IntegrityError):
            if base is None:
                raise
            return store(None)  # a base that is lost or damaged must not cost the checkpoints after it


def _regular(step: float) -> str:
    return f"step-{_label(step)}"


def _label(step: float) -> str:
    """A step without a needless decimal point."""
    return f"{step:.15g}"
