"""What a measure found out, before anybody formats it."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Quantity:
    """A column of a table."""

    name: str
    unit: str
    better: Better
    compared: bool = True
    """Whether a ratio to Ledger's figure says anything."""


@dataclass
class Table:
    """One measure: a row for each contestant, a column for each quantity, all samples kept."""

    measure: str
    title: str
    about: str
    """What was done, and on how much, in a sentence or two."""
    quantities: tuple[Quantity, ...]
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Contestant -> quantity -> one figure for each round."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Contestant -> why it has no figures."""

    def add(self, row: str, figures: dict[str, float]) -> None:
        """One round's figures of a contestant."""
        for quantity, value in figures.items():
            self.samples.setdefault(row, {}).setdefault(quantity, []).append(value)

    def median(self, row: str, quantity: str) -> float | None:
        """Median over the rounds; None where there is no figure."""
        values = self.samples.get(row, {}).get(quantity)
        return median(values) if values else None

    def ratio(self, row: str, quantity: Quantity, ours: str) -> float | None:
        """How many times worse than ``ours`` the row is; below 1 where it is better, None where that says nothing."""
        theirs, own = self.median(row, quantity.name), self.median(ours, quantity.name)
        if not quantity.compared or theirs is None or not own or theirs <= 0 or own < 0:
            return None
        return theirs / own if quantity.better == "lower" else own / theirs
