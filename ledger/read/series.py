"""The series of one metric, with the attempts of a run told apart.

A run that was killed after step 480 and resumed from the checkpoint of step 450 has two values for steps 451 to
480. Both are facts and both are kept; the *effective* series is what a run that was never killed would show: of
each attempt only what lies at or before the step that the next one resumed from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


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
        keep = [i for i, (s, a) in enumerate(zip(self.step, self.attempt, strict=True)) if s <= limit[a]]
        return self._take(keep)

    def of_attempt(self, attempt: int) -> Series:
        """Only the points of one attempt."""
        return self._take([i for i, a in enumerate(self.attempt) if a == attempt])

    def to_pandas(self) -> Any:
        """The columns as a pandas DataFrame, where pandas is installed."""
        import pandas as pd  # an optional convenience: Ledger itself has no use for it

        return pd.DataFrame({"step": self.step, "time": self.time, "value": self.value, "attempt": self.attempt})

    def _take(self, rows: list[int]) -> Series:
        return Series(
            self.name,
            tuple(self.step[i] for i in rows),
            tuple(self.time[i] for i in rows),
            tuple(self.value[i] for i in rows),
            tuple(self.attempt[i] for i in rows),
        )


def limits(attempts: Iterable[int], resumed_at: Mapping[int, float | None]) -> dict[int, float]:
    """The last step of each attempt that counts: the lowest that any later attempt resumed from."""

    def limit(attempt: int) -> float:
        later = (-float("inf") if step is None else step for number, step in resumed_at.items() if number > attempt)
        return min(later, default=float("inf"))

    return {attempt: limit(attempt) for attempt in set(attempts)}
