"""A training on two nodes, which are two commands on this machine: one run, recorded by the first of them."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from ledger.book import open_ledger
from ledger.errors import LedgerError
from ledger.record.join import join_command
from ledger.record.world import Asked
from ledger.settings import find_settings
from tests.e2e.desk import PATIENCE_S, Desk
from tests.engine_table import RECIPE, write_text

if TYPE_CHECKING:
    import subprocess


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.write(recipe__toml=RECIPE, __gitignore="kjv.txt\n")
    write_text(desk.home)
    desk.commit()
    desk.ledger("init")
    return desk


def nodes() -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ["--nnodes", "2", "--rdzv-id", "ours", "--rdzv-endpoint", f"127.0.0.1:{port}"]


def ended(command: subprocess.Popen[str], code: int = 0) -> str:
    try:
        told = command.communicate(timeout=PATIENCE_S)[0]
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
    assert command.returncode == code, told
    return told


@pytest.mark.slow
def test_the_second_node_joins_the_run_of_the_first(desk: Desk) -> None:
    meeting = nodes()
    both = ["train", "recipe.toml", "steps=400", "--nproc", "2", *meeting]
    second = desk.start(*both, "--node-rank", "1")  # it may come first, and waits
    first = desk.start(*both, "--node-rank", "0")
    desk.await_step(first, "run-1", 1)
    second.send_signal(signal.SIGTERM)  # whichever is told to stop, all stop after the same step
    ended(second, code=130)
    ended(first, code=130)
    (run,) = desk.ledger("ls", "--json").json
    assert run["status"] == "interrupted"
    kept = max(checkpoint["step"] for checkpoint in desk.ledger("checkpoints", "run-1", "--json").json)
    assert kept == max(desk.metrics("run-1"))

    second = desk.start("resume", "run-1", *meeting, "--node-rank", "1")
    first = desk.start("resume", "run-1", *meeting)
    ended(first)
    ended(second)
    facts = desk.ledger("log", "run-1", "--json").json
    (resumed,) = [fact["payload"] for fact in facts if fact["type"] == "training.resumed"]
    assert resumed["step"] == kept
    (begun,) = [fact["payload"]["world"] for fact in facts if fact["type"] == "run.started"]
    assert (begun["processes"], begun["nodes"], begun["launcher"]) == (2, 2, "torchrun")
    assert {"--rdzv-id=ours", "--node-rank=0"} <= {*begun["options"]}
    assert sum(fact["type"] == "console.captured" for fact in facts) == 4  # of both nodes, twice
    (shown,) = desk.ledger("show", "run-1", "--json").json
    assert shown["status"] == "completed"
    assert len(desk.ledger("ls", "--json").json) == 1

    # What two nodes have trained, one machine trains bit for bit.
    desk.ledger("train", "recipe.toml", "steps=400", "--nproc", "2")
    assert desk.fingerprints("run-2") == desk.fingerprints("run-1")


def test_a_node_whose_recipe_is_another_does_not_join(desk: Desk) -> None:
    first = desk.start("train", "recipe.toml", "--nproc", "2", *(meeting := nodes()), "--node-rank", "0")
    refused = desk.ledger(
        *["train", "recipe.toml", "optim.lr=0.5", "--nproc", "2", *meeting, "--node-rank", "1"], code=2
    )
    assert "optim.lr = 0.003, here 0.5" in refused.err
    first.send_signal(signal.SIGTERM)
    ended(first, code=130)


def test_without_a_first_node_the_second_gives_up(desk: Desk) -> None:
    options = {"--nnodes": "2", "--node-rank": "1", "--rdzv-id": "nobody", "--rdzv-endpoint": "127.0.0.1:1"}
    book = open_ledger(settings=find_settings(start=desk.home, environ=desk.environ))
    with book, pytest.raises(LedgerError, match="no run with --rdzv-id nobody is under way") as gave_up:
        join_command(book, Asked(options=options).world(2), patience_s=0.0)
    assert "--node-rank 0" in str(gave_up.value.mend)
