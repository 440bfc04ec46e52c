"""Runs that read from lakeFS: recorded, repeated after the branch has moved on, refused when the data are gone."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ledger.book import open_ledger
from ledger.hooks.manager import Plugins
from ledger.record.run import start_run
from ledger.settings import Settings
from ledger_lakefs import LakefsPlugin
from tests.e2e.desk import Desk

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lakefs.standin import LakeFS
    from tests.lakefs.user import Repo, User

pytest_plugins = ["tests.lakefs.fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore:Use of allowEmptyValue:DeprecationWarning")

TEXT = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
steps = 4
[task_options]
n_layer = 1
n_head = 2
n_embd = 16
block_size = 16
[batch]
size = 4
[determinism]
threads = 1
"""
IMAGES = """
task = "ledger_trainer.tasks.mnist:classifier"
seed = 7
steps = 3
[batch]
size = 8
[determinism]
threads = 1
"""


@pytest.fixture
def repo(user: User) -> Repo:
    return user.repository()


@pytest.fixture
def desk(user: User, tmp_path: Path) -> Desk:
    home = tmp_path / "desk"
    home.mkdir()
    desk = Desk(home)
    desk.environ.update(user.environ)
    desk.git("init", "--quiet", "--initial-branch", "main")
    return desk


@pytest.mark.slow
@pytest.mark.parametrize(("task", "file", "recipe"), [("kjv", "kjv.txt", TEXT), ("mnist", "mnist.npz", IMAGES)])
def test_a_training_is_replayed_after_the_branch_has_moved_on(
    desk: Desk, repo: Repo, user: User, task: str, file: str, recipe: str
) -> None:
    desk.run("python", "-m", f"ledger_trainer.tasks.{task}", file)
    whole = (desk.home / file).read_bytes()
    (desk.home / file).unlink()
    repo.upload(f"sets/{file}", whole[:20_000] if task == "kjv" else whole)
    pinned = repo.commit("the data")
    desk.write(
        recipe__toml=f'{recipe}[data.train]\nuri = "lakefs://{repo.name}/main/sets/{file}"\n',
        ledger__toml="[ledger]\n[plugin.lakefs]\ntag_runs = true\n",
    )
    desk.commit()
    desk.ledger("train", "recipe.toml")
    (facts,) = desk.ledger("show", "run-1", "--json").json
    assert pinned in str(facts)
    assert user.secret not in desk.ledger("log", "run-1", "--json").out
    assert set(repo.tags().values()) == {pinned}

    repo.remove(f"sets/{file}")
    repo.upload("sets/other", b"other")
    repo.commit("the data have gone elsewhere")
    assert "identical" in desk.ledger("replay", "run-1").out

    if user.standin is not None:
        user.standin.lose(repo.name, pinned, f"sets/{file}")
        refused = desk.ledger("replay", "run-1", code=4)
        assert f"data train cannot be had: sets/{file}" in refused.out + refused.err


def test_a_command_reads_what_was_pinned(desk: Desk, repo: Repo) -> None:
    repo.upload("set/a", b"one")
    repo.upload("set/b", b"two")
    repo.commit()
    desk.write(read__sh='cat "$LEDGER_DATA_TRAIN/a" "$LEDGER_DATA_TRAIN/b"\n')
    desk.commit()
    uri = f"lakefs://{repo.name}/main/set"
    assert "onetwo" in desk.ledger("run", "--data", f"train={uri}", "--", "sh", "read.sh").out
    repo.upload("set/a", b"three")
    refused = desk.ledger("run", "--data", f"train={uri}", "--", "sh", "read.sh", code=4).err
    assert "changed set/a" in refused
    assert "?commit=MESSAGE" in refused
    done = desk.ledger("run", "--data", f"train={uri}?commit=mended", "--", "sh", "read.sh")
    assert "threetwo" in done.out


def settings_that_tag(tmp_path: Path) -> Settings:
    place = tmp_path / "ledger"
    return Settings(
        f"sqlite:///{place}/ledger.db",
        (place / "objects").as_uri(),
        (place / "checkpoints").as_uri(),
        place / "scratch",
        plugin_settings={"lakefs": {"tag_runs": True}},
    )


def record(settings: Settings, **uris: str) -> str:
    """A run that reads these data; its UUID."""
    with open_ledger(settings=settings, plugins=Plugins.of(LakefsPlugin())) as book:
        with start_run(book=book) as run:
            for name, uri in uris.items():
                run.use_data(name, uri)
        return run.id


def wait_for_tags() -> None:
    for thread in threading.enumerate():
        if thread.name == "ledger-lakefs-tags":
            thread.join(60)


@pytest.fixture
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.usefixtures("_in_an_empty_place")
def test_runs_are_tagged_on_what_they_read(repo: Repo, tmp_path: Path) -> None:
    repo.upload("a", b"one")
    first = repo.commit()
    repo.upload("a", b"two")
    second = repo.commit()
    here = f"lakefs://{repo.name}"
    run = record(settings_that_tag(tmp_path), train=f"{here}/main/a", again=f"{here}/main/a", val=f"{here}/{first}/a")
    wait_for_tags()
    assert repo.tags() == {f"ledger-{run}": second, f"ledger-{run}-val": first}


@pytest.mark.usefixtures("_in_an_empty_place")
def test_a_tag_that_cannot_be_made_costs_no_run(repo: Repo, standin: LakeFS, tmp_path: Path) -> None:
    repo.upload("a", b"one")
    repo.commit()
    standin.fail(403, path="/tags$", method="POST")
    settings = settings_that_tag(tmp_path)
    with pytest.warns(RuntimeWarning, match="is not tagged in lakeFS"):
        run = record(settings, train=f"lakefs://{repo.name}/main/a")
        wait_for_tags()
    assert repo.tags() == {}
    with open_ledger(settings=settings) as book:
        assert book.run(run).status == "completed"


@pytest.mark.usefixtures("_in_an_empty_place")
def test_nothing_is_tagged_unasked(repo: Repo, tmp_path: Path) -> None:
    repo.upload("a", b"one")
    repo.commit()
    record(replace(settings_that_tag(tmp_path), plugin_settings={}), train=f"lakefs://{repo.name}/main/a")
    wait_for_tags()
    assert repo.tags() == {}
