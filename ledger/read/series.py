"""The series of one metric, with the attempts of a run told apart.

A run that was killed after step 480 and resumed from the checkpoint of step 450 has two values for steps 451 to
480. Both are facts and both are kept; the *effective* series is what a run that was never killed would show: of
each attempt only what lies at or before the step that the next one resumed from.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import chain, groupby
from operator import le
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Value = TypeVar("Value")


@dataclass(frozen=True)
class Series:
    """Columns of equal length, in the order in which the values were logged."""

    name: str
    step: tuple[float, ...]
    time: tuple[float, ...]
    """Unix seconds."""
    value: tuple[float, ...]
    attempt: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.step)

    def effective(self, resumed_at: Mapping[int, float | None]) -> Series:
        """Only the points that later attempts did not take back.

        ``resumed_at`` gives for each attempt after the first the step it resumed from; None means from the start.
        """
        limit = limits(self.attempt, resumed_at)
        return self._take(kept for attempt, span in self._spans() for kept in _up_to(limit[attempt], self.step, span))

    def of_attempt(self, attempt: int) -> Series:
        """Only the points of one attempt."""
        return self._take(span for one, span in self._spans() if one == attempt)

    def to_pandas(self) -> Any:
        """The columns as a pandas DataFrame, where pandas is installed."""
        import pandas as pd  # an optional convenience: Ledger itself has no use for it

        return pd.DataFrame({"step": self.step, "time": self.time, "value": self.value, "attempt": self.attempt})

    def _spans(self) -> Iterator[tuple[int, slice]]:
        """Where one attempt logged without another between. There are few, and millions of points."""
        start = 0
        for attempt, points in groupby(self.attempt):
            span = slice(start, start + len(list(points)))
            yield attempt, span
            start = span.stop

    def _take(self, spans: Iterable[slice]) -> Series:
        spans = list(spans)
        if spans == [slice(0, len(self))]:
            return self

        def taken(column: tuple[Value, ...]) -> tuple[Value, ...]:
            return tuple(chain.from_iterable(column[span] for span in spans))

        return Series(self.name, taken(self.step), taken(self.time), taken(self.value), taken(self.attempt))


def _up_to(limit: float, steps: tuple[float, ...], span: slice) -> Iterator[slice]:
    """The parts of a span whose steps do not go beyond the limit."""
    within = steps[span]
    if max(within) <= limit:
        yield span
    elif all(map(le, within, within[1:])):
        yield slice(span.start, span.start + bisect_right(within, limit))
    else:
        yield from (slice(i, i + 1) for i, step in enumerate(within, span.start) if step <= limit)


def limits(attempts: Iterable[int], resumed_at: Mapping[int, float | None]) -> dict[int, float]:
    """The last step of each attempt that counts: the lowest that any later attempt resumed from."""

    def limit(attempt: int) -> float:
        later = (-float("inf") if step is None else step for number, step in resumed_at.items() if number > attempt)
        return min(later, default=float("inf"))

    return {attempt: limit(attempt) for attempt in set(attempts)}
