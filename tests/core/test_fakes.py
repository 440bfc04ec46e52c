"""The fakes keep the promises of their ports, and a ledger runs on them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import ledger
from ledger.hooks.manager import Plugins
from ledger.settings import in_memory
from ledger.testing.checkpoint_stores import BaseCheckpointStoreTests
from ledger.testing.data_sources import BaseDataSourceTests
from ledger.testing.fakes import FakeMirror, FakePlugin, FakeSource, FakeStore
from ledger.testing.mirrors import BaseMirrorTests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ledger.events import Stored
    from ledger.hooks.ports import CheckpointStore, DataSource, Mirror


class TestSource(BaseDataSourceTests):
    missing_uri = "fake:nothing"
    malformed_uri = "fake:not a name"

    @pytest.fixture
    def source(self) -> DataSource:
        return FakeSource()

    @pytest.fixture
    def publish(self, source: DataSource) -> Callable[[Path], str]:
        assert isinstance(source, FakeSource)
        return source.publish


class TestStore(BaseCheckpointStoreTests):
    @pytest.fixture
    def store(self) -> CheckpointStore:
        self.fake = FakeStore()
        return self.fake

    def corrupt(self, stored: Stored, file: str) -> None:
        content = self.content(stored)
        content[file] = bytes([content[file][0] ^ 1]) + content[file][1:]

    def truncate(self, stored: Stored, file: str) -> None:
        content = self.content(stored)
        content[file] = content[file][:-1]

    def lose(self, stored: Stored, file: str) -> None:
        del self.content(stored)[file]

    def content(self, stored: Stored) -> dict[str, bytes]:
        return self.fake.kept[stored.uri.removeprefix("fake:")]


class TestMirror(BaseMirrorTests):
    can_be_occupied = False

    @pytest.fixture
    def mirror(self) -> FakeMirror:
        return FakeMirror()

    @pytest.fixture
    def open_mirror(self, mirror: FakeMirror) -> Callable[[], Mirror]:
        return lambda: mirror

    @pytest.fixture
    def unreachable(self, mirror: FakeMirror) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def away() -> Iterator[None]:
            mirror.away = True
            yield
            mirror.away = False

        return away

    @pytest.mark.skip(reason="what is in memory ends with its process")
    def test_killed_on_the_way_and_restarted_it_is_shown_once(self, open_mirror: Callable[[], Mirror]) -> None: ...


def test_a_ledger_runs_on_them(tmp_path: Path) -> None:
    fakes = FakePlugin()
    (tmp_path / "words.txt").write_text("some words")
    uri = fakes.source.publish(tmp_path / "words.txt")
    with (
        ledger.open_ledger(settings=in_memory(tmp_path / "ledger"), plugins=Plugins.of(fakes)) as book,
        ledger.start_run(book=book) as run,
    ):
        assert run.use_data("train", uri).fetch().read_text() == "some words"
        run.log({"loss": 1.0}, step=1)
    assert fakes.heard[0] == "run.started"
    assert fakes.heard[-1] == "run.completed"
    assert "metrics.logged" in fakes.heard
