"""trackio in a local directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tests.benchmarks import work
from tests.benchmarks.catalogue import LOSS, LR, run_facts
from tests.benchmarks.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROJECT: Final = "bench"


class TrackioRun:
    """The open run, with everything off that is not logging."""

    def __init__(self, home: Path) -> None:
        trackio = _trackio(home)
        self._run = trackio.init(project=PROJECT, embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One call."""
        self._run.log(dict(metrics), step=step)

    def flush(self) -> None:
        """trackio has no public call for it."""

    def finish(self) -> None:
        """End the run."""
        self._run.finish()


class TrackioLocal(Contestant):
    """Its SQLite file, in the working directory instead of the user's cache."""

    name = "trackio"
    distribution = "trackio"
    environ: ClassVar[Mapping[str, str]] = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def start(self, home: Path) -> TrackioRun:
        """See ``Contestant``."""
        return TrackioRun(home)

    def points(self, home: Path) -> int:
        """See ``Contestant``."""
        try:
            runs = list(_runs(home))
        except ValueError:  # killed before it had made its database
            return 0
        return sum(name in row for run in runs for row in _logs(home, run) for name in work.METRICS)

    def prepare_reading(self) -> None:
        """See ``Contestant``."""
        _trackio(Path.cwd())

    def series(self, home: Path, name: str) -> tuple[list[float], list[float]]:
        """See ``Contestant``."""
        rows = sorted((row["step"], row[name]) for row in _logs(home, _runs(home)[0]) if name in row)
        return [step for step, _ in rows], [value for _, value in rows]

    def write_runs(self, home: Path, runs: int) -> None:
        """By the call that trackio's own importers use; it knows no status, so that is configuration."""
        _trackio(home)
        from trackio.sqlite_storage import SQLiteStorage

        for facts in run_facts(runs):
            SQLiteStorage.bulk_log(
                PROJECT,
                facts.name,
                [{"val/loss": facts.loss, "val/accuracy": facts.accuracy}],
                steps=[facts.steps],
                config={"lr": facts.lr, "status": facts.status},
            )

    def list_runs(self, home: Path) -> list[str]:
        """See ``Contestant``."""
        return list(_overview(home))

    def filter_runs(self, home: Path) -> list[str]:
        """It has no query for runs: all are looked at."""
        losses = {
            name: metrics["val/loss"]
            for name, (config, metrics) in _overview(home).items()
            if config["status"] == "completed" and config["lr"] >= LR and metrics["val/loss"] < LOSS
        }
        return sorted(losses, key=losses.__getitem__)

    def commands(self, home: Path) -> Mapping[str, Sequence[str]]:
        """See ``Contestant``."""
        os.environ["TRACKIO_DIR"] = str(home / "trackio")
        program = str(Path(sys.executable).with_name("trackio"))
        return {"help": (program, "--help"), "list": (program, "list", "runs", "--project", PROJECT)}


def _trackio(home: Path) -> Any:
    os.environ["TRACKIO_DIR"] = str(home / "trackio")  # read when it is imported
    import trackio

    return trackio


def _runs(home: Path) -> Any:
    return _trackio(home).Api().runs(PROJECT)


def _logs(home: Path, run: Any) -> list[dict[str, Any]]:
    from trackio.sqlite_storage import SQLiteStorage

    rows: list[dict[str, Any]] = SQLiteStorage.get_logs(PROJECT, run.name, run_id=run.id)
    return rows


def _overview(home: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Configuration and last metrics of each run, by the calls that its dashboard makes."""
    runs = _runs(home)
    from trackio.sqlite_storage import SQLiteStorage

    configs = SQLiteStorage.get_all_run_configs(PROJECT)
    logs = SQLiteStorage.get_logs_batch(PROJECT, [{"run": run.name, "run_id": run.id} for run in runs])
    return {found["run"]: (configs[found["run"]], found["logs"][-1]) for found in logs}


CONTESTANT: Final = TrackioLocal()
