"""A data source over whatever lists files: what a stranger writes of one is in the first lines."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ledger import Hasher, ObjectStore
from ledger.errors import DataUnavailable, UsageError
from ledger.hooks.listed import ListedSource
from ledger.hooks.listed_files import PinnedFileSystem
from ledger.hooks.listing import SINGLE, File, Listing
from ledger.testing.data_sources import BaseDataSourceTests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.hooks.ports import DataSource


class Shelf(Listing):
    """``shelf://NAME`` is what lies there now, ``shelf://NAME@3`` what was there when it was put there third."""

    states: ClassVar[dict[str, list[dict[str, bytes]]]] = {}
    asked: ClassVar[list[str]] = []
    """``list``, or the name of what was read."""

    def __init__(self, path: str) -> None:
        name, _, number = path.removeprefix("shelf://").partition("@")
        super().__init__(path, commit=number or None)
        states = self.states.get(name, [{}])
        self._now = states[int(number) - 1 if number else -1]

    def files(self) -> Iterator[File]:
        """See ``Listing``."""
        self.asked.append("list")
        for name, content in self._now.items():
            yield File(name, len(content), hashlib.md5(content).hexdigest())  # as services do

    def read(self, file: File, start: int, end: int) -> bytes:
        """See ``Listing``."""
        self.asked.append(file.name)
        return self._now[file.name][start:end]


class ShelfSource(ListedSource):
    """The newest state, as a commit."""

    name = "shelf"
    version = "1"
    listing = Shelf

    def resolve(self, uri: str) -> Listing:
        """See ``ListedSource``."""
        if not uri.removeprefix("shelf://").isalpha():
            raise UsageError(f"{uri} is no shelf", mend="write shelf://name")
        return Shelf(f"{uri}@{len(Shelf.states.get(uri.removeprefix('shelf://'), [{}]))}")


class LooseSource(ShelfSource):
    """What is there now, which nothing fixes."""

    def resolve(self, uri: str) -> Listing:
        """See ``ListedSource``."""
        return Shelf(super().resolve(uri).path.partition("@")[0])


@pytest.fixture(autouse=True)
def _empty() -> None:
    Shelf.states.clear()
    Shelf.asked.clear()


def put(content: dict[str, bytes]) -> str:
    Shelf.states.setdefault("data", []).append(content)
    return "shelf://data"


def content_of(local: Path) -> dict[str, bytes]:
    if local.is_file():
        return {SINGLE: local.read_bytes()}
    return {path.relative_to(local).as_posix(): path.read_bytes() for path in local.rglob("*") if path.is_file()}


def opened(kind: type[ShelfSource], place: Path) -> ShelfSource:
    return kind(ObjectStore((place / "objects").as_uri(), scratch=place), place / "scratch")


@pytest.fixture
def source(tmp_path: Path) -> ShelfSource:
    return opened(ShelfSource, tmp_path)


@pytest.fixture
def loose(tmp_path: Path) -> ShelfSource:
    return opened(LooseSource, tmp_path)


class TestCommits(BaseDataSourceTests):
    missing_uri = "shelf://nowhere"
    malformed_uri = "shelf://no/shelf"

    @pytest.fixture
    def source(self, tmp_path: Path) -> DataSource:
        return opened(ShelfSource, tmp_path)

    @pytest.fixture
    def publish(self) -> Callable[[Path], str]:
        return lambda local: put(content_of(local))

    def test_pinning_again_gives_the_same_commit(
        self, source: DataSource, publish: Callable[[Path], str], tree: Path
    ) -> None:
        super().test_pinning_again_gives_the_same_commit(source, publish, tree)
        assert Shelf.asked.count("a.txt") == 1, "unchanged, and not read again"


class TestWithoutCommits(TestCommits):
    keeps_history = False

    @pytest.fixture
    def source(self, tmp_path: Path) -> DataSource:
        return opened(LooseSource, tmp_path)


class Service:
    """What the source in the docs asks."""

    def list(self, path: str) -> list[dict[str, Any]]:
        return [{"name": f.name, "size": f.bytes, "md5": f.checksum} for f in Shelf(f"shelf://{path[7:]}").files()]

    def get(self, path: str, name: str, start: int, end: int) -> bytes:
        return Shelf(f"shelf://{path[7:]}").read(File(name, 0), start, end)

    def newest(self, uri: str) -> int:
        return len(Shelf.states.get(uri[7:], [{}]))


class TestAsDocumented(TestCommits):
    """What docs/plugins.md says is a whole source."""

    missing_uri = "corpus:nowhere"
    malformed_uri = "corpus:"

    @pytest.fixture
    def source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSource:
        page = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
        blocks: list[str] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        (code,) = [block for block in blocks if "(ListedSource)" in block]
        module: Any = ModuleType("documented")
        module.service = Service()
        monkeypatch.setitem(sys.modules, "documented", module)
        exec(compile(code, "docs/plugins.md", "exec"), vars(module))
        return opened(module.Corpus, tmp_path)

    @pytest.fixture
    def publish(self) -> Callable[[Path], str]:
        return lambda local: put(content_of(local)).replace("shelf://", "corpus:")


def test_pieces_are_put_together_in_their_order(
    source: ShelfSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shelf, "piece", 7)
    files = {f"{size}": bytes(range(size)) for size in (0, 1, 6, 7, 8, 14, 200)}
    commit = source.pin(put(files))
    for name in ("moved", "read again"):
        source.fetch(commit, tmp_path / name)
        assert content_of(tmp_path / name) == files


def test_directories_that_are_empty_are_made(source: ShelfSource, tmp_path: Path) -> None:
    commit = source.pin(put({"": b"", "full/": b"", "full/a": b"1", "hollow/": b"", "deep/": b"", "deep/er/": b""}))
    source.fetch(commit, tmp_path / "fetched")
    assert (tmp_path / "fetched/hollow").is_dir()
    assert (tmp_path / "fetched/deep/er").is_dir()
    assert Hasher().tree(tmp_path / "fetched").digest == commit.digest
    filesystem, path = source.open(commit)
    assert sorted(filesystem.find(path, withdirs=True)) == [
        path,
        *(f"{path}/{name}" for name in ("deep", "deep/er", "full", "full/a", "hollow")),
    ]


@pytest.mark.parametrize("name", ["../up", "/top", "a//b", "a/../b", "a\\b", "a/b"])
def test_names_that_no_file_can_have_are_refused(source: ShelfSource, tmp_path: Path, name: str) -> None:
    uri = put({"a": b"1", name: b"2"})
    with pytest.raises(DataUnavailable, match="cannot be had as files") as caught:
        source.pin(uri)
    assert caught.value.mend
    assert Shelf.asked == ["list"], "nothing is read of it"


def test_a_read_that_gives_less_is_no_pin(source: ShelfSource, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = put({"a": b"1234", "b/c": b"5678"})
    monkeypatch.setattr(Shelf, "read", lambda *_: b"1")
    with pytest.raises(DataUnavailable, match="shelf://data@1/a is not as long as the 4 bytes"):
        source.pin(uri)


def test_a_commit_is_opened_without_being_listed_and_a_copy_of_it_can_be_sent(source: ShelfSource) -> None:
    commit = source.pin(put({"a": b"1234", "sub/b": b"5678"}))
    put({"a": b"other"})
    Shelf.asked.clear()
    opened, path = source.open(commit)
    filesystem = pickle.loads(pickle.dumps(opened))
    assert Shelf.asked == []
    assert filesystem.ls(path, detail=False) == [f"{path}/a", f"{path}/sub"]
    assert filesystem.cat_file(f"{path}/sub/b", -3, -1) == b"67"
    assert Shelf.asked == ["sub/b"]


def test_a_file_system_calls_nothing_but_a_listing(tmp_path: Path) -> None:
    filesystem = PinnedFileSystem("os:mkdir", str(tmp_path / "made"), [("a", 1, "", "")])
    with pytest.raises(TypeError, match="no Listing"):
        filesystem.cat_file(f"{filesystem.root}/a")
    assert not (tmp_path / "made").exists()


def test_without_its_record_a_commit_can_be_had_and_anything_else_is_refused(
    source: ShelfSource, loose: ShelfSource, tmp_path: Path
) -> None:
    uri = put({"a": b"1234"})
    fixed, now = source.pin(uri), loose.pin(uri)
    elsewhere, loose_elsewhere = (opened(kind, tmp_path / "other") for kind in (ShelfSource, LooseSource))
    assert elsewhere.check(fixed).available
    elsewhere.fetch(fixed, tmp_path / "fetched")
    assert "cannot be told" in loose_elsewhere.check(now).reason
    with pytest.raises(DataUnavailable, match="cannot be told"):
        loose_elsewhere.open(now)


def test_what_is_written_again_and_is_the_same_is_no_change(
    loose: ShelfSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = loose.pin(put({"a": b"1234"}))
    monkeypatch.setattr(File, "same", lambda *_: False)
    assert loose.check(commit).available
    loose.fetch(commit, tmp_path / "fetched")
    assert (tmp_path / "fetched/a").read_bytes() == b"1234"


def test_of_a_service_that_tells_of_no_change_nothing_is_remembered(
    loose: ShelfSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shelf, "files", lambda self: [File(name, len(c)) for name, c in self._now.items()])
    before = loose.pin(put({"a": b"1234"}))
    after = loose.pin(put({"a": b"5678"}))
    assert before.digest != after.digest
    assert loose.check(after).available
    assert "changed a" in loose.check(before).reason


def test_data_that_change_while_they_are_pinned_are_refused(
    loose: ShelfSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, read = put({"a": b"1234", "b": b"5"}), Shelf.read

    def changing(self: Shelf, file: File, start: int, end: int) -> bytes:
        piece = read(self, file, start, end)
        Shelf.states["data"][-1] |= {"a": b"4321"}
        return piece

    monkeypatch.setattr(Shelf, "read", changing)
    with pytest.raises(DataUnavailable, match=r"changed while it was being pinned: a$"):
        loose.pin(uri)
    monkeypatch.undo()
    Shelf.asked.clear()
    loose.pin(uri)
    assert sorted(Shelf.asked) == ["a", "b", "list", "list"], "nothing of it was remembered"
