"""Runs that read what DVC tracks: recorded, repeated after the branch has moved, refused when the data are gone."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.e2e.desk import Desk
from tests.e2e.test_data_sources import TASKS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Service


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    home = tmp_path / "desk"
    home.mkdir()
    desk = Desk(home)
    desk.git("init", "--quiet", "--initial-branch", "main")
    for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR"):
        desk.environ[f"DVC_{name}"] = str(tmp_path / f".{name.lower()}")
    desk.environ["DVC_NO_ANALYTICS"] = "true"
    desk.run("dvc", "init", "--quiet")
    return desk


def track(desk: Desk, name: str, content: bytes) -> None:
    (desk.home / "sets").mkdir(exist_ok=True)
    (desk.home / "sets" / name).write_bytes(content)
    desk.run("dvc", "add", "--quiet", f"sets/{name}")
    desk.commit()


def record(desk: Desk, task: str, uri: str) -> bytes:
    """Train on a part of the task's data at ``uri``, as the run ``run-1``; the part."""
    file, recipe = TASKS[task]
    desk.run("python", "-m", f"ledger_trainer.tasks.{task}", file)
    content = (desk.home / file).read_bytes()[: 20_000 if task == "kjv" else None]
    (desk.home / file).unlink()
    desk.write(recipe__toml=f'{recipe}[data.train]\nuri = "{uri}"\n', ledger__toml="[ledger]\n")
    track(desk, file, content)
    desk.ledger("train", "recipe.toml")
    return content


@pytest.mark.parametrize(
    "task", [pytest.param("kjv", marks=pytest.mark.slow), pytest.param("mnist", marks=pytest.mark.thorough)]
)
def test_a_training_is_replayed_after_the_branch_has_moved_on(desk: Desk, task: str) -> None:
    file, _ = TASKS[task]
    content = record(desk, task, f"dvc://sets/{file}@main")
    pinned = desk.git("rev-parse", "HEAD").strip()
    (facts,) = desk.ledger("show", "run-1", "--json").json
    train = facts["data"]["train"]
    assert (train["commit"], train["bytes"], train["provider"]) == (pinned, len(content), "dvc")
    assert train["details"]["md5"][f"sets/{file}"] in (desk.home / f"sets/{file}.dvc").read_text()

    track(desk, file, b"the data have changed\n")
    assert desk.ledger("replay", "run-1").out.startswith("identical")
    assert (desk.home / "sets" / file).read_bytes() == b"the data have changed\n"
    assert desk.git("status", "--short") == ""

    shutil.rmtree(desk.home / ".dvc/cache")
    refused = desk.ledger("replay", "run-1", code=4)
    assert "not-replayable" in refused.out + refused.err
    assert "data train cannot be had" in refused.out + refused.err
    assert f"sets/{file}" in refused.out + refused.err


def test_a_command_reads_what_was_committed_and_nothing_else(desk: Desk) -> None:
    track(desk, "a", b"one")
    read = ("--", "sh", "-c", 'cat "$LEDGER_DATA_TRAIN"')
    assert "one" in desk.ledger("run", "--data", "train=dvc://sets/a", *read).out
    (desk.home / "sets/a").write_bytes(b"two")
    refused = desk.ledger("run", "--data", "train=dvc://sets/a", *read, code=4).err
    assert "changed: sets/a" in refused
    assert "@HEAD" in refused
    assert "one" in desk.ledger("run", "--data", "train=dvc://sets/a@HEAD", *read).out
    assert (desk.home / "sets/a").read_bytes() == b"two"
    assert "no commit, branch or tag v9" in desk.ledger("run", "--data", "train=dvc://sets/a@v9", *read, code=4).err
    assert "names no path" in desk.ledger("run", "--data", "train=dvc://@v9", *read, code=2).err


@pytest.mark.slow
def test_a_replay_on_a_machine_that_has_the_clone_and_the_remote_only(
    desk: Desk, s3_service: Service, tmp_path: Path
) -> None:
    with s3_service.folder() as url:
        desk.environ.update(s3_service.environ())
        desk.run("dvc", "remote", "add", "--default", "store", url)
        desk.run("dvc", "remote", "modify", "store", "endpointurl", os.environ["AWS_ENDPOINT_URL"])
        record(desk, "kjv", "dvc://sets/kjv.txt@main")
        desk.run("dvc", "push", "--quiet")
        shutil.rmtree(desk.home / ".dvc/cache")
        shutil.rmtree(desk.home / ".ledger/scratch/data", ignore_errors=True)
        track(desk, "kjv.txt", b"the data have changed\n")
        assert desk.ledger("replay", "run-1").out.startswith("identical")
        log = desk.ledger("log", "run-1", "--json").out
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in log
        desk.environ["AWS_SECRET_ACCESS_KEY"] = "very-wrong"
        shutil.rmtree(desk.home / ".ledger/scratch/data", ignore_errors=True)
        shutil.rmtree(desk.home / ".dvc/cache")
        refused = desk.ledger("replay", "run-1", "--plan", code=4)
        assert "refuses access" in refused.out + refused.err
        assert "very-wrong" not in refused.out + refused.err
