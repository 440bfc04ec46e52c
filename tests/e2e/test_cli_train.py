"""`ledger train` as the user sees it: the bar, the summary, the recipe's keys, and the samples behind a step."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from ledger.cli import main
from tests.e2e.desk import Desk
from tests.e2e.test_cli_look import on_terminal

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
steps = 12
[data.train]
uri = "file:kjv.txt"
[task_options]
n_layer = 1
n_head = 2
n_embd = 16
block_size = 16
[batch]
size = 4
[log]
every = 2
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.run("python", "-m", "ledger_trainer.tasks.kjv", "whole.txt")
    text = (desk.home / "whole.txt").read_text()[:20_000]
    (desk.home / "whole.txt").unlink()
    desk.write(kjv__txt=text, recipe__toml=RECIPE)
    return desk


@pytest.fixture(scope="module")
def told(desk: Desk) -> str:
    """What the terminal showed of a training."""
    return on_terminal(desk, "train", "recipe.toml", "optim.lr=0.01", "--tag", "small", columns=100)


def test_a_bar_shows_step_loss_and_pace_and_a_line_sums_up(told: str) -> None:
    assert re.search(r"run-1 .* 12/12 steps · train/loss [\d.]+ · [\d.e+]+ steps/s", told)
    assert re.fullmatch(
        r".*run-1 completed · step 12 · (val|train)/loss [\d.]+ · ledger show run-1", told.splitlines()[-1]
    )


def test_where_checkpoints_cannot_be_stored_nothing_starts(desk: Desk) -> None:
    runs = len(desk.ledger("ls", "--json").json)
    (desk.home / "a-file").touch()
    nowhere = (desk.home / "a-file" / "checkpoints").as_uri()
    refused = desk.ledger("train", "recipe.toml", code=4, LEDGER_CHECKPOINTS=nowhere)
    assert "a-file/checkpoints" in refused.err
    assert "mend: " in refused.err
    assert len(desk.ledger("ls", "--json").json) == runs
    (checked,) = [
        f for f in desk.ledger("doctor", "--json", code=4, LEDGER_CHECKPOINTS=nowhere).json if f["state"] == "fail"
    ]
    assert "a-file/checkpoints" in checked["finding"]


@pytest.mark.usefixtures("told")
def test_the_recipe_is_on_record_with_its_overrides(desk: Desk) -> None:
    (facts,) = desk.ledger("show", "run-1", "--json").json
    assert facts["config"]["optim"]["lr"] == 0.01
    assert facts["overrides"] == ["optim.lr=0.01"]
    assert (facts["kind"], facts["seed"], facts["tags"]) == ("train", 7, ["small"])


@pytest.mark.usefixtures("told")
def test_audit_lists_the_samples_of_a_step_even_when_the_data_have_changed(desk: Desk) -> None:
    (before,) = desk.ledger("audit", "run-1", "--step", "5", "--json").json
    assert [len(rank) for rank in before["samples"]] == [4]
    assert "rank 0" in desk.ledger("audit", "run-1", "--step", "5").out
    data = desk.home / "kjv.txt"
    kept = data.read_text()
    data.write_text(kept[:10_000])
    after = desk.ledger("audit", "run-1", "--step", "5", "--json")
    data.write_text(kept)
    assert after.json[0]["samples"] == before["samples"]
    assert "no longer what was pinned" in after.err
    assert "steps 1 to 12" in desk.ledger("audit", "run-1", "--step", "13", code=2).err


def test_help_shows_every_key_of_a_recipe_with_its_default(desk: Desk) -> None:
    told = desk.ledger("train", "--help").out
    assert re.search(r"optim.lr +number = 0.0003", told)
    assert re.search(r"steps +integer required", told)


def test_without_torch_it_says_what_to_install(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.home)
    monkeypatch.setattr("ledger.cli.train._torch_is_missing", lambda: True)
    done = CliRunner().invoke(main, ["train", "recipe.toml", "--ledger", "none"])
    assert done.exit_code == 4
    assert "mend: pip install 'training-ledger[torch]'" in done.stderr
    assert not (desk.home / "none").exists()
    assert "training needs PyTorch" in CliRunner().invoke(main, ["train", "--help"]).output


REFUSED = [
    (["--nproc", "3"], 2, "batch.size"),
    (["--nproc", "2", "parallel.tensor=3"], 2, "parallel.processes"),
    (["--nproc", "2", "--hostfile", "recipe.toml"], 2, "--hostfile is an option of deepspeed"),
    (["--nproc", "2", "--launcher", "deepspeed", "--rdzv-id", "a"], 2, "--rdzv-id is an option of torchrun"),
    (["--nproc", "2", "--nnodes", "2"], 2, "without --node-rank, --rdzv-id, --rdzv-endpoint"),
    (["--nproc", "2", "--launcher", "mpirun"], 2, "mpirun"),
    (["--nproc", "2", "--launcher", "deepspeed", "--hostfile", "none"], 2, "none"),
    (["engine.name=megatron"], 4, "there is no engine 'megatron'"),
    (["--nproc", "2", "engine.name=deepspeed", "parallel.shard=2"], 2, "parallel.shard = 2"),
    (["--nproc", "2", "engine.name=deepspeed", "engine.options.zero=9"], 2, "engine.options.zero"),
    (["--nproc", "2", "engine.name=deepspeed", "engine.options.config='none.json'"], 2, "'none.json' cannot be read"),
]


@pytest.mark.parametrize(("words", "code", "named"), REFUSED)
def test_what_cannot_be_launched_starts_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    done = CliRunner().invoke(main, ["train", "recipe.toml", *words])
    assert (done.exit_code, named in done.stderr) == (code, True), done.stderr
    assert "mend: " in done.stderr
    assert not (tmp_path / ".ledger").exists()


LAUNCHED = [
    ("localhost slots=3\n", 2, "has 3 slots, the training 2 processes"),
    ("localhost\n", 2, "hosts:1: 'localhost' is no host with slots"),
    ("a slots=1\na slots=1\n", 2, "hosts:2: a is there twice"),
    pytest.param(
        "localhost slots=1\nnowhere.invalid slots=1\n", 4, "hosts that cannot be reached: ",
        marks=pytest.mark.skipif(shutil.which("ssh") is None, reason="needs an ssh client"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("hosts", "code", "named"), LAUNCHED)
def test_what_a_launcher_cannot_do_starts_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: str, code: int, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "hosts").write_text(hosts)
    launcher = ["--launcher", "deepspeed", "--hostfile", "hosts"]
    done = CliRunner().invoke(main, ["train", "recipe.toml", "--nproc", "2", *launcher])
    assert (done.exit_code, named in done.stderr) == (code, True), done.stderr
    assert "mend: " in done.stderr
    assert CliRunner().invoke(main, ["ls", "--json"]).stdout == ""


def test_in_a_shell_of_one_of_several_processes_one_does_not_train_alone(desk: Desk, told: str) -> None:
    """As in a job of a cluster that starts the same command several times."""
    cluster = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}
    before = desk.ledger("ls", "--json").json
    refused = desk.ledger("train", "recipe.toml", code=2, **cluster).err
    assert "RANK=1 WORLD_SIZE=4 tell it that it is one of several" in refused
    assert "unset RANK WORLD_SIZE" in refused
    assert desk.ledger("ls", "--json").json == before
    (plan,) = desk.ledger("replay", "run-1", "--plan", "--json", code=4, **cluster).json
    assert "unset RANK WORLD_SIZE" in plan["reasons"][0]


@pytest.mark.slow
def test_several_processes_are_told_by_their_launcher_who_they_are(desk: Desk) -> None:
    desk.ledger("train", "recipe.toml", "--nproc", "2", RANK="1", WORLD_SIZE="4", LOCAL_RANK="1")
    (shown,) = desk.ledger("show", "latest", "--json").json
    assert [rank["coordinates"]["data"] for rank in shown["topology"]["ranks"]] == [0, 1]
    assert {each["processes"] for each in shown["checkpoints"]} == {2}


def test_an_empty_hostfile_names_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "hosts").write_text("# none yet\n")
    done = CliRunner().invoke(main, ["train", "recipe.toml", "--launcher", "deepspeed", "--hostfile", "hosts"])
    assert done.exit_code == 2
    assert "names no host" in done.stderr
