"""Data behind ``file:`` URIs, with a snapshot and without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ledger_local
from ledger import ObjectStore, Settings
from ledger.errors import DataUnavailable, UsageError
from ledger.settings import find_settings, in_memory
from ledger.testing.data_sources import BaseDataSourceTests

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.hooks.ports import DataSource


def open_source(settings: Settings) -> DataSource:
    objects = ObjectStore(settings.objects, scratch=settings.scratch)
    source = ledger_local.open_data_source("file:x", settings, objects)
    assert source is not None
    return source


@pytest.fixture
def local(tmp_path: Path) -> DataSource:
    return open_source(in_memory(tmp_path / "ledger"))


class TestSnapshot(BaseDataSourceTests):
    missing_uri = "file:nowhere/at/all"
    malformed_uri = "file:data?snapshot=perhaps"

    @pytest.fixture
    def source(self, tmp_path: Path) -> DataSource:
        return open_source(in_memory(tmp_path / "ledger"))

    @pytest.fixture
    def publish(self) -> Callable[[Path], str]:
        return Path.as_uri


class TestNoSnapshot(TestSnapshot):
    keeps_history = False

    @pytest.fixture
    def publish(self) -> Callable[[Path], str]:
        return lambda path: f"{path.as_uri()}?snapshot=no"


def test_answers_to_file_uris_only(tmp_path: Path) -> None:
    settings = in_memory(tmp_path)
    objects = ObjectStore(settings.objects, scratch=settings.scratch)
    assert ledger_local.open_data_source("FILE:x", settings, objects) is not None
    assert ledger_local.open_data_source("s3://x", settings, objects) is None
    assert ledger_local.open_data_source("data/", settings, objects) is None


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file:my data", "my data"),
        ("file:./my data/", "my data"),
        ("file:my%20data", "my data"),
        ("file:part#1", "part#1"),
        ("file:part%231", "part#1"),
        ("file:100%", "100%"),
        ("file:100%25", "100%"),
        ("file:why%3F", "why?"),
        ("file:50%2520", "50%20"),
        ("file:s%C3%A9rie", "série"),
        ("file:///HERE/data", "data"),
        ("file://localhost/HERE/data", "data"),
        ("file:/HERE/data", "data"),
    ],
)
def test_reads_uris(local: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "a").write_text("x")
    asked = uri.replace("/HERE", str(tmp_path))
    commit = local.pin(asked)
    assert commit.path == str(tmp_path / name)
    assert commit.uri == asked


@pytest.mark.parametrize("uri", ["file:", "file://server/share", "file:a%00b", "file:%FF", "file:x?copy=no", "s3://x"])
def test_refuses_malformed_uris(local: DataSource, uri: str) -> None:
    with pytest.raises(UsageError):
        local.pin(uri)


def test_an_empty_directory_is_refused(local: DataSource, tmp_path: Path) -> None:
    (tmp_path / "data/only/directories").mkdir(parents=True)
    with pytest.raises(DataUnavailable, match="no files") as caught:
        local.pin((tmp_path / "data").as_uri())
    assert caught.value.mend


def test_a_snapshot_outlives_the_original(local: DataSource, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("x")
    commit = local.pin(data.as_uri())
    assert commit.snapshot
    (data / "a").unlink()
    data.rmdir()
    assert local.check(commit).available
    local.fetch(commit, tmp_path / "back")
    assert (tmp_path / "back/a").read_text() == "x"
    assert not (tmp_path / "back").is_symlink()


def test_a_lost_snapshot_falls_back_to_the_original(local: DataSource, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("x")
    commit = local.pin(data.as_uri())
    for found in (tmp_path / "ledger/objects").glob("??/*"):
        if found.read_bytes() == b"x":
            found.unlink()
    assert local.check(commit).available
    local.fetch(commit, tmp_path / "back")
    assert (tmp_path / "back").is_symlink()
    (data / "a").write_text("y")
    availability = local.check(commit)
    assert not availability.available
    assert "changed a" in availability.reason
    assert "missing from the snapshot: a" in availability.reason


def test_without_a_snapshot_no_content_is_copied(local: DataSource, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_bytes(b"x" * 100_000)
    commit = local.pin(f"{data.as_uri()}?snapshot=no")
    assert not commit.snapshot
    kept = [path for path in (tmp_path / "ledger/objects").rglob("*") if path.is_file()]
    assert [path.stat().st_size < 1000 for path in kept] == [True]  # the manifest alone
    local.fetch(commit, tmp_path / "back")
    assert (tmp_path / "back").readlink() == data


def test_names_the_first_few_changes_and_counts_the_rest(local: DataSource, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(9):
        (data / f"{number}.txt").write_text("x")
    commit = local.pin(f"{data.as_uri()}?snapshot=no")
    for number in range(8):
        (data / f"{number}.txt").write_text("y")
    (data / "extra").write_text("z")
    reason = local.check(commit).reason
    assert "changed 0.txt, changed 1.txt, changed 2.txt, changed 3.txt, changed 4.txt and 4 more" in reason


def test_the_ledgers_own_files_are_not_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = find_settings(environ={})
    source = open_source(settings)
    (tmp_path / ".ledger").mkdir()
    (tmp_path / ".ledger/ledger.db").write_text("changes all the time")
    (tmp_path / "a").write_text("x")
    commit = source.pin("file:.?snapshot=no")
    (tmp_path / ".ledger/ledger.db").write_text("changed")
    assert source.check(commit).available
    assert commit.files == 1


def test_data_behind_a_link_are_pinned(local: DataSource, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/big").write_text("x")
    data = tmp_path / "data"
    data.mkdir()
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    commit = local.pin(data.as_uri())
    (tmp_path / "elsewhere/big").write_text("y")
    assert local.pin(data.as_uri()).digest != commit.digest
    local.fetch(commit, tmp_path / "back")
    assert (tmp_path / "back/linked/big").read_text() == "x"
    assert not (tmp_path / "back/linked").is_symlink()


def test_a_data_set_that_is_itself_a_link(local: DataSource, tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/a").write_text("x")
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2/a").write_text("y")
    (tmp_path / "current").symlink_to("v1")
    commit = local.pin(f"{(tmp_path / 'current').as_uri()}?snapshot=no")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("v2")
    assert "changed a" in local.check(commit).reason


def test_a_pipe_is_named(local: DataSource, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataUnavailable, match="pipe"):
        local.pin((tmp_path / "pipe").as_uri())
