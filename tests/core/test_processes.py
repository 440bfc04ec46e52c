"""Which process is meant, whatever the clock says and however often a pid is used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ledger import processes
from ledger.book import HOST, Book, open_ledger, this_process
from ledger.codec import new_id
from ledger.events import Process
from ledger.processes import lives, start_of
from ledger.store.base import run_stream
from ledger.testing.builders import run_started

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="what Linux tells")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with open_ledger(str(tmp_path)) as book:
        yield book


def test_a_process_lives_until_it_has_ended_though_nobody_has_asked_how(other: subprocess.Popen[bytes]) -> None:
    start = start_of(other.pid)
    assert start is not None
    assert lives(other.pid, start) is True
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie
    assert start_of(other.pid) is None
    assert lives(other.pid, start) is False
    other.wait()
    assert lives(other.pid, start) is False


def test_a_later_process_with_the_same_pid_is_another(other: subprocess.Popen[bytes]) -> None:
    mine = start_of(os.getpid())
    assert mine is not None
    assert lives(other.pid, mine) is False
    assert lives(2**70, mine) is False


@LINUX
def test_a_clock_that_is_set_changes_nothing(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    me = this_process()
    before = psutil.Process().create_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: time.time() - 5)
    assert abs(psutil.Process().create_time() - before) > 1  # so this is what setting the clock looks like
    assert book.alive(me) is True
    assert this_process() == me


@LINUX
@pytest.mark.parametrize("here", ["the-next-boot pid:[4026531836]", "{boot} pid:[1]"], ids=["boot", "container"])
def test_what_cannot_be_seen_from_here_is_known_by_its_lease(
    book: Book, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    """A container with the name of this host, or this host after it was started again."""
    me, run = this_process(), new_id()
    boot = me.started.split()[1]
    monkeypatch.setattr(processes, "_place", lambda: here.format(boot=boot))
    assert book.alive(me) is None
    assert lives(me.pid, me.started) is None
    book.append(run, run_started(process=me), attempt=1)
    assert book.run(run).status == "interrupted"  # it died before it gave a sign of life
    book.store.renew_lease(run_stream(run), "me", 1, 60)
    assert book.run(run).status == "running"
    assert [summary.status for summary in book.runs()] == ["running"]


def test_one_on_another_host_cannot_be_seen(book: Book) -> None:
    assert book.alive(Process(host=f"not-{HOST}", pid=os.getpid(), started=this_process().started)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of somebody else")
def test_somebody_elses_process_is_seen(other: subprocess.Popen[bytes]) -> None:
    start = start_of(other.pid)
    assert start is not None
    earlier = f"1 {start.partition(' ')[2]}"
    look = f"""
import os, pathlib
from ledger.processes import lives
os.setuid(65534)
print(lives({other.pid}, {start!r}), lives({other.pid}, {earlier!r}))
"""
    seen = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert seen.stdout == "True False\n"
