"""Attempts that begin under the process that records them, as launchers start its processes again."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import ledger
from ledger.errors import FencedAttempt, StoreUnavailable
from ledger.events import TrainingResumed
from ledger.record import command
from ledger.record.capture import gpu_time
from ledger.record.command import Request, record_command
from ledger.record.run import start_run
from ledger.record.take import take
from ledger.testing.builders import PROCESS

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.book import Book
    from ledger.codec import Draft

RESTARTED = """
import os
import ledger
os.environ |= {"RANK": "0", "TORCHELASTIC_RESTART_COUNT": "1"}
with ledger.current_run() as run:
    run.log({"attempt": run.attempt}, step=0)
"""


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LEDGER_")]:
        monkeypatch.delenv(name)
    return ledger.open_ledger()


def request(program: str, directory: Path) -> Request:
    words = [sys.executable, "-c", program]
    return Request("command", words, words, directory)


def test_the_end_is_that_of_the_newest_attempt_even_if_the_log_cannot_tell_which_it_is(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("the log is out of reach")

    monkeypatch.setattr(command, "read_run", away)
    outcome = record_command(book, request(RESTARTED, tmp_path))
    state = book.run(outcome.run_id)
    assert state.last_metrics == {"attempt": 2}
    assert (state.status, state.attempt.number) == ("completed", 2)
    assert state.attempt.ended
    assert not [*book.settings.scratch.rglob("begun-*")]


@pytest.mark.filterwarnings("ignore:facts wait in the journal")
def test_what_the_recorder_still_had_to_say_when_its_processes_began_anew_costs_no_end(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = book.append_drafts

    def unlucky(stream: str, drafts: list[Draft], **options: object) -> object:
        """The log is out of reach until the recorder closes its journal."""
        if threading.current_thread().name == "ledger-writer":
            raise StoreUnavailable("the log is out of reach")
        return append(stream, drafts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(book, "append_drafts", unlucky)
    monkeypatch.setattr(gpu_time, "_LOOK_S", 0.1)
    outcome = record_command(book, request("import time\ntime.sleep(1)\n" + RESTARTED, tmp_path))
    state = book.run(outcome.run_id)
    assert (state.status, state.attempt.number) == ("completed", 2)


def test_each_attempt_saves_in_a_place_of_its_own_and_clears_away_what_those_before_left(book: Book) -> None:
    with pytest.raises(FencedAttempt), start_run(book=book) as run:
        left = run.scratch / "step-4"
        left.mkdir(parents=True)
        foreign = run.scratch.with_name("another-1")
        foreign.mkdir()
        state = book.run(run.id)
        resumed = TrainingResumed(attempt=2, step=None, checkpoint=None, uri=None, process=PROCESS)
        take(book, state, [resumed], 2)
        assert not left.exists()
        assert foreign.exists()
        later = ledger.Run(book, book.run(run.id), attempt=2, rank=0, owned=False)
        assert later.scratch != run.scratch
        later.finish()
