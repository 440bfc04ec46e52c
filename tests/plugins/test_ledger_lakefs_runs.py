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
    assert '--commit "message"' in refused
    done = desk.ledger("run", "--data", f"train={uri}", "--commit", "mended at last", "--", "sh", "read.sh")
    assert "threetwo" in done.out
    shown = desk.ledger("show", "latest").out
    assert "mended at last" in shown
    assert repo.name in shown
    assert "train.ref" in shown
    assert "checksums" not in shown


def test_a_commit_of_data_that_knows_none_is_refused(desk: Desk) -> None:
    desk.write(data="1")
    words = ["--data", "train=file:data", "--data", "val=s3://AKIA:hunter2@bucket/x", "--commit", "message"]
    refused = desk.ledger("run", *words, "--", "true", code=2).err
    assert "nothing to commit in file:data, s3://bucket/x" in refused
    assert "hunter2" not in refused
    assert desk.ledger("run", "--commit", " ", "--", "true", code=2).err
    assert desk.ledger("ls", "--json").json == []


def test_among_data_of_several_kinds_those_with_branches_are_committed(desk: Desk, repo: Repo) -> None:
    repo.upload("set/a", b"one")
    desk.write(local="1")
    words = ["--data", f"train=lakefs://{repo.name}/main/set", "--data", "val=file:local", "--commit", "begun"]
    desk.ledger("run", *words, "--", "true")
    (facts,) = desk.ledger("show", "latest", "--json").json
    assert facts["data"]["train"]["commit"] == repo.head()
    assert facts["data"]["train"]["details"]["message"] == "begun"


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
