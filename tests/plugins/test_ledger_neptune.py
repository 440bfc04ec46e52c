"""The conformance kit over Neptune's offline runs, read back by the queue that ``neptune sync`` reads."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ledger.testing.mirrors import BaseMirrorTests
from ledger_neptune.mirror import NeptuneMirror
from ledger_neptune.queue import place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ledger.hooks.ports import Mirror


class TestNeptuneMirror(BaseMirrorTests):
    client = "neptune"
    kills = 2

    @pytest.fixture
    def open_mirror(self, tmp_path: Path) -> Callable[[], Mirror]:
        return functools.partial(NeptuneMirror, tmp_path / "neptune")

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
            folder = place(tmp_path / "neptune", run)
            folder.parent.mkdir(parents=True)
            next((tmp_path / "elsewhere" / OFFLINE_DIRECTORY).iterdir()).rename(folder)

        return take
