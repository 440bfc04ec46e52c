"""What a contestant must be able to do: one small class for each tool, under ``contestants/``.

The measures call it in a fresh process with ``home`` as the working directory; what it writes goes there. ``start``
and the first ``log`` come in one process, ``points`` and ``series`` in another, so that only what is on disk counts.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from tests.benchmarks import work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Logging(Protocol):
    """An open run. Call order: ``log`` any number of times, ``flush`` at will, ``finish`` once."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step, in the way that the tool's own documentation shows."""

    def flush(self) -> None:
        """Return when what was logged so far has been handled, where the tool has a call for that."""

    def finish(self) -> None:
        """End the run; what it logged is at rest when this returns."""


class Unavailable(Exception):
    """The contestant, or Ledger as it stands, cannot do this; the message says why."""


class Contestant:
    """A tool that records metrics. What ``cannot`` names is shown as a reason, not measured."""

    name: ClassVar[str]
    """As the tables show it."""
    distribution: ClassVar[str | None] = None
    """The package whose version is reported; None for a floor."""
    environ: ClassVar[Mapping[str, str]] = {}
    """Variables that its processes get: no telemetry, no questions, no network."""
    cannot: ClassVar[Mapping[str, str]] = {}
    """Measure -> why there is nothing to measure."""
    series_points: ClassVar[int] = 100_000
    """Length of the series that is read back; the rate is what is compared."""
    rounds: ClassVar[int | None] = None
    """Most repetitions of a measure, for a tool that takes a minute for each; None: as many as the others."""

    def start(self, home: Path) -> Logging:
        """Start a run."""
        raise NotImplementedError

    def prepare_reading(self) -> None:
        """Import what ``series``, ``list_runs`` and ``filter_runs`` need: before the clock starts."""

    def points(self, home: Path) -> int:
        """How many points the tool's own reader finds in all, whatever became of the process that logged them."""
        raise NotImplementedError

    def write_series(self, home: Path, name: str, points: int) -> None:
        """Log one metric at steps 0, 1, …; by the tool's bulk call where it has one, since this is not timed."""
        run = self.start(home)
        for step in range(points):
            run.log({name: work.series_value(step)}, step)
        run.finish()

    def series(self, home: Path, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of one metric, by the tool's own reader."""
        raise NotImplementedError

    def write_runs(self, home: Path, runs: int) -> None:
        """Finished runs with the facts of ``catalogue.run_facts``; in bulk where it can be, since this is not timed."""
        raise NotImplementedError

    def list_runs(self, home: Path) -> list[str]:
        """Names of all runs, once each one's status and last metrics are in memory too."""
        raise NotImplementedError

    def filter_runs(self, home: Path) -> list[str]:
        """Names of the runs that ``catalogue`` asks for, in the order it asks for."""
        raise NotImplementedError

    def commands(self, home: Path) -> Mapping[str, Sequence[str]]:
        """Command lines whose start is timed, by the columns of ``measures.start``; no figure for those left out."""
        return {}

    @property
    def version(self) -> str | None:
        """Version of what is installed; None for a floor. Raises ``Unavailable``."""
        if self.distribution is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            raise Unavailable(f"{self.distribution} is not installed") from None


MODULES: Final = {
    "ledger": "training_ledger",
    "line": "line",
    "sqlite": "sqlite_wal",
    "trackio": "trackio_local",
    "wandb": "wandb_offline",
    "neptune": "neptune_offline",
    "tensorboard": "tensorboard_writer",
    "mlflow": "mlflow_sqlite",
    "mlflow-async": "mlflow_async",
}
"""Key on the command line -> module under ``contestants/`` whose ``CONTESTANT`` it is, in the order of the tables."""

OURS: Final = "ledger"
"""What the ratios are of."""


def find(key: str) -> Contestant:
    """The contestant. Its module imports its tool only when asked to do something."""
    module = importlib.import_module(f"tests.benchmarks.contestants.{MODULES[key]}")
    found: Contestant = module.CONTESTANT
    return found
