"""MLflow on an SQLite file with asynchronous logging."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from tests.benchmarks.contestants.mlflow_sqlite import MlflowRun, MlflowSqlite

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class MlflowAsyncRun(MlflowRun):
    """The active run; calls only queue."""

    synchronous = False


class MlflowAsync(MlflowSqlite):
    """The same store; what is at rest is read the same way."""

    name = "MLflow (SQLite, asynchronous)"
    cannot: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("series", "runs", "start"), "the same store and reader as the synchronous MLflow"
    )

    def start(self, home: Path) -> MlflowAsyncRun:
        """See ``Contestant``."""
        return MlflowAsyncRun(home)


CONTESTANT: Final = MlflowAsync()
