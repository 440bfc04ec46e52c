"""A user's directory, the processes in it, and the question whether its ledger is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ledger.book import Book, open_ledger
from ledger.events import CheckpointDeleted, CheckpointWritten, LogSealed, MetricsLogged, RunAnnotated, RunCompleted
from ledger.settings import find_settings
from ledger.store.projections.tables import TABLES
from ledger.store.sql import SqlStore
from ledger.trust.verify import verify
from ledger_trainer.demo import kill_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.codec import Recorded

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


Facts = Counter[tuple[str, str]]
"""Stream, and what stands in it: a metric at a step, the text of a note …; how often."""


class Place:
    """A directory with a ledger; ``acks`` beside it is where processes write down what they were told is safe."""

    def __init__(self, home: Path, url: str | None = None) -> None:
        self.home = home
        self.acks = home.with_name(home.name + ".acks")
        home.mkdir(exist_ok=True)
        self.acks.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEDGER_", "GIT_"))}
        self.environ = kept | {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "XDG_CONFIG_HOME": str(home.with_name("config")),
            "NO_COLOR": "1",
        }
        if url:
            self.environ["LEDGER_URL"] = url

    # --- processes

    def start(self, act: str, *words: object, **environ: str) -> subprocess.Popen[str]:
        """Start ``tests.faults.victim`` with an act, and wait until it has begun."""
        victim = self.popen(sys.executable, "-m", "tests.faults.victim", act, *map(str, words), **environ)
        assert victim.stdout is not None
        begun = victim.stdout.readline()
        assert begun == "begun\n", f"{act} did not begin: {begun}{victim.communicate()}"
        return victim

    def survey(self, act: str) -> dict[str, int]:
        """Every line of the code that writes which an act comes to, and how often."""
        file = self.home.with_name("survey.json")
        victim = self.start(act, "survey", file)
        ended(victim)
        lines: dict[str, int] = json.loads(file.read_text())
        return lines

    def popen(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        """Start a command in this directory, in a process group of its own."""
        return subprocess.Popen(
            words,
            cwd=self.home,
            env=self.environ | {"ACKS": str(self.acks)} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ledger(self, *words: str, code: int | None = 0) -> str:
        """A command of Ledger, to its end; what it printed."""
        process = self.popen("ledger", *words)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert code in (None, process.returncode), f"{words} ended with {process.returncode}\n{out}\n{err}"
        return out + err

    # --- what is there

    @contextmanager
    def book(self) -> Iterator[Book]:
        """The ledger, opened: what the dead left behind is taken over."""
        settings = find_settings(self.environ.get("LEDGER_URL"), start=self.home, environ=self.environ)
        with open_ledger(settings=settings) as book:
            yield book

    def acknowledged(self) -> Facts:
        """What the processes here were told is safe."""
        told: Facts = Counter()
        for file in self.acks.iterdir():
            # Even one write(2) may be cut off by SIGKILL, between two pages: what has no line feed was not said.
            *said, _ = file.read_text().split("\n")
            told.update((stream, fact) for stream, _, fact in (line.partition("\t") for line in said))
        return told

    def must_be_whole(self, *, in_flight: int = 1, trouble: bool = False) -> Facts:
        """Fail unless all that was acknowledged is there once, nothing else is, and the log and its lists are sound.

        ``in_flight`` is how many calls may have been cut off in the middle: their facts may be there, or not.
        """
        with self.book() as book:
            told, found = self.acknowledged(), facts(book)
            assert not told - found, "acknowledged facts are lost"
            assert not [fact for fact, times in found.items() if times > 1], "facts are there twice"
            assert len(found - told) <= in_flight, "facts are there that were never logged"
            assert verify(book).problems == []
            assert trouble or [r.trouble for r in book.recovered if r.trouble] == []
            assert trouble or not [*book.settings.journals.glob("*")]
        return found


def facts(book: Book) -> Facts:
    """All that the log holds of what a process here may have been told about."""
    return Counter((recorded.stream, fact) for recorded in book.store.read_all() for fact in _told(recorded))


def _told(recorded: Recorded) -> list[str]:
    match event := recorded.event:
        case MetricsLogged():
            return [
                f"{name} at {float(step)} of attempt {recorded.metadata.attempt}"
                for name, values in event.values.items()
                for step, value in zip(event.step, values, strict=True)
                if value is not None
            ]
        case RunAnnotated():
            return [event.text]
        case CheckpointWritten():
            return [f"checkpoint {event.uri}"]
        case CheckpointDeleted():
            return [f"deleted {event.uri}"]
        case LogSealed():
            return [f"seal of {event.size}"]
        case RunCompleted():
            return ["completed"]
        case _:
            return []


def projections(book: Book) -> dict[str, list[Any]]:
    """Every row of every projection."""
    store = book.store
    assert isinstance(store, SqlStore)
    with store._database.reading() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr) for table in TABLES
        }


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process, which must be a good one; what it said on stdout."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process and all that it has started, and wait until they are gone."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        kill_all(process.pid)
        psutil.wait_procs(children, timeout=PATIENCE_S)
    process.communicate(timeout=PATIENCE_S)
