"""What was promised before anything was measured; never moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.benchmarks.contestant import OURS
from tests.benchmarks.measures.training import FINGERPRINTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.figures import Quantity, Table


@dataclass(frozen=True)
class Target:
    """A bound on one of Ledger's medians; where ``against`` names a peer's row, on the ratio to it."""

    measure: str
    quantity: str
    bound: float
    row: str = OURS
    against: str | None = None


@dataclass(frozen=True)
class Judged:
    """A target beside what was reached, in the quantity's unit or, against a peer, as a ratio."""

    target: Target
    quantity: Quantity
    reached: float | None

    @property
    def better(self) -> str:
        """Which way is better: a ratio to a peer says how many times better Ledger is."""
        return "higher" if self.target.against else self.quantity.better

    @property
    def met(self) -> bool:
        """Whether it was reached; not, where nothing was measured."""
        if self.reached is None:
            return False
        return self.reached <= self.target.bound if self.better == "lower" else self.reached >= self.target.bound

    @property
    def missed_by(self) -> float | None:
        """How many times worse than the bound; None where it was met or not measured."""
        if self.met or not self.reached:
            return None
        return self.reached / self.target.bound if self.better == "lower" else self.target.bound / self.reached


_RATES: Final = ("p50", "p99", "points/s with finish", "bytes/point")

TARGETS: Final = (
    Target("log", "p50", 5),
    Target("log", "p99", 20),
    Target("log", "points/s with finish", 500_000),
    Target("log", "bytes/point", 12),
    Target("kill", "lost, burst", 0),
    Target("kill", "lost, 1,000 calls/s", 0),
    *(Target("log", quantity, 2, against="trackio") for quantity in _RATES),
    *(Target("log", quantity, 10, against="wandb") for quantity in _RATES),
    Target("series", "seconds", 1),
    Target("training", "overhead", 0.5),
    Target("training", "overhead", 0.5, row=FINGERPRINTED),
    # Beside the difference of two loops, which on a busy machine is mostly noise.
    Target("training", "in the calls", 0.5),
    Target("training", "in the calls", 0.5, row=FINGERPRINTED),
    Target("checkpoint", "training waits", 10, against="torch.save"),
    Target("checkpoint", "until safe", 1, against="torch.save"),
    Target("replay", "replay / original", 1.05),
    Target("append", "8 writers", 100_000, row="PostgreSQL"),
    Target("verify", "checked", 300_000),
    Target("start", "help", 150),
    Target("start", "list", 500),
)


def judge(tables: Sequence[Table]) -> Iterator[Judged]:
    """The targets of the measures that ran."""
    for target in TARGETS:
        for table in tables:
            if table.measure == target.measure:
                quantity = next(q for q in table.quantities if q.name == target.quantity)
                if target.against:
                    reached = table.ratio(target.against, quantity, target.row)
                else:
                    reached = table.median(target.row, target.quantity)
                yield Judged(target, quantity, reached)
