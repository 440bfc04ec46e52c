"""A metric in a few numbers: its last, lowest and highest value, each with its step. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Measured(NamedTuple):
    """What some points of a metric come to. NaN is lowest or highest only where there is nothing else."""

    last: float
    last_step: float
    lowest: float
    lowest_step: float
    """Of several points with this value, the lowest step; so for the highest."""
    highest: float
    highest_step: float
    points: int

    def then(self, later: Measured) -> Measured:
        """Of these points and those that follow them."""
        lowest = min((self.lowest, self.lowest_step), (later.lowest, later.lowest_step), key=_low)
        highest = min((self.highest, self.highest_step), (later.highest, later.highest_step), key=_high)
        return Measured(later.last, later.last_step, *lowest, *highest, self.points + later.points)


def measure(
    steps: Sequence[float], values: Mapping[str, Sequence[float | None]], limit: float = math.inf
) -> dict[str, tuple[Measured, float]]:
    """Each metric of some columns, with the highest step at which it has a value.

    None stands where a row gives no value. Only steps up to ``limit`` count.
    """
    found = {}
    for name, column in values.items():
        if None in column:
            rows = [row for row, value in enumerate(column) if value is not None]
            one = measure_one([steps[row] for row in rows], [column[row] for row in rows], limit)  # type: ignore[misc]
        else:
            one = measure_one(steps, column, limit)  # type: ignore[arg-type]
        if one:
            found[name] = one
    return found


def measure_one(
    steps: Sequence[float], values: Sequence[float], limit: float = math.inf
) -> tuple[Measured, float] | None:
    """One metric and its highest step; None where no step up to ``limit`` has a value."""
    if not steps:
        return None
    reached = float(max(steps))
    if reached > limit:
        rows = [row for row, step in enumerate(steps) if step <= limit]
        return measure_one([steps[row] for row in rows], [values[row] for row in rows], limit)
    real = values
    if any(map(math.isnan, values)):
        real = [value for value in values if not math.isnan(value)]
    lowest, highest = (_extreme(steps, values, real, choose) for choose in (min, max))
    # Plus zero: a database may not keep the sign of a zero.
    return Measured(values[-1] + 0.0, float(steps[-1]), *lowest, *highest, len(values)), reached


def _extreme(
    steps: Sequence[float],
    values: Sequence[float],
    real: Sequence[float],
    choose: Callable[[Sequence[float]], float],
) -> tuple[float, float]:
    """The lowest or highest of the values, and the lowest step that has it."""
    if not real:
        return math.nan, float(min(steps))
    extreme = choose(real)
    if values.count(extreme) == 1:
        return extreme + 0.0, float(steps[values.index(extreme)])
    return extreme + 0.0, float(min(step for step, value in zip(steps, values, strict=True) if value == extreme))


def _low(point: tuple[float, float]) -> tuple[bool, float, float]:
    value, step = point
    return (True, 0.0, step) if math.isnan(value) else (False, value, step)


def _high(point: tuple[float, float]) -> tuple[bool, float, float]:
    value, step = point
    return (True, 0.0, step) if math.isnan(value) else (False, -value, step)
