"""The learning rate: a pure function of the step, so that there is no state to lose."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger_trainer.recipe import Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """Rate of ``step`` out of ``steps``, counted from 1.

    Linear warm-up to ``peak``, then what ``schedule`` says.
    """
    if step <= schedule.warmup:
        return peak * step / schedule.warmup
    if schedule.kind == "constant":
        return peak
    done = (step - schedule.warmup) / max(1, steps - schedule.warmup)
    return schedule.min_lr + 0.5 * (peak - schedule.min_lr) * (1 + math.cos(math.pi * min(1.0, done)))
