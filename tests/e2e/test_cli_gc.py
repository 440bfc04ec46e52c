"""``ledger gc`` beside a training that goes on, and after a crash: what it takes, and what can still be replayed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.e2e.desk import PATIENCE_S, Desk

TRAIN = """
import pathlib, sys, time
import ledger

with ledger.current_run() as run:
    run.log({"loss": 1.0}, step=1)
    state = pathlib.Path("state")
    state.mkdir(exist_ok=True)
    (state / "weights").write_text("1")
    run.checkpoint(state, step=1)
    while pathlib.Path("wait").exists():
        time.sleep(0.1)
    pathlib.Path("out.txt").write_text("done")
"""


def age(place: Path) -> None:
    """Make all files there look two days old."""
    then = time.time() - 2 * 86_400
    for directory, folders, names in os.walk(place, topdown=False):
        for name in names + folders:
            os.utime(os.path.join(directory, name), (then, then), follow_symlinks=False)


@pytest.mark.slow
def test_a_dry_run_first_and_nothing_that_a_run_needs(desk: Desk) -> None:
    desk.write(train__py=TRAIN, __gitignore="state/\nout.txt\nwait\n")
    desk.ledger("init")
    desk.commit()
    desk.ledger("run", "--out", "out.txt", "--", "python", "train.py")
    ledger = desk.home / ".ledger"
    assert desk.ledger("gc").err.strip() == "there is nothing to remove"

    desk.ledger("doctor")  # leaves a probe
    (ledger / "objects/tmp/cut-off").write_bytes(b"12345")
    age(ledger)
    dry = desk.ledger("gc")
    assert [line.split() for line in dry.out.splitlines()[1:]] == [
        ["objects", *["its", "writing", "was", "never", "finished"], "1", "5", "B"],
        ["objects", *["no", "fact", "refers", "to", "it"], "1", "14", "B"],
    ]
    assert "nothing was removed: `ledger gc --apply`" in dry.err
    assert {waste["bytes"] for waste in desk.ledger("gc", "--json").json} == {5, 14}
    assert "removed 2 things, 19 B" in desk.ledger("gc", "--apply").err
    assert desk.ledger("gc").out == ""

    assert desk.ledger("verify").out.startswith("ok")
    assert desk.ledger("replay", "run-1").out.startswith("identical")


def test_a_training_that_goes_on_loses_nothing(desk: Desk) -> None:
    desk.write(train__py=TRAIN, wait="", __gitignore="state/\nout.txt\nwait\n")
    desk.ledger("init")
    desk.commit()
    training = desk.start("run", "--out", "out.txt", "--", "python", "train.py")
    desk.await_step(training, "run-1", 1)
    deadline = time.monotonic() + PATIENCE_S
    while not desk.ledger("checkpoints", "run-1", "--json").json and time.monotonic() < deadline:
        time.sleep(0.1)
    age(desk.home / ".ledger")
    assert desk.ledger("gc", "--apply", "--json").json == []
    (desk.home / "wait").unlink()
    assert training.wait(PATIENCE_S) == 0
    training.communicate()
    assert desk.ledger("verify").out.startswith("ok")
    assert desk.ledger("replay", "run-1").out.startswith("identical")


def test_hours_below_one_are_refused(desk: Desk) -> None:
    assert "0.5" in desk.ledger("gc", "--older-than", "0.5", code=2).err
