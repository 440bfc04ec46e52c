"""A floor: the least that survives SIGKILL, one JSON line and one write(2) for each call."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, ClassVar, Final

from tests.benchmarks.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILE: Final = "metrics.jsonl"


class Lines:
    """The open file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One line."""
        os.write(self._file, json.dumps({"step": step, "time": time.time(), **metrics}).encode() + b"\n")

    def flush(self) -> None:
        """Nothing waits."""

    def finish(self) -> None:
        """Close."""
        os.close(self._file)


class Line(Contestant):
    """One file."""

    name = "one write(2) per call (floor)"
    series_points = 1_000_000
    cannot: ClassVar[Mapping[str, str]] = {"runs": "one file knows one run"}

    def start(self, home: Path) -> Lines:
        """See ``Contestant``."""
        return Lines(home / FILE)

    def points(self, home: Path) -> int:
        """See ``Contestant``."""
        with (home / FILE).open() as lines:
            return sum(len(json.loads(line)) - 2 for line in lines)

    def series(self, home: Path, name: str) -> tuple[list[float], list[float]]:
        """See ``Contestant``."""
        with (home / FILE).open() as lines:
            rows = [json.loads(line) for line in lines]
        return [row["step"] for row in rows], [row[name] for row in rows]

    def commands(self, home: Path) -> Mapping[str, Sequence[str]]:
        """The interpreter alone."""
        return {"help": (sys.executable, "-c", "pass")}


CONTESTANT: Final = Line()
