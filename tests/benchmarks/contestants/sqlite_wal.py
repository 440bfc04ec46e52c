"""A floor: SQLite in WAL mode, a transaction for each call, through nothing but Python's own driver."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Final

from tests.benchmarks.catalogue import LOSS, LR, run_facts
from tests.benchmarks.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILE: Final = "metrics.db"
LIST: Final = "SELECT name, status, loss, accuracy FROM run ORDER BY rowid"


class Table:
    """The open database."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS point (step INTEGER, time REAL, metrics TEXT)")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One row, committed."""
        self._connection.execute("INSERT INTO point VALUES (?, ?, ?)", (step, time.time(), json.dumps(metrics)))

    def flush(self) -> None:
        """Nothing waits."""

    def finish(self) -> None:
        """Close, which takes the write-ahead log in."""
        self._connection.close()


class SqliteWal(Contestant):
    """One table."""

    name = "SQLite transaction per call (floor)"
    series_points = 1_000_000

    def start(self, home: Path) -> Table:
        """See ``Contestant``."""
        return Table(home / FILE)

    def points(self, home: Path) -> int:
        """See ``Contestant``."""
        rows = sqlite3.connect(home / FILE).execute("SELECT metrics FROM point")
        return sum(len(json.loads(metrics)) for (metrics,) in rows)

    def series(self, home: Path, name: str) -> tuple[list[float], list[float]]:
        """See ``Contestant``."""
        rows = sqlite3.connect(home / FILE).execute("SELECT step, metrics FROM point ORDER BY rowid").fetchall()
        return [step for step, _ in rows], [json.loads(metrics)[name] for _, metrics in rows]

    def write_runs(self, home: Path, runs: int) -> None:
        """One row a run."""
        with sqlite3.connect(home / FILE) as connection:
            connection.execute("CREATE TABLE run (name TEXT, status TEXT, lr REAL, loss REAL, accuracy REAL)")
            rows = ((run.name, run.status, run.lr, run.loss, run.accuracy) for run in run_facts(runs))
            connection.executemany("INSERT INTO run VALUES (?, ?, ?, ?, ?)", rows)

    def list_runs(self, home: Path) -> list[str]:
        """See ``Contestant``."""
        return [row[0] for row in sqlite3.connect(home / FILE).execute(LIST).fetchall()]

    def filter_runs(self, home: Path) -> list[str]:
        """See ``Contestant``."""
        query = "SELECT name FROM run WHERE loss < ? AND lr >= ? AND status = 'completed' ORDER BY loss"
        return [name for (name,) in sqlite3.connect(home / FILE).execute(query, (LOSS, LR))]

    def commands(self, home: Path) -> Mapping[str, Sequence[str]]:
        """The interpreter, the query and a line for each row."""
        program = f"import sqlite3\nfor row in sqlite3.connect({str(home / FILE)!r}).execute({LIST!r}): print(*row)"
        return {"list": (sys.executable, "-c", program)}


CONTESTANT: Final = SqliteWal()
