"""Neptune offline: the queue of operations on disk, read by the class that its own ``neptune sync`` reads it with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from tests.benchmarks import work
from tests.benchmarks.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class NeptuneRun:
    """The open run, with everything off that is not logging."""

    def __init__(self) -> None:
        import neptune

        self._run = neptune.init_run(
            mode="offline",
            project="bench/bench",
            capture_stdout=False,
            capture_stderr=False,
            capture_traceback=False,
            capture_hardware_metrics=False,
            git_ref=False,
            source_files=[],
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One append for each metric, as its documentation shows."""
        for name, value in metrics.items():
            self._run[name].append(value, step=step)

    def flush(self) -> None:
        """Offline there is nobody to wait for."""

    def finish(self) -> None:
        """End the run."""
        self._run.stop()


class NeptuneOffline(Contestant):
    """``.neptune`` in the working directory."""

    name = "Neptune 1.x (offline)"
    distribution = "neptune"
    cannot: ClassVar[Mapping[str, str]] = {"runs": "offline runs could only be uploaded, and the service is gone"}

    def start(self, home: Path) -> NeptuneRun:
        """See ``Contestant``."""
        return NeptuneRun()

    def points(self, home: Path) -> int:
        """See ``Contestant``."""
        return sum(name in work.METRICS for name, _, _ in _appended(home))

    def prepare_reading(self) -> None:
        """See ``Contestant``."""
        import neptune.internal.operation  # noqa: F401

    def series(self, home: Path, name: str) -> tuple[list[float], list[float]]:
        """See ``Contestant``."""
        found = [(step, value) for metric, step, value in _appended(home) if metric == name]
        return [step for step, _ in found], [value for _, value in found]

    def commands(self, home: Path) -> Mapping[str, Sequence[str]]:
        """See ``Contestant``."""
        return {"help": (str(Path(sys.executable).with_name("neptune")), "--help")}


def _appended(home: Path) -> Iterator[tuple[str, float, float]]:
    """Metric, step and value of each append."""
    import threading

    from neptune.core.components.queue.disk_queue import DiskQueue
    from neptune.internal.operation import LogFloats, Operation

    run = next((home / ".neptune" / "offline").glob("run__*"))
    queue = DiskQueue(run, lambda operation: operation.to_dict(), Operation.from_dict, threading.RLock())
    while found := queue.get():
        if isinstance(found.obj, LogFloats):
            for point in found.obj.values:
                yield "/".join(found.obj.path), point.step, point.value


CONTESTANT: Final = NeptuneOffline()
