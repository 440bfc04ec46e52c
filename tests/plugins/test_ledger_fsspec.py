"""The checkpoint store on fsspec, over local files and over memory."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

import fsspec
import pytest

import ledger_fsspec
from ledger.errors import Conflict, DataUnavailable, IntegrityError, PluginUnavailable, Unavailable, UsageError
from ledger.settings import in_memory
from ledger.testing.checkpoint_stores import BaseCheckpointStoreTests
from ledger_fsspec import source
from ledger_fsspec.index import Index
from ledger_fsspec.objects import place
from ledger_fsspec.shelves import LocalShelf
from ledger_fsspec.store import FsspecStore

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def object_of(index: bytes, file: str) -> str:
    """Path in the store of the first object that keeps this file of the checkpoint with this index."""
    return place(Index.parse(index).files[file][0][0])


class TestLocal(BaseCheckpointStoreTests):
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "check points # 100%"

    @pytest.fixture
    def store(self, root: Path, tmp_path: Path) -> CheckpointStore:
        return open_store(root.as_uri(), tmp_path)

    def _at(self, stored: Stored, file: str) -> Path:
        folder = Path(unquote(urlsplit(stored.uri).path))
        root = next(parent for parent in folder.parents if (parent / "objects").is_dir())
        return root / object_of((folder / "checkpoint.json").read_bytes(), file)

    def corrupt(self, stored: Stored, file: str) -> None:
        content = bytearray(self._at(stored, file).read_bytes())
        content[-1] ^= 1
        self._at(stored, file).write_bytes(content)

    def truncate(self, stored: Stored, file: str) -> None:
        os.truncate(self._at(stored, file), 3)

    def lose(self, stored: Stored, file: str) -> None:
        self._at(stored, file).unlink()


class Remote(BaseCheckpointStoreTests):
    """A store whose files are reached through fsspec; the fixture ``root`` is its URL."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, root: str, tmp_path: Path) -> CheckpointStore:
        self.fs, self.path = fsspec.url_to_fs(root)
        return open_store(root, tmp_path)

    def _at(self, stored: Stored, file: str) -> str:
        key = unquote(stored.uri).partition("run-")[2]
        return f"{self.path}/{object_of(self.fs.cat_file(f'{self.path}/run-{key}/checkpoint.json'), file)}"

    def corrupt(self, stored: Stored, file: str) -> None:
        content = bytearray(self.fs.cat_file(self._at(stored, file)))
        content[-1] ^= 1
        self.fs.pipe_file(self._at(stored, file), bytes(content))

    def truncate(self, stored: Stored, file: str) -> None:
        self.fs.pipe_file(self._at(stored, file), self.fs.cat_file(self._at(stored, file))[:3])

    def lose(self, stored: Stored, file: str) -> None:
        self.fs.rm_file(self._at(stored, file))


class TestMemory(Remote):
    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        return f"memory://checkpoints{tmp_path}"


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


def test_modes_links_and_empty_directories(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    out = directory(tmp_path / "out", model=b"weights", tool=b"#!/bin/sh\n")
    (out / "tool").chmod(0o755)
    (out / "nothing").mkdir()
    (out / "latest").symlink_to("model")
    stored = store.write(out, "run-1/step-10")
    back = tmp_path / "back"
    store.read(stored, back)
    assert sorted(os.listdir(back)) == ["latest", "model", "nothing", "tool"]
    assert (back / "model").read_bytes() == (back / "latest").read_bytes() == b"weights"
    assert not (back / "latest").is_symlink()
    assert os.access(back / "tool", os.X_OK)
    assert not os.access(back / "model", os.X_OK)
    assert (back / "nothing").is_dir()


def test_the_index_holds_the_manifest_and_every_object(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    stored = store.write(directory(tmp_path / "out", model=b"weights"), "run-1/step-10")
    index = Index.parse((tmp_path / "store/run-1/step-10/checkpoint.json").read_bytes())
    assert index.manifest.digest == stored.digest
    assert os.listdir(tmp_path / "store/run-1/step-10") == ["checkpoint.json"]
    objects = {path: path.stat().st_size for path in (tmp_path / "store/objects").rglob("*") if path.is_file()}
    assert objects == {tmp_path / "store" / place(name): size for name, size in index.objects.items()}
    assert stored.stored_bytes == sum(objects.values()) + len(index.content)


@pytest.mark.parametrize("name", ["objects", "pending", "sweeping", "tmp"])
def test_the_names_of_its_own_folders_are_reserved(tmp_path: Path, name: str) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    with pytest.raises(UsageError, match=name):
        store.write(directory(tmp_path / "out", model=b"1"), f"{name}/step-1")


def test_a_damaged_index_hides_the_checkpoint(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    out = directory(tmp_path / "out", model=b"1")
    stored = store.write(out, "run-1/step-1")
    index = tmp_path / "store/run-1/step-1/checkpoint.json"
    os.truncate(index, 10)
    assert list(store.list("")) == []
    with pytest.raises(IntegrityError):
        store.read(stored, tmp_path / "back")
    again = store.write(out, "run-1/step-1")
    assert again.digest == stored.digest
    assert list(store.list("")) == [again]


def test_every_changed_bit_is_seen(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    noise = random.Random(0).randbytes(600)
    base = store.write(directory(tmp_path / "a", model=noise), "run-1/step-1")
    stored = store.write(directory(tmp_path / "b", model=noise[:-1] + b"!"), "run-1/step-2", base)
    assert stored.bases == (base.digest,)
    root = tmp_path / "store"
    needed = Index.parse((root / "run-1/step-2/checkpoint.json").read_bytes()).objects
    assert len(needed) == 2
    for file in [root / "run-1/step-2/checkpoint.json", *(root / place(name) for name in needed)]:
        content = file.read_bytes()
        for at in range(len(content)):
            file.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
            with pytest.raises(IntegrityError):
                store.read(stored, tmp_path / "back")
        file.write_bytes(content)
    store.read(stored, tmp_path / "back")


def test_leftovers_of_a_killed_writer_disturb_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    out = directory(tmp_path / "out", model=b"1")
    first = store.write(out, "run-1/step-1")
    index = tmp_path / "store/run-1/step-1/checkpoint.json"
    index.rename(tmp_path / "store/tmp/0-c0ffee")  # complete but for the name
    assert list(store.list("")) == []
    assert store.write(out, "run-1/step-1").digest == first.digest
    assert [(each.path, each.reason) for each in store.sweep(dry=False)] == [
        ("tmp/0-c0ffee", "left over by a process that was killed")
    ]
    store.read(first, tmp_path / "back")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/run-1").write_text("a file where a directory should go")
    with pytest.raises(Unavailable) as caught:
        store.write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    assert caught.value.mend
    files = [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert files == ["run-1"]


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = directory(tmp_path / "out", model=bytes(100))
    cut = source.lengths

    def cut_and_write(stream: BinaryIO, size: int) -> list[int]:
        (out / "model").write_bytes(bytes(50))
        return cut(stream, size)

    monkeypatch.setattr(source, "lengths", cut_and_write)
    with pytest.raises(DataUnavailable, match="changed"):
        open_store(str(tmp_path / "store"), tmp_path).write(out, "run-1/step-1")


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
    store.delete(stored)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == [note]


def test_a_store_that_was_moved_still_finds_its_checkpoints(tmp_path: Path) -> None:
    stored = open_store(str(tmp_path / "old"), tmp_path).write(directory(tmp_path / "out", model=b"1"), "run-1/step-1")
    (tmp_path / "old").rename(tmp_path / "new")
    open_store(str(tmp_path / "new"), tmp_path).read(stored, tmp_path / "back")
    assert (tmp_path / "back/model").read_bytes() == b"1"


def test_the_slower_of_two_writers_gets_the_same_or_a_conflict(tmp_path: Path) -> None:
    """Publishing finds that another process has published meanwhile."""
    out = directory(tmp_path / "out", model=b"1")
    other = directory(tmp_path / "other", model=b"2")
    fast = FsspecStore(LocalShelf(tmp_path / "store"))

    class Slow(LocalShelf):
        def __init__(self, first: Path) -> None:
            super().__init__(tmp_path / "store")
            self.first = first

        def create(self, path: str, parts: Sequence[Any]) -> bool:
            if path.endswith("checkpoint.json"):
                fast.write(self.first, path.removesuffix("/checkpoint.json"))
            return super().create(path, parts)

    assert FsspecStore(Slow(out)).write(out, "same") == next(fast.list("same"))
    with pytest.raises(Conflict):
        FsspecStore(Slow(out)).write(other, "different")
    assert [stored.uri.rpartition("/")[2] for stored in fast.list("")] == ["different", "same"]
    assert list(fast.sweep(dry=True)) == []
