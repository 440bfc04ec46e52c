"""SIGKILL at any moment: what was acknowledged is there once, and everything is sound.

By the clock, in the middle of whatever a busy process does most; and by the line, so that each of the places between
two lines is as likely as another, however short the time that is spent there.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import pytest

from ledger.codec import Metadata, new_id
from ledger.journal.facts import RowWriter
from ledger.journal.file import Journal
from ledger.store.base import run_stream
from ledger.testing.builders import resumed, run_started
from tests.faults.place import PATIENCE_S, Place, kill


@pytest.mark.seeds(sample=1, all=30)
@pytest.mark.parametrize("act", ["log", "drain", "checkpoint", "append", "sealing"])
def test_killed_by_the_clock(place: Place, act: str, seed: int, chance: random.Random) -> None:
    victim = place.start(act)
    time.sleep(chance.uniform(0, 0.6))
    kill(victim)
    place.must_be_whole(in_flight=50 if act == "append" else 2)


# --- by the line


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Every line that a whole journey comes to, and how often."""
    place = Place(tmp_path_factory.mktemp("survey") / "home")
    return place.survey("journey")


@pytest.mark.seeds(sample=6, all=120)
def test_killed_at_a_line(place: Place, lines: dict[str, int], seed: int, chance: random.Random) -> None:
    line = chance.choice(sorted(lines))
    kill_at(place, "journey", line, chance.randint(1, lines[line]))
    place.must_be_whole(in_flight=2)


def kill_at(place: Place, act: str, line: str, times: int) -> None:
    victim = place.start(act, "die_at", line, times)
    _, err = victim.communicate(timeout=PATIENCE_S)
    # A thread may come to a line less often than it did in the survey.
    assert victim.returncode in (-signal.SIGKILL, 0), err


@pytest.fixture(scope="module")
def recovery_lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Every line that taking over the journals of the dead comes to."""
    place = Place(tmp_path_factory.mktemp("survey") / "home")
    leave_journals(place)
    return place.survey("recover")


@pytest.mark.seeds(sample=4, all=40)
def test_killed_at_a_line_while_it_takes_over_what_the_dead_left(
    place: Place, recovery_lines: dict[str, int], seed: int, chance: random.Random
) -> None:
    left = leave_journals(place)
    for _ in range(2):
        line = chance.choice(sorted(recovery_lines))
        kill_at(place, "recover", line, chance.randint(1, recovery_lines[line]))
    found = place.must_be_whole(in_flight=10_000, trouble=True)
    with place.book() as book:
        assert Counter(path.suffix for path in book.settings.journals.glob("*")) == {".damaged": 1, ".fenced": 1}
        for name, stream in left.items():
            remarks = [fact for of, fact in found if of == stream and "process" in fact]
            rows = [fact for of, fact in found if of == stream and fact.startswith("loss")]
            assert (len(rows), len(remarks)) == {
                "whole": (50, 0),
                "torn": (49, 0),
                "damaged": (30, 1),
                "fenced": (0, 1),
            }[name]


def leave_journals(place: Place) -> dict[str, str]:
    """Journals of four dead writers; the streams of their runs."""
    streams = {}
    with place.book() as book:
        for name in ("whole", "torn", "damaged", "fenced"):
            run = new_id()
            streams[name] = run_stream(run)
            book.append(run, run_started(name=book.store.name_run(run_stream(run))), attempt=1)
            journal = Journal.create(book.settings.journals, run_stream(run), Metadata("run", "x", 1, "0", attempt=1))
            rows = RowWriter(journal)
            for step in range(50):
                if step == 30:
                    middle = journal.size()
                rows.add(step, 1e9, {"loss": 1.0})
            if name == "torn":
                os.truncate(journal.path, journal.size() - 1)
            if name == "damaged":
                with journal.path.open("r+b") as file:
                    file.seek(middle + 20)
                    file.write(b"\xff")
            if name == "fenced":
                book.append(run, resumed(2, None), attempt=2)
            journal.close()
    return streams
