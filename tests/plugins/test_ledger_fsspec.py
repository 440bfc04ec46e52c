"""The checkpoint store on fsspec, over local files and over memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import fsspec
import pytest

import ledger_fsspec
from ledger import Manifest
from ledger.errors import Conflict, PluginUnavailable, Unavailable, UsageError
from ledger.settings import in_memory
from ledger.testing.checkpoint_stores import BaseCheckpointStoreTests

if TYPE_CHECKING:
    from ledger.events import Stored
    from ledger.hooks.ports import CheckpointStore


def open_store(uri: str, tmp_path: Path) -> CheckpointStore:
    store = ledger_fsspec.open_checkpoint_store(uri, in_memory(tmp_path / "ledger"))
    assert store is not None
    return store


def directory(path: Path, **files: bytes) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def place(stored: Stored) -> Path:
    return Path(unquote(urlsplit(stored.uri).path))


class TestLocal(BaseCheckpointStoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> CheckpointStore:
        return open_store((tmp_path / "check points # 100%").as_uri(), tmp_path)

    def corrupt(self, stored: Stored, file: str) -> None:
        content = bytearray((place(stored) / file).read_bytes())
        content[0] ^= 1
        (place(stored) / file).write_bytes(content)

    def truncate(self, stored: Stored, file: str) -> None:
        os.truncate(place(stored) / file, 3)

    def lose(self, stored: Stored, file: str) -> None:
        (place(stored) / file).unlink()


class TestMemory(BaseCheckpointStoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> CheckpointStore:
        return open_store(f"memory://checkpoints{tmp_path}", tmp_path)

    def _at(self, stored: Stored, file: str) -> str:
        return f"{unquote(stored.uri)}/{file}"

    def corrupt(self, stored: Stored, file: str) -> None:
        fs = fsspec.filesystem("memory")
        content = bytearray(fs.cat_file(self._at(stored, file)))
        content[0] ^= 1
        fs.pipe_file(self._at(stored, file), bytes(content))

    def truncate(self, stored: Stored, file: str) -> None:
        fs = fsspec.filesystem("memory")
        fs.pipe_file(self._at(stored, file), fs.cat_file(self._at(stored, file))[:3])

    def lose(self, stored: Stored, file: str) -> None:
        fsspec.filesystem("memory").rm_file(self._at(stored, file))


@pytest.mark.parametrize("uri", ["plain/path", "file:relative", "file:///ABS/x", "memory:", "memory://x"])
def test_answers_to_paths_and_fsspec_urls(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = uri.replace("/ABS", str(tmp_path))
    stored = open_store(uri, tmp_path).write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    open_store(uri, tmp_path).read(stored, tmp_path / "back")
    assert (tmp_path / "back/model").read_bytes() == b"1"
    open_store(uri, tmp_path).delete(stored)


def test_leaves_unknown_schemes_to_others(tmp_path: Path) -> None:
    assert ledger_fsspec.open_checkpoint_store("nosuchthing://x", in_memory(tmp_path)) is None


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginUnavailable, match="libarchive") as caught:
        open_store("libarchive://user:secret@x", tmp_path)
    assert caught.value.mend
    assert "secret" not in str(caught.value)


def test_uris_hold_no_credentials(tmp_path: Path) -> None:
    store = open_store(f"memory://me:secret@bucket{tmp_path}", tmp_path)
    stored = store.write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    assert stored.uri == f"memory://bucket{tmp_path}/run-1/step-1"
    store.read(stored, tmp_path / "back")


def test_a_local_checkpoint_is_plain_files_and_a_manifest(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    out = directory(tmp_path / "out", model=b"weights", tool=b"#!/bin/sh\n")
    (out / "tool").chmod(0o755)
    (out / "nothing").mkdir()
    (out / "latest").symlink_to("model")
    stored = store.write(out, "run-1/step-10")
    kept = tmp_path / "store/run-1/step-10"
    assert sorted(os.listdir(kept)) == ["latest", "manifest.json", "model", "nothing", "tool"]
    assert (kept / "model").read_bytes() == (kept / "latest").read_bytes() == b"weights"
    assert os.access(kept / "tool", os.X_OK)
    assert not (kept / "latest").is_symlink()
    assert Manifest.parse((kept / "manifest.json").read_bytes()).digest == stored.digest
    store.read(stored, tmp_path / "back")
    assert os.access(tmp_path / "back/tool", os.X_OK)
    assert (tmp_path / "back/nothing").is_dir()


def test_the_manifest_name_is_reserved(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    out = directory(tmp_path / "out", model=b"1")
    (out / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match=r"manifest\.json"):
        store.write(out, "run-1/step-1")


def test_a_manifest_further_down_is_just_a_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    first = store.write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    nested = tmp_path / "nested"
    nested.mkdir()
    (tmp_path / "store/run-1/step-1").rename(nested / "inner")
    outer = store.write(nested, "run-2/step-1")
    assert list(store.list("")) == [outer]
    assert first not in list(store.list("run-2"))


def test_a_damaged_manifest_hides_the_checkpoint(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    out = directory(tmp_path / "out", model=b"1")
    stored = store.write(out, "run-1/step-1")
    manifest = tmp_path / "store/run-1/step-1/manifest.json"
    os.truncate(manifest, 10)
    assert list(store.list("")) == []
    assert store.write(out, "run-1/step-1") == stored
    assert list(store.list("")) == [stored]


def test_leftovers_of_a_killed_writer_disturb_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    out = directory(tmp_path / "out", model=b"1")
    first = store.write(out, "run-1/step-1")
    leftover = tmp_path / "store/.ledger-0123"
    (tmp_path / "store/run-1/step-1").rename(leftover)  # complete but for the rename
    half = directory(tmp_path / "store/run-1/step-2", model=b"half")
    assert list(store.list("")) == []
    assert store.write(out, "run-1/step-1") == first
    second = store.write(out, "run-1/step-2")
    assert list(store.list("")) == [first, second]
    assert half.joinpath("model").read_bytes() == b"1"
    aside = [p for p in (tmp_path / "store").iterdir() if "aside" in p.name]
    assert [(p / "model").read_bytes() for p in aside] == [b"half"]  # it may be somebody's: kept


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/run-1").write_text("a file where a directory should go")
    with pytest.raises(Unavailable) as caught:
        store.write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    assert caught.value.mend
    assert os.listdir(tmp_path / "store") == ["run-1"]


def test_refuses_to_store_a_directory_over_itself(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    out = directory(tmp_path / "store/run-1/step-1", model=b"1")
    with pytest.raises(UsageError, match="very place"):
        store.write(out, "run-1/step-1")
    assert os.listdir(out) == ["model"]


def test_delete_spares_files_that_are_not_the_stores(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    stored = store.write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    note = tmp_path / "store/run-1/step-1/notes.txt"
    note.write_text("mine")
    (tmp_path / "store/victim").write_text("outside of the key")
    forged = stored.model_copy(update={"files": (stored.files[0].model_copy(update={"path": "../../victim"}),)})
    with pytest.raises(Exception, match="unsafe path"):
        store.delete(forged)
    store.delete(stored)
    assert note.read_text() == "mine"
    assert os.listdir(note.parent) == ["notes.txt"]
    assert (tmp_path / "store/victim").exists()


def test_a_store_that_was_moved_still_finds_its_checkpoints(tmp_path: Path) -> None:
    stored = open_store(str(tmp_path / "old"), tmp_path).write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    (tmp_path / "old").rename(tmp_path / "new")
    open_store(str(tmp_path / "new"), tmp_path).read(stored, tmp_path / "back")
    assert (tmp_path / "back/model").read_bytes() == b"1"


def test_the_slower_of_two_writers_gets_the_same_or_a_conflict(tmp_path: Path) -> None:
    """Publishing finds that another process has published meanwhile."""
    from ledger_fsspec.shelves import LocalShelf
    from ledger_fsspec.store import FsspecStore

    out = directory(tmp_path / "out", model=b"1")
    other = directory(tmp_path / "other", model=b"2")
    fast = FsspecStore(LocalShelf(tmp_path / "store"))

    class Slow(LocalShelf):
        def __init__(self, root: Path, first: Path) -> None:
            super().__init__(root)
            self.first = first

        def move(self, source: str, dest: str, files: object) -> None:
            fast.write(self.first, dest)
            super().move(source, dest, [])

    assert FsspecStore(Slow(tmp_path / "store", out)).write(out, "same").digest
    with pytest.raises(Conflict):
        FsspecStore(Slow(tmp_path / "store", other)).write(out, "different")
    assert sorted(os.listdir(tmp_path / "store")) == ["different", "same"]
