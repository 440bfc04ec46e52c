"""W&B offline: a transaction log that its own ``wandb leet inspect`` reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tests.benchmarks import work
from tests.benchmarks.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class WandbRun:
    """The open run, with everything off that is not logging."""

    def __init__(self, home: Path) -> None:
        import wandb

        settings = wandb.Settings(console="off", x_disable_stats=True, x_disable_machine_info=True, disable_git=True)
        self._run = wandb.init(mode="offline", dir=str(home), project="bench", settings=settings)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One call."""
        self._run.log(dict(metrics), step=step)

    def flush(self) -> None:
        """W&B has no call for it."""

    def finish(self) -> None:
        """End the run."""
        self._run.finish()


class WandbOffline(Contestant):
    """Offline runs in the working directory."""

    name = "W&B (offline)"
    distribution = "wandb"
    environ: ClassVar[Mapping[str, str]] = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    cannot: ClassVar[Mapping[str, str]] = {"runs": "offline runs are one file each; only a server lists them"}

    def start(self, home: Path) -> WandbRun:
        """See ``Contestant``."""
        return WandbRun(home)

    def points(self, home: Path) -> int:
        """See ``Contestant``."""
        return sum(name in item for item in _history(home) for name in work.METRICS)

    def series(self, home: Path, name: str) -> tuple[list[float], list[float]]:
        """See ``Contestant``."""
        found = [(item["_step"], item[name]) for item in _history(home) if name in item]
        return [step for step, _ in found], [value for _, value in found]

    def commands(self, home: Path) -> Mapping[str, Sequence[str]]:
        """See ``Contestant``."""
        return {"help": (str(Path(sys.executable).with_name("wandb")), "--help")}


def _history(home: Path) -> Iterator[dict[str, Any]]:
    program = Path(sys.executable).with_name("wandb")
    run = next((home / "wandb").glob("offline-run-*"))
    with subprocess.Popen((program, "leet", "inspect", "--json", run), stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        for line in reader.stdout:
            record = json.loads(line)
            if record["type"] == "history":
                yield record["history"]["item"]


CONTESTANT: Final = WandbOffline()
