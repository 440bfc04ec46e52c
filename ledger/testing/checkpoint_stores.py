"""Conformance of a ``CheckpointStore``::

class TestMyStore(BaseCheckpointStoreTests):
    @pytest.fixture
    def store(self, tmp_path): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ledger.errors import CheckpointUnavailable, Conflict, DigestMismatch, LedgerError, UsageError
from ledger.events import Stored
from ledger.files import Lent
from ledger.hooks.ports import Borrowing, CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class BaseCheckpointStoreTests:
    """What every checkpoint store promises. Override the fixture and, where it applies, the capabilities."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> CheckpointStore:
        """An empty store."""
        raise NotImplementedError

    def corrupt(self, stored: Stored, file: str) -> None:
        """Capability: change one byte of the file where the store keeps it, leaving its length."""
        pytest.skip("the bytes of this store are out of reach")

    def truncate(self, stored: Stored, file: str) -> None:
        """Capability: cut the file short where the store keeps it."""
        pytest.skip("the bytes of this store are out of reach")

    def lose(self, stored: Stored, file: str) -> None:
        """Capability: remove the file where the store keeps it."""
        pytest.skip("the bytes of this store are out of reach")

    def test_is_a_checkpoint_store(self, store: CheckpointStore) -> None:
        assert isinstance(store, CheckpointStore)

    def test_reads_back_what_was_written(self, store: CheckpointStore, tmp_path: Path) -> None:
        stored = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        store.read(stored, tmp_path / "new" / "back")
        assert _content(tmp_path / "new" / "back") == _FILES

    def test_what_is_lent_is_stored_as_if_it_were_written(self, store: CheckpointStore, tmp_path: Path) -> None:
        if not isinstance(store, Borrowing):
            pytest.skip("this store reads files only")
        content = memoryview(_FILES["model.pt"])
        lent = Lent({"model.pt": [content[:3], content[3:3], content[3:]]})
        rest = _directory(tmp_path / "rest", {name: _FILES[name] for name in _FILES if name != "model.pt"})
        stored = store.write_lent(rest, lent, "run-1/step-10")
        assert store.write_lent(rest, lent, "run-1/step-10") == stored
        assert store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10") == stored
        with pytest.raises(Conflict, match="run-1/step-10"):
            store.write_lent(rest, Lent({"model.pt": [content[3:]]}), "run-1/step-10")
        store.read(stored, tmp_path / "back")
        assert _content(tmp_path / "back") == _FILES

    def test_all_of_it_may_be_lent(self, store: CheckpointStore, tmp_path: Path) -> None:
        if not isinstance(store, Borrowing):
            pytest.skip("this store reads files only")
        (tmp_path / "empty" / "rng").mkdir(parents=True)
        lent = Lent((name, [memoryview(content)]) for name, content in _FILES.items())
        stored = store.write_lent(tmp_path / "empty", lent, "run-1/step-10")
        assert store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10") == stored

    def test_says_what_it_stored(self, store: CheckpointStore, tmp_path: Path) -> None:
        stored = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        assert {file.path: file.bytes for file in stored.files} == {name: len(_FILES[name]) for name in _FILES}
        assert stored.bytes == sum(map(len, _FILES.values()))
        assert stored.stored_bytes > 0
        assert len(stored.digest) == 64

    def test_survives_the_log(self, store: CheckpointStore, tmp_path: Path) -> None:
        stored = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        store.read(Stored.model_validate_json(stored.model_dump_json()), tmp_path / "back")
        assert _content(tmp_path / "back") == _FILES

    def test_holds_many_files(self, store: CheckpointStore, tmp_path: Path) -> None:
        many = {f"shard-{i % 7}/{i:04}.bin": i.to_bytes(4, "big") * (i + 1) for i in range(200)}
        stored = store.write(_directory(tmp_path / "out", many), "many")
        store.read(stored, tmp_path / "back")
        assert _content(tmp_path / "back") == many

    def test_same_content_again_is_the_same(self, store: CheckpointStore, tmp_path: Path) -> None:
        first = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        again = store.write(_directory(tmp_path / "again", _FILES), "run-1/step-10")
        assert again == first
        assert list(store.list("")) == [first]

    def test_other_content_is_a_conflict(self, store: CheckpointStore, tmp_path: Path) -> None:
        first = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        with pytest.raises(Conflict, match="run-1/step-10"):
            store.write(_directory(tmp_path / "other", _FILES | {"model.pt": b"other"}), "run-1/step-10")
        store.read(first, tmp_path / "back")
        assert _content(tmp_path / "back") == _FILES

    def test_a_name_and_content_decide_the_digest(self, store: CheckpointStore, tmp_path: Path) -> None:
        first = store.write(_directory(tmp_path / "a", {"x": b"1"}), "a")
        second = store.write(_directory(tmp_path / "b", {"y": b"1"}), "b")
        third = store.write(_directory(tmp_path / "c", {"x": b"1"}), "c")
        assert first.digest == third.digest != second.digest

    def test_a_base_changes_nothing_but_the_cost(self, store: CheckpointStore, tmp_path: Path) -> None:
        first = store.write(_directory(tmp_path / "a", _FILES), "run-1/step-10")
        moved = _FILES | {"model.pt": _FILES["model.pt"][:-1] + b"!"}
        second = store.write(_directory(tmp_path / "b", moved), "run-1/step-20", first)
        alone = store.write(tmp_path / "b", "run-2/step-20")
        assert set(second.bases) <= {first.digest}
        assert (second.digest, second.bytes, second.files) == (alone.digest, alone.bytes, alone.files)
        assert alone.bases == ()
        for number, stored in enumerate((second, alone)):
            store.read(stored, tmp_path / f"back-{number}")
            assert _content(tmp_path / f"back-{number}") == moved

    def test_sweep_takes_nothing_that_is_needed(self, store: CheckpointStore, tmp_path: Path) -> None:
        first = store.write(_directory(tmp_path / "a", _FILES), "run-1/step-10")
        second = store.write(_directory(tmp_path / "b", _FILES | {"model.pt": b"other"}), "run-1/step-20", first)
        assert list(store.sweep(dry=True)) == list(store.sweep(dry=False)) == []
        for number, stored in enumerate((first, second)):
            store.read(stored, tmp_path / f"back-{number}")

    def test_lists_by_key_and_prefix(self, store: CheckpointStore, tmp_path: Path) -> None:
        keys = ["run-1/step-10", "run-1/step-20", "run-10/step-10", "single"]
        written = [store.write(_directory(tmp_path / str(i), {"i": bytes([i])}), k) for i, k in enumerate(keys)]
        assert list(store.list("")) == written
        assert list(store.list("run-1")) == list(store.list("run-1/")) == written[:2]
        assert list(store.list("run-1/step-20")) == [written[1]]
        assert list(store.list("run-2")) == []

    def test_delete_removes_one_and_can_be_repeated(self, store: CheckpointStore, tmp_path: Path) -> None:
        first = store.write(_directory(tmp_path / "a", _FILES), "run-1/step-10")
        second = store.write(_directory(tmp_path / "b", _FILES), "run-1/step-20")
        store.delete(first)
        store.delete(first)
        assert list(store.list("")) == [second]
        _raises(CheckpointUnavailable, store, first, tmp_path / "back")
        store.read(second, tmp_path / "second")

    def test_a_key_is_free_after_delete(self, store: CheckpointStore, tmp_path: Path) -> None:
        store.delete(store.write(_directory(tmp_path / "a", _FILES), "run-1/step-10"))
        other = store.write(_directory(tmp_path / "b", {"model.pt": b"other"}), "run-1/step-10")
        store.read(other, tmp_path / "back")
        assert _content(tmp_path / "back") == {"model.pt": b"other"}

    def test_delete_spares_what_came_after(self, store: CheckpointStore, tmp_path: Path) -> None:
        old = store.write(_directory(tmp_path / "a", _FILES), "run-1/step-10")
        store.delete(old)
        new = store.write(_directory(tmp_path / "b", {"model.pt": b"other"}), "run-1/step-10")
        store.delete(old)
        assert list(store.list("")) == [new]
        store.read(new, tmp_path / "back")

    @pytest.mark.parametrize("key", ["", ".", "..", "../x", "a/../../x", "/abs", "a//b", "a/", "a\\b", "a\0b", "a\nb"])
    def test_refuses_unsafe_keys(self, store: CheckpointStore, tmp_path: Path, key: str) -> None:
        with pytest.raises(UsageError) as caught:
            store.write(_directory(tmp_path / "out", _FILES), key)
        assert caught.value.mend
        assert list(store.list("")) == []

    def test_refuses_what_is_not_its_own(self, store: CheckpointStore, tmp_path: Path) -> None:
        stored = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        for uri in (stored.uri.replace("run-1", "../run-1"), "elsewhere://host/run-1/step-99", "/etc"):
            foreign = stored.model_copy(update={"uri": uri, "digest": "0" * 64})
            with pytest.raises(UsageError):
                store.delete(foreign)
            with pytest.raises(UsageError):
                store.read(foreign, tmp_path / "back")
        assert list(store.list("")) == [stored]

    def test_refuses_one_checkpoint_inside_another(self, store: CheckpointStore, tmp_path: Path) -> None:
        inner = store.write(_directory(tmp_path / "a", _FILES), "run-1/step-10")
        for key in ("run-1", "run-1/step-10/more"):
            with pytest.raises(Conflict):
                store.write(_directory(tmp_path / "b", _FILES), key)
        assert list(store.list("")) == [inner]

    def test_refuses_nothing_to_store(self, store: CheckpointStore, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for directory in (tmp_path / "empty", tmp_path / "nowhere"):
            with pytest.raises(LedgerError):
                store.write(directory, "run-1/step-10")
        assert list(store.list("")) == []

    def test_read_refuses_a_place_that_is_taken(self, store: CheckpointStore, tmp_path: Path) -> None:
        stored = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        taken = _directory(tmp_path / "taken", {"mine": b"precious"})
        with pytest.raises(UsageError, match="taken"):
            store.read(stored, taken)
        assert _content(taken) == {"mine": b"precious"}

    def test_corruption_is_found_and_named(self, store: CheckpointStore, tmp_path: Path) -> None:
        stored = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        self.corrupt(stored, "rng/rank-0.pt")
        _raises(DigestMismatch, store, stored, tmp_path / "back", "rng/rank-0.pt")

    def test_a_truncated_file_is_found_and_not_listed(self, store: CheckpointStore, tmp_path: Path) -> None:
        stored = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        self.truncate(stored, "model.pt")
        assert list(store.list("")) == []
        _raises(DigestMismatch, store, stored, tmp_path / "back", "model.pt")

    def test_a_lost_file_is_found_and_not_listed(self, store: CheckpointStore, tmp_path: Path) -> None:
        stored = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        self.lose(stored, "model.pt")
        assert list(store.list("")) == []
        _raises(CheckpointUnavailable, store, stored, tmp_path / "back", "model.pt")

    @pytest.mark.parametrize("damage", ["corrupt", "truncate", "lose"])
    def test_writing_again_repairs(self, store: CheckpointStore, tmp_path: Path, damage: str) -> None:
        stored = store.write(_directory(tmp_path / "out", _FILES), "run-1/step-10")
        getattr(self, damage)(stored, "model.pt")
        assert store.write(tmp_path / "out", "run-1/step-10") == stored
        store.read(stored, tmp_path / "back")
        assert _content(tmp_path / "back") == _FILES


_FILES = {
    "model.pt": bytes(range(256)) * 5000,
    "optimizer.pt": b"state",
    "empty": b"",
    "rng/rank-0.pt": b"numbers",
    "rng/deep/er/\N{GREEK SMALL LETTER ALPHA} name.txt": "\N{SNOWMAN}".encode(),
}


def _directory(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def _content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _raises(
    kind: type[LedgerError], store: CheckpointStore, stored: Stored, dest: Path, file: str = "run-1/step-10"
) -> None:
    """Reading must fail, name the file, and leave nothing at ``dest``."""
    with pytest.raises(kind) as caught:
        store.read(stored, dest)
    assert file in str(caught.value)
    assert not dest.exists()
