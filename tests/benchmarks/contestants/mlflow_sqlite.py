"""MLflow on an SQLite file, synchronous, its default."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tests.benchmarks import work
from tests.benchmarks.catalogue import LOSS, LR, run_facts
from tests.benchmarks.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXPERIMENT: Final = "bench"
BATCH: Final = 1_000
"""Most metrics that MLflow takes in one batch."""


class MlflowRun:
    """The active run."""

    synchronous = True

    def __init__(self, home: Path) -> None:
        import mlflow

        self._mlflow = mlflow
        use(home)
        mlflow.set_experiment(EXPERIMENT)
        mlflow.start_run()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One call of the fluent API."""
        self._mlflow.log_metrics(dict(metrics), step=step, synchronous=self.synchronous)

    def flush(self) -> None:
        """Wait for the queue, where there is one."""
        if not self.synchronous:
            self._mlflow.flush_async_logging()

    def finish(self) -> None:
        """End the run."""
        self.flush()
        self._mlflow.end_run()


class MlflowSqlite(Contestant):
    """A tracking store in the working directory, without a server."""

    name = "MLflow (SQLite, synchronous)"
    distribution = "mlflow"
    environ: ClassVar[Mapping[str, str]] = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    rounds = 1

    def start(self, home: Path) -> MlflowRun:
        """See ``Contestant``."""
        return MlflowRun(home)

    def points(self, home: Path) -> int:
        """See ``Contestant``."""
        client = use(home)
        return sum(len(client.get_metric_history(_latest(client), name)) for name in work.METRICS)

    def prepare_reading(self) -> None:
        """See ``Contestant``."""
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    def write_series(self, home: Path, name: str, points: int) -> None:
        """In MLflow's own batches."""
        from mlflow.entities import Metric

        run = self.start(home)
        client = use(home)
        for first in range(0, points, BATCH):
            batch = [
                Metric(name, work.series_value(step), 0, step) for step in range(first, min(first + BATCH, points))
            ]
            client.log_batch(_latest(client), batch, synchronous=True)
        run.finish()

    def series(self, home: Path, name: str) -> tuple[list[float], list[float]]:
        """See ``Contestant``."""
        client = use(home)
        history = client.get_metric_history(_latest(client), name)
        return [point.step for point in history], [point.value for point in history]

    def write_runs(self, home: Path, runs: int) -> None:
        """One run by the API for the schema and the shape of a row, the others as copies: the API takes minutes."""
        run = self.start(home)
        run.log({"val/loss": 0.0, "val/accuracy": 0.0}, 0)
        run._mlflow.log_param("lr", 0.0)
        run.finish()
        with sqlite3.connect(home / "mlflow.db") as database:
            database.row_factory = sqlite3.Row
            first = database.execute("SELECT * FROM runs").fetchone()["run_uuid"]
            for table in ("runs", "metrics", "latest_metrics", "params", "tags"):
                rows = [dict(row) for row in database.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (first,))]
                _write(database, table, [copy for row in rows for copy in _copies(table, row, runs)])
                database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (first,))

    def list_runs(self, home: Path) -> list[str]:
        """See ``Contestant``."""
        return _search(home)

    def filter_runs(self, home: Path) -> list[str]:
        """Parameters are text in MLflow and do not compare as numbers, so the copies hold lr as a metric."""
        return _search(
            home,
            filter_string=f"metrics.`val/loss` < {LOSS} and metrics.lr >= {LR} and attributes.status = 'FINISHED'",
            order_by=["metrics.`val/loss` ASC"],
        )

    def commands(self, home: Path) -> Mapping[str, Sequence[str]]:
        """See ``Contestant``."""
        program = str(Path(sys.executable).with_name("mlflow"))
        return {"help": (program, "--help")}


def use(home: Path) -> Any:
    """MLflow's client of the store in ``home``."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    return mlflow.MlflowClient()


def _latest(client: Any) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return str(client.search_runs([experiment.experiment_id], max_results=1)[0].info.run_id)


def _search(home: Path, **question: Any) -> list[str]:
    client = use(home)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    found = client.search_runs([experiment], max_results=50_000, **question)
    return [run.info.run_name for run in found]


def _copies(table: str, row: dict[str, Any], runs: int) -> list[dict[str, Any]]:
    """The row once for each run of the catalogue, with that run's facts in it."""
    copies = []
    for number, facts in enumerate(run_facts(runs), 1):
        copy = row | {"run_uuid": f"{number:032x}"}
        if table == "runs":
            status = "FINISHED" if facts.status == "completed" else "FAILED"
            copy |= {"name": facts.name, "status": status, "start_time": row["start_time"] + number}
        elif table in ("metrics", "latest_metrics"):
            copy |= {"value": facts.loss if row["key"] == "val/loss" else facts.accuracy, "step": facts.steps}
            if row["key"] == "val/loss":
                copies.append(copy | {"key": "lr", "value": facts.lr})
        elif table == "params":
            copy["value"] = repr(facts.lr)
        elif row["key"] == "mlflow.runName":
            copy["value"] = facts.name
        copies.append(copy)
    return copies


def _write(database: sqlite3.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    names = ", ".join(f'"{column}"' for column in columns)
    marks = ", ".join("?" * len(columns))
    values = [[row[column] for column in columns] for row in rows]
    database.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)


CONTESTANT: Final = MlflowSqlite()
