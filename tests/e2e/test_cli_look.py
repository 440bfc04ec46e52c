"""The commands that only look: on two runs of a small script, one failure and a checkpoint."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ledger.cli import main
from tests.e2e.desk import Desk

SCRIPT = """
import math, pathlib, sys
import ledger

run = ledger.current_run()
run.set_config({"optim": {"lr": float(sys.argv[1])}, "steps": 4})
for step in range(1, 5):
    run.log({"train/loss": 1 / step, "val/loss": 2 / step, "odd": math.nan}, step=step)
state = pathlib.Path("state")
state.mkdir(exist_ok=True)
(state / "weights.bin").write_bytes(sys.argv[1].encode() * 100)
run.checkpoint(state, step=4, metrics={"val/loss": 0.5}, best=True)
pathlib.Path("out.txt").write_text("done")
"""
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.git("init", "--quiet", "--initial-branch", "main")
    desk.write(train__py=SCRIPT, fail__py="raise ZeroDivisionError('no')\n", __gitignore="state/\nout.txt\n")
    (desk.home / "data").mkdir()
    (desk.home / "data" / "a.txt").write_text("some data")
    desk.ledger("init")
    desk.commit()
    options = ["--data", "train=file:data/", "--out", "out.txt", "--seed", "3", "--tag", "base"]
    desk.ledger("run", *options, "--", "python", "train.py", "0.1")
    desk.ledger("run", *options, "--", "python", "train.py", "0.2")
    desk.ledger("run", "--", "python", "fail.py", code=5)
    return desk


def on_terminal(desk: Desk, *words: str, columns: int = 80, colour: bool = False) -> str:
    """What a command prints on a terminal of that width."""
    import fcntl
    import termios

    child, master = pty.fork()
    if child == 0:
        os.chdir(desk.home)
        environ = {k: v for k, v in desk.environ.items() if not (colour and k == "NO_COLOR")}
        os.execvpe("ledger", ["ledger", *words], environ | {"TERM": "xterm-256color"})
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    told = b""
    while select.select([master], [], [], 60)[0]:
        try:
            told += os.read(master, 1 << 16)
        except OSError:  # Linux ends a terminal whose last user has gone with EIO
            break
    os.close(master)
    assert os.waitpid(child, 0)[1] == 0
    return told.decode().replace("\r\n", "\n")


def one(desk: Desk, *words: str) -> Any:
    (found,) = desk.ledger(*words, "--json").json
    return found


def test_ls_lists_the_latest_last(desk: Desk) -> None:
    runs = desk.ledger("ls", "--json").json
    assert [(run["name"], run["status"]) for run in runs] == [
        ("run-1", "completed"),
        ("run-2", "completed"),
        ("run-3", "failed"),
    ]
    assert runs[0]["metrics"]["val/loss"] == 0.5
    assert runs[0]["metrics"]["odd"] == "NaN"
    assert runs[0]["tags"] == ["base"]
    assert [run["name"] for run in desk.ledger("ls", "-n", "1", "--json").json] == ["run-3"]
    assert [run["name"] for run in desk.ledger("ls", "--tag", "base", "--json").json] == ["run-1", "run-2"]


def test_ls_for_people_says_status_in_words(desk: Desk) -> None:
    lines = desk.ledger("ls").out.splitlines()
    assert lines[0].split()[:3] == ["run", "status", "kind"]
    assert re.match(r"run-1 +completed +command +(just now|.* ago) .*val/loss 0.5 +base$", lines[1])
    assert re.match(r"run-3 +failed ", lines[3])


def test_show(desk: Desk) -> None:
    told = desk.ledger("show", "run-1").out
    assert told.startswith("run-1  completed\n")
    for fact in ("python train.py 0.1", "optim.lr", "file:data/", "out.txt", "val/loss", "1 checkpoint"):
        assert fact in told
    facts = one(desk, "show", "run-1")
    assert facts["config"] == {"optim": {"lr": 0.1}, "steps": 4}
    assert facts["metrics"]["train/loss"] == {
        "last": 0.25, "step": 4, "lowest": 0.25, "lowest_step": 4, "highest": 1.0, "highest_step": 1, "points": 4,
    }  # fmt: skip
    assert facts["metrics"]["odd"]["last"] == "NaN"
    assert facts["seed"] == 3


def test_show_tells_why_a_run_failed(desk: Desk) -> None:
    told = desk.ledger("show", "run-3").out
    assert told.startswith("run-3  failed\n")
    assert "ZeroDivisionError: no" in told
    assert one(desk, "show", "run-3")["end"]["exit_code"] == 1


def test_log_has_one_line_for_each_event(desk: Desk) -> None:
    lines = desk.ledger("log", "run-1").out.splitlines()
    events = desk.ledger("log", "run-1", "--json").json
    assert len(lines) == len(events)
    assert [event["position"] for event in events] == list(range(len(events)))
    for line, event in zip(lines, events, strict=True):
        assert line.split()[0] == str(event["position"])
        assert event["type"] in line
    assert "steps 1 to 4 · " in next(line for line in lines if "metrics.logged" in line)
    assert events[-1]["type"] == "run.completed"


def test_compare_shows_what_differs(desk: Desk) -> None:
    told = desk.ledger("compare", "run-1", "run-2").out
    assert re.search(r"^config optim.lr +0.1 +0.2$", told, re.MULTILINE)
    assert re.search(r"^data +the same +the same$", told, re.MULTILINE)
    assert "config steps" not in told
    facts = one(desk, "compare", "run-1", "run-2")
    assert facts["runs"] == ["run-1", "run-2"]
    assert facts["config"] == {"optim.lr": [0.1, 0.2]}
    assert facts["data"] == facts["code"] == {}
    assert facts["metrics"]["lowest"]["val/loss"] == [0.5, 0.5]
    assert "config steps" in desk.ledger("compare", "run-1", "run-2", "--all").out


def test_compare_draws_curves(desk: Desk) -> None:
    done = desk.ledger("compare", "run-1", "run-2", "--plot", "curves.svg")
    assert "drew curves.svg" in done.err
    picture = (desk.home / "curves.svg").read_text()
    for name in ("run-1", "run-2", "train/loss", "val/loss", "nan at step 1"):
        assert name in picture
    refused = desk.ledger("compare", "run-1", "run-2", "--plot", "curves.png", code=2)
    assert "mend: name it curves.svg" in refused.err
    nowhere = desk.ledger("compare", "run-1", "run-2", "--plot", "no/where.svg", code=4)
    assert "no/where.svg: No such file or directory" in nowhere.err


def test_compare_wants_two_runs(desk: Desk) -> None:
    assert "mend: name two runs or more" in desk.ledger("compare", "run-1", code=2).err


def test_checkpoints_and_fetch(desk: Desk, tmp_path: Path) -> None:
    (kept,) = desk.ledger("checkpoints", "run-1", "--json").json
    assert (kept["step"], kept["best"]) == (4.0, True)
    assert kept["digest"] in desk.ledger("checkpoints", "run-1").out
    for which in ("best", "4"):
        dest = tmp_path / f"got-{which}"
        desk.ledger("fetch", "run-1", which, str(dest))
        assert (dest / "weights.bin").read_bytes() == b"0.1" * 100
    refused = desk.ledger("fetch", "run-1", "5", str(tmp_path / "none"), code=3).err
    assert "no checkpoint '5'" in refused
    assert "the steps 4" in refused
    assert "exists already" in desk.ledger("fetch", "run-1", "last", str(tmp_path), code=2).err
    assert "run-3 has no checkpoints" in desk.ledger("checkpoints", "run-3").err
    assert "run-3 has no checkpoints" in desk.ledger("fetch", "run-3", "last", str(tmp_path / "none"), code=3).err


def test_audit_of_a_run(desk: Desk) -> None:
    told = desk.ledger("audit", "run-1").out
    commit = desk.git("rev-parse", "HEAD").strip()
    for fact in (commit, "as committed", "1 file, 9 B", "optim.lr", "python train.py 0.1", "none yet"):
        assert fact in told
    facts = one(desk, "audit", "run-1")
    assert facts["run"]["code"]["commit"] == commit
    assert facts["run"]["data"]["train"]["commit"] in told


def test_audit_finds_a_checkpoint_by_its_content(desk: Desk, tmp_path: Path) -> None:
    desk.ledger("fetch", "run-2", "best", str(tmp_path / "copied"))
    (tmp_path / "copied" / "weights.bin").rename(tmp_path / "renamed.bin")
    facts = one(desk, "audit", str(tmp_path / "renamed.bin"))
    assert facts["written_by"][0]["run"] == "run-2"
    assert facts["written_by"][0]["file"] == "weights.bin"
    digest = facts["written_by"][0]["digest"]
    assert one(desk, "audit", digest)["written_by"][0]["run"] == "run-2"
    (tmp_path / "renamed.bin").write_bytes(b"0.1" * 99)
    refused = desk.ledger("audit", str(tmp_path / "renamed.bin"), code=3).err
    assert "no run of this ledger wrote" in refused


def test_audit_of_a_step_needs_a_training(desk: Desk) -> None:
    assert "no training from a recipe" in desk.ledger("audit", "run-1", "--step", "2", code=2).err


@pytest.mark.parametrize(
    "words",
    [["ls"], ["show", "run-1"], ["log", "run-1"], ["compare", "run-1", "run-2"], ["checkpoints", "run-1"],
     ["audit", "run-1"], ["plugins"], ["doctor"]],
    ids=" ".join,
)  # fmt: skip
def test_on_a_terminal_of_80_columns_nothing_is_wider_and_no_colour_is_forced(desk: Desk, words: list[str]) -> None:
    told = on_terminal(desk, *words)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told)
    assert max(map(len, plain.splitlines())) <= 80
    colours = [code for codes in re.findall(r"\x1b\[([0-9;]*)m", told) for code in codes.split(";")]
    assert not [code for code in colours if code and int(code) >= 30]
    assert "run-…" not in told


def test_on_a_terminal_states_have_a_colour(desk: Desk) -> None:
    assert "\x1b[32mcompleted" in on_terminal(desk, "ls", colour=True)


def test_piped_nothing_is_cut(desk: Desk) -> None:
    told = desk.ledger("log", "run-1", COLUMNS="40").out + desk.ledger("checkpoints", "run-1", COLUMNS="40").out
    assert len(DIGEST.findall(told)) >= 5
    assert "…" not in told


def test_a_reader_that_leaves_is_no_error(desk: Desk) -> None:
    more_than_a_pipe_holds = ["run-1"] * 300
    words = ["ledger", "compare", *more_than_a_pipe_holds, "--json"]
    with subprocess.Popen(
        words, cwd=desk.home, env=desk.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout
        assert running.stderr
        assert running.stdout.read(10) == b'{"runs": ['
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait() == 0


def test_json_is_one_object_a_line(desk: Desk) -> None:
    for words in (["ls"], ["log", "run-1"], ["checkpoints", "run-1"], ["plugins"], ["doctor"]):
        lines = desk.ledger(*words, "--json").out.splitlines()
        assert lines
        for line in lines:
            assert isinstance(json.loads(line, parse_constant=pytest.fail), dict)


def test_plugins(desk: Desk) -> None:
    found = {plugin["name"]: plugin for plugin in desk.ledger("plugins", "--json").json}
    assert found["local"]["status"] == "ok"
    assert found["local"]["hooks"] == ["open_data_source"]
    assert found["local"]["distribution"] == "training-ledger"


def test_run_names_are_completed(desk: Desk) -> None:
    told = desk.ledger(_LEDGER_COMPLETE="bash_complete", COMP_WORDS="ledger show run-", COMP_CWORD="2").out
    assert told.split() == ["plain,run-3", "plain,run-2", "plain,run-1"]


def test_completion_scripts() -> None:
    from click.testing import CliRunner

    for shell in ("bash", "zsh", "fish"):
        done = CliRunner().invoke(main, ["completion", shell])
        assert done.exit_code == 0
        assert "_LEDGER_COMPLETE" in done.output
