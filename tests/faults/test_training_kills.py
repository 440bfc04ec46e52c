"""Trainings that are killed at random steps, and what that costs: nothing that was recorded, and no bit of the result.

A line that the training has printed about a step is its word that the step is on record.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from ledger.book import Book, open_ledger
from ledger.settings import find_settings
from ledger.trust.verify import verify
from ledger_trainer.demo import kill_all
from tests.e2e.desk import PATIENCE_S, Desk
from tests.engine_table import ENGINES, RECIPE, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.read.state import RunState

pytestmark = pytest.mark.timeout(900)
SAMPLE = ("fsdp",)
STEPS = 200
"""So many that there are some left when the kill, which takes a moment, has come."""
STRAIGHT = "run-1"
_STEP = re.compile(r"^step (\d+)/\d+ +train/loss", re.MULTILINE)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every engine with ``--faults=all``."""
    every = metafunc.config.getoption("faults", "sample") == "all"
    metafunc.parametrize("engine", list(ENGINES) if every else SAMPLE, indirect=True, scope="module")


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def desk(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A ledger in which the training went straight through once."""
    desk = Desk(tmp_path_factory.mktemp(engine))
    desk.write(recipe__toml=RECIPE)
    write_text(desk.home)
    desk.ledger(*train(engine))
    return desk


def train(engine: str) -> list[str]:
    return [*ENGINES[engine].train(), f"steps={STEPS}"]


@pytest.fixture
def book(desk: Desk) -> Iterator[Book]:
    with open_ledger(settings=find_settings(start=desk.home, environ=desk.environ)) as book:
        yield book


@pytest.mark.slow
@pytest.mark.seeds(sample=1, all=3)
def test_the_whole_group_is_killed(desk: Desk, book: Book, engine: str, seed: int, chance: random.Random) -> None:
    step = chance.randint(2, STEPS // 3)
    said = killed(desk, book, step, train(engine), kill_all)
    run = book.run("latest").name
    again = chance.randint(step, STEPS // 2)
    said += killed(desk, book, again, ["resume", run], kill_all)
    if book.run(run).status != "completed":  # it may have been faster than the kill
        desk.ledger("resume", run)
    must_be_as_if_never_killed(book, run, said, f"{engine}, group killed at {step} and {again}")


@pytest.mark.slow
@pytest.mark.seeds(sample=1, all=3)
def test_one_rank_is_killed_and_all_start_again(
    desk: Desk, book: Book, engine: str, seed: int, chance: random.Random
) -> None:
    step, rank = chance.randint(2, STEPS // 2), chance.randrange(ENGINES[engine].processes)

    def kill_one(pid: int) -> None:
        workers = [p for p in psutil.Process(pid).children(recursive=True) if _rank(p) == str(rank)]
        assert len(workers) == 1, workers
        workers[0].kill()

    said = killed(desk, book, step, [*train(engine), "--max-restarts", "2"], kill_one)
    run = book.run("latest")
    assert run.status == "completed"
    assert len(run.attempts) == 2
    must_be_as_if_never_killed(book, run.name, said, f"{engine}, rank {rank} killed at {step}")


@pytest.mark.thorough
@pytest.mark.seeds(sample=1, all=3)
def test_the_launcher_is_killed(desk: Desk, book: Book, engine: str, seed: int, chance: random.Random) -> None:
    if ENGINES[engine].processes == 1:
        pytest.skip("a single process has no launcher")
    step = chance.randint(2, STEPS // 2)

    def kill_launcher(pid: int) -> None:
        (launcher,) = psutil.Process(pid).children()
        launcher.kill()

    said = killed(desk, book, step, train(engine), kill_launcher)
    run = book.run("latest")
    assert run.status in ("interrupted", "failed")
    desk.ledger("resume", run.name)
    must_be_as_if_never_killed(book, run.name, said, f"{engine}, launcher killed at {step}")


def _rank(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        if "ledger_trainer" in process.cmdline():
            return process.environ().get("RANK")
    return None


def killed(desk: Desk, book: Book, step: int, words: list[str], kill: Callable[[int], object]) -> list[tuple[int, int]]:
    """Start a command, kill of it what ``kill`` does once a step is made, wait for its end.

    Returns the attempts and steps that it had told.
    """
    before = len(book.names())
    command = desk.start(*words)
    assert command.stdout is not None
    told: list[str] = []
    patience = threading.Timer(PATIENCE_S, kill_all, (command.pid,))
    patience.start()
    try:
        for line in command.stdout:
            told.append(line)
            found = _STEP.match(line)
            if found and int(found[1]) >= step:
                break
        kill(command.pid)
        told.append(_rest(command))
    finally:
        patience.cancel()
        if command.poll() is None:
            kill_all(command.pid)
            command.communicate()
    book.recover()
    if len(book.names()) == before and words[0] == "train":
        return []
    state = book.run("latest")
    # A line belongs to the attempt that was under way: of those that start again, steps begin anew.
    attempt = state.attempts[-1].number if words[0] == "resume" else 1
    said, last = [], 0
    for number in map(int, _STEP.findall("".join(told))):
        attempt += number <= last
        last = number
        said.append((attempt, number))
    return said


def _rest(command: subprocess.Popen[str]) -> str:
    try:
        return command.communicate(timeout=PATIENCE_S)[0]
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGABRT)
        raise


def must_be_as_if_never_killed(book: Book, run: str, said: list[tuple[int, int]], what: str) -> None:
    straight, state = book.run(STRAIGHT), book.run(run)
    assert state.status == "completed", state.ended
    assert said, "nothing was told before it was killed"
    logged = state.series("train/loss", effective=False)
    assert {*said} <= {*zip(logged.attempt, logged.step, strict=True)}, "acknowledged facts are lost"
    for metric in straight.metrics:
        one, other = straight.series(metric), state.series(metric)
        assert (one.step, one.value) == (other.step, other.value), metric
    assert state.fingerprints[-1] == straight.fingerprints[-1]
    assert state.fingerprints[-1].step == STEPS
    assert verify(book).problems == []
    print(f"{what}: {lost(state)}")


def lost(state: RunState) -> str:
    """Training time that the kills cost, as the log tells it."""
    series = state.series("train/loss", effective=False)
    points = list(zip(series.attempt, series.step, series.time, strict=True))
    steps, redone, idle = 0.0, 0.0, 0.0
    for before, after in zip(state.attempts, state.attempts[1:], strict=False):
        old = [(step, moment) for attempt, step, moment in points if attempt == before.number]
        new = [moment for attempt, _, moment in points if attempt == after.number]
        if not old:
            continue
        start = (after.resumed.step if after.resumed else None) or 0
        again = [moment for step, moment in old if step > start]
        steps += len(again)
        redone += max(again, default=0.0) - min(again, default=0.0)
        idle += (min(new) - old[-1][1]) if new else 0.0
    return f"{steps:.0f} steps trained again ({redone:.1f} s), {idle:.1f} s from the last step of the dead to the next"
