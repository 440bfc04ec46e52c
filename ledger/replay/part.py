"""Which part of a run is repeated: what it goes on from, how far it goes, and who made its steps. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.errors import CheckpointUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ledger.events import CheckpointWritten, ConfigResolved, World
    from ledger.read.state import Attempt, RunState

_OF_A_MACHINE: Final = ("--hostfile", "--master-", "--node-rank", "--rdzv-")
"""Options of launchers that say where and with whom the processes meet: they belong to the machines of then."""
_RESTARTS: Final = "--max-restarts"
"""A replay that fails has failed: what a restarted training does next is another attempt."""


@dataclass(frozen=True)
class Scope:
    """What is asked for: the steps after ``from_step`` up to ``until_step``, with so many processes."""

    from_step: float | None = None
    until_step: float | None = None
    processes: int | None = None


@dataclass(frozen=True)
class Part:
    """What is repeated: by default the whole run."""

    checkpoint: CheckpointWritten | None = None
    """What it goes on from; None: it starts at the beginning."""
    until: float | None = None
    """The last step that is compared; None: to the end of the run, and how it ended."""
    from_step: float | None = None
    """What was asked for: the checkpoint is the newest at or before it."""
    attempts: tuple[Attempt, ...] = ()
    """Those that made its steps, in their order."""
    processes: int | None = None
    """How many are to train together, where that is another number than then."""
    passed_over: tuple[str, ...] = ()
    """Checkpoints that would have come first, each with why it cannot be had."""

    @property
    def whole(self) -> bool:
        """Whether that is the whole run."""
        return self.checkpoint is None and self.until is None

    @property
    def after(self) -> float:
        """Steps up to this one are not made again."""
        return -math.inf if self.checkpoint is None else self.checkpoint.step

    def covers(self, step: float) -> bool:
        """Whether a step is of this part."""
        return self.after < step and (self.until is None or step <= self.until)

    def resized_at(self, step: float) -> bool:
        """Whether other processes made this step than those that repeat it."""
        made = [attempt.world.processes for attempt in self.attempts if begins(attempt) < step]
        return bool(made) and made[-1] != (self.processes or self.attempts[0].world.processes)


WHOLE: Final = Part()


def choose(state: RunState, scope: Scope, last: float | None, passed_over: Collection[tuple[str, str]] = ()) -> Part:
    """The part of a run that ``scope`` means; ``last`` is the last step that can be compared.

    ``passed_over`` gives the URIs of checkpoints that cannot be had, and why. Raises ``UsageError`` for a part that
    the run does not have, ``CheckpointUnavailable`` where it has no checkpoints at all to go on from.
    """
    _must_be_steps(scope)
    if last is not None and scope.from_step is not None and scope.from_step >= last:
        raise UsageError(
            f"{state.name} has nothing to compare after step {step_text(scope.from_step)}",
            mend=f"its last step is {step_text(last)}: give an earlier --from-step",
        )
    checkpoint = _start(state, scope.from_step, {uri for uri, _ in passed_over})
    until = scope.until_step if scope.until_step is None or last is None or scope.until_step < last else None
    after = checkpoint.step if checkpoint else -math.inf
    if until is not None and until <= after:
        raise UsageError(
            f"the replay would go on from the checkpoint of step {step_text(after)}, and so never make step "
            f"{step_text(until)}",
            mend="give a later --until-step, or an earlier --from-step",
        )
    attempts = _attempts(state, after, until if until is not None else last)
    asked = scope.processes if attempts and scope.processes != attempts[0].world.processes else None
    lost = tuple(f"{_of(state, uri)}: {why}" for uri, why in passed_over)
    return Part(checkpoint, until, scope.from_step, attempts, asked, lost)


def replayed(world: World, processes: int | None = None) -> World:
    """The world in which a replay repeats what ``world`` did: all processes on this machine, however they are started.

    Whatever named machines of then is left out, and so are restarts.
    """
    options = tuple(word for word in world.options if not word.startswith((*_OF_A_MACHINE, _RESTARTS)))
    return world.model_copy(update={"processes": processes or world.processes, "nodes": 1, "options": options})


def resolved(state: RunState, part: Part) -> ConfigResolved | None:
    """The configuration that made the first of the part's steps."""
    return part.attempts[0].resolved if part.attempts else state.resolved


def step_text(step: float) -> str:
    """A step as one types it."""
    return str(int(step)) if float(step).is_integer() else repr(step)


def begins(attempt: Attempt) -> float:
    """The step that an attempt went on from."""
    step = attempt.resumed.step if attempt.resumed else None
    return -math.inf if step is None else step


def _must_be_steps(scope: Scope) -> None:
    for option, step in (("--from-step", scope.from_step), ("--until-step", scope.until_step)):
        if step is not None and not math.isfinite(step):
            raise UsageError(f"{option} {step} is no step", mend="give a number of steps")
    if scope.from_step is not None and scope.until_step is not None and scope.until_step < scope.from_step:
        raise UsageError(
            f"--until-step {step_text(scope.until_step)} lies before --from-step {step_text(scope.from_step)}",
            mend="exchange the two",
        )


def _start(state: RunState, from_step: float | None, lost: Collection[str]) -> CheckpointWritten | None:
    """The newest checkpoint at or before a step; None where all are later."""
    if from_step is None:
        return None
    if not state.checkpoints:
        gone = "all of its checkpoints were deleted" if state.written else "it has no checkpoints"
        raise CheckpointUnavailable(
            f"{state.name} cannot be replayed from step {step_text(from_step)}: {gone}",
            mend="leave --from-step out: the replay then starts at the beginning",
        )
    kept = (c for c in reversed(state.checkpoints) if c.step <= from_step and c.uri not in lost)
    return next(kept, None)


def _attempts(state: RunState, after: float, until: float | None) -> tuple[Attempt, ...]:
    """The attempts whose steps in this range no later attempt took back."""
    end = math.inf if until is None else until
    found = []
    for attempt in reversed(state.attempts):
        begin = max(begins(attempt), after)
        if begin < end:
            found.append(attempt)
        end = min(end, begins(attempt))
    return tuple(reversed(found)) or (state.attempt,)


def _of(state: RunState, uri: str) -> str:
    return next(written.name for _, written in state.written if written.uri == uri)
