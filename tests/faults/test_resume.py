"""Runs that are killed and resumed, by the real command line: one attempt at a time, and nothing lost or done twice."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest

from tests.faults.place import PATIENCE_S, Place, kill

STEPS = 100
TRAIN = """
import json, os, pathlib, sys, time
import ledger
from tests.faults.victim import Acks

acks = Acks()
with ledger.start_run() as run:
    start = 0
    if run.resumed_from:
        start = json.loads((run.resumed_from / "state.json").read_text())["step"] + 1
    for step in range(start, STEPS):
        run.log({"loss": 1 / (step + 1)}, step=step)
        acks.row(run, step, "loss")
        if step % 7 == 6:
            state = pathlib.Path(".ledger") / f"{run.id}-{run.attempt}-{step}"
            state.mkdir()
            (state / "state.json").write_text(json.dumps({"step": step}))
            acks("run-" + run.id, f"checkpoint {run.checkpoint(state, step=step).uri}")
        time.sleep(0.01)
""".replace("STEPS", str(STEPS))
ELSEWHERE = """
import os, time
import ledger
import ledger.book
from ledger.record import heartbeat

if "LEDGER_RUN" not in os.environ:  # the first attempt: on another host, of which only its lease can be seen from here
    ledger.book.HOST = "elsewhere"
    heartbeat.LEASE_S, heartbeat._BEAT_S = 1.0, 0.1
with ledger.start_run() as run:
    print("begun", flush=True)
    for step in range(10_000 if run.attempt == 1 else 5):
        run.log({"loss": 0.0}, step=step)
        if step % 10 == 0:
            run.annotate(f"{run.attempt} at {step}")
        time.sleep(0.005)
"""


@pytest.fixture
def place(place: Place) -> Place:
    (place.home / "train.py").write_text(TRAIN)
    (place.home / "elsewhere.py").write_text(ELSEWHERE)
    return place


def kill_during(place: Place, chance: random.Random, *words: str) -> None:
    """Start a command of Ledger and kill it with all its processes: at any moment, or while the training trains."""
    before = _said(place)
    command = place.popen("ledger", *words)
    if chance.random() < 0.7:
        deadline = time.monotonic() + PATIENCE_S
        while _said(place) == before and command.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    time.sleep(chance.uniform(0, 1.0))
    kill(command)


def _said(place: Place) -> int:
    return sum(file.stat().st_size for file in place.acks.iterdir())


@pytest.mark.slow
@pytest.mark.seeds(sample=1, all=30)
def test_a_training_is_killed_and_resumed_until_it_completes(place: Place, seed: int, chance: random.Random) -> None:
    kill_during(place, chance, "run", "--", "python", "train.py")
    while (status := status_of_the_run(place)) == "interrupted":
        place.must_be_whole(in_flight=20)
        if chance.random() < 0.6:
            kill_during(place, chance, "resume", "latest")
        else:
            place.ledger("resume", "latest")
    place.must_be_whole(in_flight=20)
    if status:
        with place.book() as book:
            state = book.run("latest")
            assert state.status == "completed", state.ended
            assert state.series("loss").step == tuple(range(STEPS))


def status_of_the_run(place: Place) -> str | None:
    """None where it was killed before it was on record."""
    with place.book() as book:
        return book.run("latest").status if book.names() else None


@pytest.mark.seeds(sample=1, all=10)
def test_of_several_resumes_at_once_one_wins(place: Place, seed: int, chance: random.Random) -> None:
    while not _said(place):
        kill_during(place, chance, "run", "--", "python", "train.py")
    rivals = [place.popen("ledger", "resume", "latest") for _ in range(3)]
    ends = [("".join(rival.communicate(timeout=PATIENCE_S)), rival.returncode) for rival in rivals]
    assert sorted(code for _, code in ends) == [0, 4, 4], ends
    assert all("resumed by another process" in said or "still trains" in said for said, code in ends if code), ends
    with place.book() as book:
        state = book.run("latest")
        assert (state.status, state.attempt.number) == ("completed", 2)
        assert state.series("loss").step == tuple(range(STEPS))
    place.must_be_whole(in_flight=20)


def test_an_attempt_that_was_taken_for_dead_is_fenced(place: Place) -> None:
    zombie = place.popen("python", "elsewhere.py")
    assert zombie.stdout is not None
    assert zombie.stdout.readline() == "begun\n"
    assert "still trains" in place.ledger("resume", "latest", code=4)
    _stop_outside_of_a_transaction(place, zombie)
    try:
        time.sleep(1.2)  # its lease is over then
        place.ledger("resume", "latest")
    finally:
        zombie.send_signal(signal.SIGCONT)
    _, err = zombie.communicate(timeout=PATIENCE_S)
    assert zombie.returncode == 1
    assert "FencedAttempt: attempt 1" in err
    shown = [json.loads(line) for line in place.ledger("log", "latest", "--json").splitlines()]
    [remark] = [fact["payload"]["text"] for fact in shown if "went on after" in fact["payload"].get("text", "")]
    assert remark.startswith("attempt 1 went on after attempt 2 had taken over")
    with place.book() as book:
        state = book.run("latest")
        assert (state.status, state.attempt.number) == ("completed", 2)
        assert [path.suffix for path in book.settings.journals.iterdir()] == [".fenced"]
    place.ledger("verify")


def _stop_outside_of_a_transaction(place: Place, process: subprocess.Popen[str]) -> None:
    """A process that is stopped while it holds SQLite's lock keeps everybody out: that is not what is tried here."""
    for _ in range(1000):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.02)  # a signal is not there at once
        with closing(sqlite3.connect(place.home / ".ledger/ledger.db", timeout=0, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)
                time.sleep(0.01)
            else:
                return
    pytest.fail("it never leaves its transaction")
