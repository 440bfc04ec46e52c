"""The conformance kit over Neptune's offline runs, read back by their queue, and over a server, read by its client."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ledger.testing.mirrors import BaseMirrorTests
from ledger_neptune.mirror import OfflineMirror, OnlineMirror
from ledger_neptune.place import Place
from ledger_neptune.queue import folder_of_run
from tests.neptune_standin import KEY, PROJECT, NeptuneStandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ledger.hooks.ports import Mirror


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[NeptuneStandIn]:
    with NeptuneStandIn() as running:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", running.key)
        monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
        yield running
        assert running.unknown == []
        assert running.refused == []


class TestOfflineMirror(BaseMirrorTests):
    client = "neptune"
    kills = 2

    @pytest.fixture
    def open_mirror(self, tmp_path: Path) -> Callable[[], Mirror]:
        return functools.partial(OfflineMirror, tmp_path / "neptune")

    @pytest.fixture
    def unreachable(self, tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def away() -> Iterator[None]:
            (tmp_path / "neptune").rename(tmp_path / "aside")
            (tmp_path / "neptune").write_text("not a directory")
            yield
            (tmp_path / "neptune").unlink()
            (tmp_path / "aside").rename(tmp_path / "neptune")

        return away

    @pytest.fixture
    def occupy(self, tmp_path: Path) -> Callable[[str], None]:
        def take(run: str) -> None:
            import neptune
            from neptune.constants import OFFLINE_DIRECTORY

            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("NEPTUNE_DATA_DIRECTORY", str(tmp_path / "elsewhere"))
                with neptune.init_run(mode="offline", project="a/b", capture_hardware_metrics=False) as theirs:
                    theirs["loss"].append(1.0)
            folder = folder_of_run(tmp_path / "neptune", run)
            folder.parent.mkdir(parents=True)
            next((tmp_path / "elsewhere" / OFFLINE_DIRECTORY).iterdir()).rename(folder)

        return take


@pytest.mark.slow
class TestOnlineMirror(BaseMirrorTests):
    client = "neptune"
    secrets: Sequence[str] = ()
    kills = 4

    @pytest.fixture
    def open_mirror(self, tmp_path: Path, standin: NeptuneStandIn) -> Callable[[], Mirror]:
        self.secrets = (KEY, standin.key)
        return functools.partial(OnlineMirror, tmp_path / "neptune", Place(standin.url, PROJECT))

    @pytest.fixture
    def unreachable(self, standin: NeptuneStandIn) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def away() -> Iterator[None]:
            standin.stop()
            yield
            standin.start()

        return away

    @pytest.fixture
    def occupy(self, standin: NeptuneStandIn) -> Callable[[str], None]:
        def take(run: str) -> None:
            from neptune.internal.container_type import ContainerType
            from neptune.internal.operation import LogFloats

            from ledger_neptune.backend import Backend

            theirs = Backend(standin.url)
            made = theirs.create_run(theirs.get_project(PROJECT).id, custom_run_id=run)
            loss = LogFloats(["loss"], [LogFloats.ValueType(1.0, 1.0, 1.0)])
            assert theirs.execute_operations(made.id, ContainerType.RUN, [loss], None) == (1, [])

        return take
