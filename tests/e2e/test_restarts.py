"""A group of processes that torchrun starts again when one dies: another attempt of the same run, nothing lost."""

from __future__ import annotations

import pytest

from tests.e2e.desk import Desk

STEPS = 30
TRAIN = """
import json, os, pathlib, signal, time
import ledger

with ledger.current_run() as run:
    first = 0
    if run.resumed_from is not None:
        first = json.loads((run.resumed_from / "state.json").read_text())["step"] + 1
    print(f"rank {run.rank} of attempt {run.attempt} goes on at {first}", flush=True)
    for step in range(first, STEPS):
        if run.rank == 0:
            run.log({"loss": 1 / (step + 1)}, step=step)
            if step % 8 == 7:
                state = pathlib.Path(".ledger", f"{run.attempt}-{step}")
                state.mkdir()
                (state / "state.json").write_text(json.dumps({"step": step}))
                run.checkpoint(state, step=step)
        if run.attempt < LIVES and step == 5 + 8 * run.attempt:
            waits = pathlib.Path(".ledger", f"{run.attempt}.waits")
            if run.rank == 0:
                waits.touch()
                signal.pause()  # as who waits for a dead peer
            while not waits.exists():
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
""".replace("STEPS", str(STEPS))


def train(desk: Desk, *, lives: int, restarts: int, code: int | None = 0) -> str:
    desk.write(train__py=TRAIN.replace("LIVES", str(lives)))
    words = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--monitor-interval=0.1"]
    told = desk.run(
        *["ledger", "run", "--", *words, f"--max-restarts={restarts}", "train.py"],
        code=code,
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )
    return told.out + told.err


def steps(desk: Desk) -> dict[int, list[float]]:
    """Which steps each attempt logged."""
    found: dict[int, list[float]] = {}
    for fact in desk.ledger("log", "run-1", "--json").json:
        if fact["type"] == "metrics.logged":
            found.setdefault(fact["metadata"]["attempt"], []).extend(fact["payload"]["step"])
    return found


@pytest.mark.slow
def test_the_restarted_go_on_from_the_newest_checkpoint_as_a_new_attempt(desk: Desk) -> None:
    told = train(desk, lives=3, restarts=2)
    for rank in (0, 1):
        assert f"rank {rank} of attempt 1 goes on at 0" in told
        assert f"rank {rank} of attempt 2 goes on at 8" in told
        assert f"rank {rank} of attempt 3 goes on at 16" in told
    resumed = [f["payload"] for f in desk.ledger("log", "run-1", "--json").json if f["type"] == "training.resumed"]
    assert [(fact["attempt"], fact["step"]) for fact in resumed] == [(2, 7), (3, 15)]
    (run,) = desk.ledger("show", "run-1", "--json").json
    assert run["status"] == "completed"
    assert desk.metrics("run-1") == {step: {"loss": 1 / (step + 1)} for step in range(STEPS)}
    # What the dead had logged after the checkpoint is there, too.
    assert steps(desk) == {1: [*range(14)], 2: [*range(8, 22)], 3: [*range(16, STEPS)]}
    assert desk.ledger("verify").code == 0
    assert not [*(desk.home / ".ledger").rglob("*.fenced")]
    assert not [*(desk.home / ".ledger").rglob("resume/*")]


@pytest.mark.slow
def test_when_the_launcher_gives_up_the_run_has_failed_and_can_be_resumed(desk: Desk) -> None:
    train(desk, lives=3, restarts=1, code=5)
    (run,) = desk.ledger("show", "run-1", "--json").json
    assert run["status"] in ("failed", "interrupted")
    ended = [f for f in desk.ledger("log", "run-1", "--json").json if f["type"] in ("run.failed", "run.interrupted")]
    assert ended[-1]["metadata"]["attempt"] == 2
    told = desk.ledger("resume", "run-1")
    assert "attempt 3 goes on from step 15" in told.out + told.err
    assert desk.metrics("run-1") == {step: {"loss": 1 / (step + 1)} for step in range(STEPS)}


@pytest.mark.parametrize("words", [["--nproc", "2"], ["--max-restarts", "1"], ["--launcher", "deepspeed"]])
def test_a_command_alone_decides_on_its_processes(desk: Desk, words: list[str]) -> None:
    desk.run("ledger", "run", "--", "python", "-c", "raise SystemExit(1)", code=5)
    assert "a command of its own" in desk.ledger("resume", "run-1", *words, code=2).err
