"""Recording through the command line: what is said, with which exit code, and how an end is told."""

from __future__ import annotations

import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.e2e.desk import PATIENCE_S, Desk
from tests.e2e.test_cli_look import on_terminal

SLOW = """
import pathlib, sys, time
import ledger

run = ledger.current_run()
run.set_config({"steps": 30})
print("child begins", flush=True)
for step in range(1, 31):
    run.log({"train/loss": 1 / step}, step=step)
    print("line", step, flush=True)
    while step == 5 and not pathlib.Path("go").exists():
        time.sleep(0.05)
    time.sleep(0.02)
"""


@pytest.fixture
def slow(desk: Desk) -> Desk:
    desk.write(slow__py=SLOW, __gitignore="go\n")
    desk.ledger("init")
    desk.commit()
    return desk


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output = process.communicate(timeout=PATIENCE_S)[0]
    return process.returncode, output


def status(desk: Desk, name: str) -> str:
    (found,) = [run["status"] for run in desk.ledger("ls", "--json").json if run["name"] == name]
    return str(found)


def test_the_command_is_passed_through_and_summed_up_in_one_line(desk: Desk) -> None:
    done = desk.ledger("run", "--", "sh", "-c", "echo to out; echo to err >&2")
    assert done.out == "to out\n"
    assert done.err == "to err\nrun-1 completed · ledger show run-1\n"


def test_an_output_that_is_not_there_is_told_at_once(desk: Desk) -> None:
    told = desk.ledger("run", "--out", "model.bin", "--", "true").err
    assert told == (
        "warning: output model.bin was not kept: model.bin does not exist\nrun-1 completed · ledger show run-1\n"
    )


def test_options_of_the_command_are_its_own(desk: Desk) -> None:
    assert desk.ledger("run", "--", "echo", "--json", "--help").out == "--json --help\n"
    assert desk.ledger("run", "echo", "--seed", "3").out == "--seed 3\n"


def test_a_command_that_fails_gives_5_and_its_own_code_is_on_record(desk: Desk) -> None:
    done = desk.ledger("run", "--", "sh", "-c", "echo reason >&2; exit 3", code=5)
    assert "run-1 failed · exit code 3 · reason · ledger show run-1" in done.err
    (facts,) = desk.ledger("show", "run-1", "--json").json
    assert facts["end"]["exit_code"] == 3


def test_a_command_that_does_not_exist(desk: Desk) -> None:
    done = desk.ledger("run", "--", "no-such-command", code=2)
    assert "no-such-command" in done.err
    assert "mend: " in done.err


def test_what_the_terminal_cannot_say_is_spelled_out(desk: Desk) -> None:
    desk.ledger("run", "--tag", "→", "--", "true")
    assert desk.ledger("ls").out.rstrip().endswith("→")
    assert desk.ledger("ls", PYTHONIOENCODING="latin-1").out.rstrip().endswith("\\u2192")


def test_no_command_at_all(desk: Desk) -> None:
    assert "COMMAND" in desk.ledger("run", code=2).err
    assert not (desk.home / ".ledger").exists()


@pytest.mark.parametrize("pair", ["train", "=file:x", "train=", "a/b=file:x"])
def test_data_that_is_no_pair(desk: Desk, pair: str) -> None:
    done = desk.ledger("run", "--data", pair, "--", "true", code=2)
    assert "is not NAME=URI" in done.err
    assert not (desk.home / ".ledger").exists()


def test_data_named_twice_with_an_unknown_scheme_or_unreadable(desk: Desk) -> None:
    (desk.home / "a").write_text("a")
    assert "twice" in desk.ledger("run", "--data", "x=file:a", "--data", "x=file:a", "--", "true", code=2).err
    assert "file:a" in desk.ledger("run", "--data", "x=a", "--", "true", code=4).err
    assert "nothing at" in desk.ledger("run", "--data", "x=file:b", "--", "true", code=4).err
    assert "no runs yet" in desk.ledger("ls").err


def test_ctrl_c_is_an_interruption(slow: Desk) -> None:
    running = slow.start("run", "--", "python", "slow.py")
    slow.await_step(running, "run-1", 3)
    running.send_signal(signal.SIGINT)
    code, output = ended(running)
    assert code == 130
    assert "run-1 interrupted · SIGINT" in output
    assert status(slow, "run-1") == "interrupted"


def test_a_run_whose_recorder_was_killed_is_interrupted(slow: Desk) -> None:
    slow.kill_at(3, "run", "--", "python", "slow.py", run="run-1")
    assert status(slow, "run-1") == "interrupted"
    assert slow.ledger("show", "run-1").out.startswith("run-1  interrupted\n")
    # Nobody will ever write to it again: a tail must not wait for it.
    assert "metrics.logged" in slow.ledger("log", "run-1", "--follow").out


def test_follow_goes_on_until_the_run_has_ended(slow: Desk) -> None:
    running = slow.start("run", "--", "python", "slow.py")
    slow.await_step(running, "run-1", 3)
    tail = slow.start("log", "run-1", "--follow")
    assert tail.stdout is not None
    first = tail.stdout.readline()
    assert "run.started" in first
    (slow.home / "go").touch()
    assert ended(running)[0] == 0
    code, output = ended(tail)
    assert code == 0
    assert "run.completed" in output.splitlines()[-1]


def test_resume_on_a_terminal_shows_a_bar_and_lets_the_command_speak(slow: Desk) -> None:
    slow.kill_at(3, "run", "--", "python", "slow.py", run="run-1")
    (slow.home / "go").touch()
    told = on_terminal(slow, "resume", "run-1", columns=100)
    assert "30/30 steps · train/loss 0.03333" in told
    assert "steps/s" in told
    assert [line for line in told.splitlines() if line.endswith("line 30")]
    assert told.rstrip().endswith("run-1 completed · step 30 · train/loss 0.03333 · ledger show run-1")


def test_resume_where_standard_error_is_no_terminal_draws_nothing(slow: Desk) -> None:
    slow.kill_at(3, "run", "--", "python", "slow.py", run="run-1")
    (slow.home / "go").touch()
    done = slow.ledger("resume", "run-1")
    assert done.out.splitlines()[-1] == "line 30"
    assert done.err.splitlines() == [
        "run-1 attempt 2 goes on from the beginning",
        "run-1 completed · step 30 · train/loss 0.03333 · ledger show run-1",
    ]


def test_resume_says_why_it_cannot(slow: Desk) -> None:
    (slow.home / "go").touch()
    slow.ledger("run", "--", "python", "slow.py")
    assert "has completed" in slow.ledger("resume", "run-1", code=4).err


def test_replay_keeps_what_the_command_prints_off_its_standard_output(slow: Desk) -> None:
    slow.write(plain__py="import ledger\nprint('hello')\nledger.current_run().log({'x': 1.0}, step=1)\n")
    slow.ledger("run", "--seed", "1", "--", "python", "plain.py")
    done = slow.ledger("replay", "run-1")
    assert done.out.splitlines()[0] == "identical"
    assert "run-1 replayed as run-2" in done.out
    assert "hello" not in done.out
    assert "hello" in done.err
    (compared,) = slow.ledger("replay", "run-1", "--json").json
    assert (compared["verdict"], compared["run"], compared["replayed_as"]) == ("identical", "run-1", "run-3")


def test_replay_on_a_terminal_says_how_it_goes(slow: Desk) -> None:
    (slow.home / "go").touch()
    slow.write(slow__py=SLOW.replace("step == 5", "False"))
    slow.ledger("run", "--seed", "1", "--", "python", "slow.py")
    told = on_terminal(slow, "replay", "run-1", columns=120)
    assert "compared 30 points, identical so far" in told
    assert "identical\n" in told


def test_replay_that_diverges_gives_1_and_says_where(slow: Desk) -> None:
    slow.write(clock__py="import ledger, time\nledger.current_run().log({'now': time.time()}, step=7)\n")
    slow.ledger("run", "--seed", "1", "--", "python", "clock.py")
    done = slow.ledger("replay", "run-1", code=1)
    assert done.out.splitlines()[0] == "diverged"
    divergence = done.out.partition("first divergence")[2]
    assert "now" in divergence
    assert "step      7" in divergence
    tolerated = slow.ledger("replay", "run-1", "--tolerance", "0.5")
    assert tolerated.out.splitlines()[0] == "within-tolerance"
    assert "may deviate by 0.5" in tolerated.out


def test_replay_that_cannot_be_gives_4_with_the_reasons(desk: Desk) -> None:
    desk.ledger("run", "--", "true")
    done = desk.ledger("replay", "run-1", code=4)
    assert done.out.splitlines()[0] == "not-replayable"
    assert "nothing is on record" in done.out
    assert "not replayable:" in desk.ledger("replay", "run-1", "--plan", code=4).out


def test_plan_script_and_rebuild_run_nothing(slow: Desk, tmp_path: Path) -> None:
    (slow.home / "go").touch()
    slow.ledger("run", "--seed", "1", "--", "python", "slow.py")
    assert "python slow.py" in slow.ledger("replay", "run-1", "--plan").out
    (plan,) = slow.ledger("replay", "run-1", "--plan", "--json").json
    assert plan["replayable"] is True
    first, *_, last = (step["step"] for step in plan["steps"])
    assert (first, last) == ("check_out_code", "compare")
    script = slow.ledger("replay", "run-1", "--script").out
    assert script.startswith("#!/bin/sh\n")
    slow.ledger("replay", "run-1", "--to", str(tmp_path / "rebuilt"))
    assert (tmp_path / "rebuilt" / "slow.py").read_text() == SLOW
    assert "exclude" in slow.ledger("replay", "run-1", "--plan", "--script", code=2).err
    assert len(slow.ledger("ls", "--json").json) == 1


def test_what_a_dead_writer_still_had_to_say_is_told_with_the_name_of_its_run(desk: Desk) -> None:
    dies = """
        import os, signal, ledger
        run = ledger.start_run()
        run.log({"a": 1}, step=1)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    desk.write(dies__py=textwrap.dedent(dies))
    desk.run("python", "dies.py", code=-signal.SIGKILL)
    assert desk.ledger("ls").err == "a writer of run-1 died: what it still had to say is in the log now\n"
    assert desk.ledger("ls").err == ""
