"""TensorBoard: SummaryWriter of tensorboardX, which needs no torch, and TensorBoard's own EventAccumulator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tests.benchmarks import work
from tests.benchmarks.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Scalars:
    """The open event file."""

    def __init__(self, home: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(home / "events"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One call for each metric: a dictionary of them would make a file of each."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write out what waits."""
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()


class TensorboardWriter(Contestant):
    """One event file."""

    name = "TensorBoard SummaryWriter"
    distribution = "tensorboardX"
    cannot: ClassVar[Mapping[str, str]] = {"runs": "event files have no status and no configuration to ask for"}

    def start(self, home: Path) -> Scalars:
        """See ``Contestant``."""
        return Scalars(home)

    def points(self, home: Path) -> int:
        """See ``Contestant``."""
        events = _events(home)
        known = events.Tags()["scalars"]
        return sum(len(events.Scalars(name)) for name in work.METRICS if name in known)

    def prepare_reading(self) -> None:
        """See ``Contestant``."""
        from tensorboard.backend.event_processing import event_accumulator  # noqa: F401

    def series(self, home: Path, name: str) -> tuple[list[float], list[float]]:
        """Its values are float32."""
        found = _events(home).Scalars(name)
        return [event.step for event in found], [event.value for event in found]

    def commands(self, home: Path) -> Mapping[str, Sequence[str]]:
        """See ``Contestant``."""
        return {"help": (str(Path(sys.executable).with_name("tensorboard")), "--help")}


def _events(home: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(home / "events"), size_guidance={"scalars": 0})
    return events.Reload()


CONTESTANT: Final = TensorboardWriter()
