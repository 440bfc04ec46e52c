"""W&B: the conformance kit over offline files and over a server that W&B's own client uploads to."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ledger.testing.mirrors import BaseMirrorTests
from ledger_wandb.mirror import OfflineMirror, OnlineMirror
from tests.wandb_standin import ENTITY, KEY, WandbStandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ledger.hooks.ports import Mirror

_FOREIGN = """
import sys, wandb
settings = wandb.Settings(console="off", x_disable_stats=True, x_disable_machine_info=True, disable_git=True)
run = wandb.init(mode="offline", dir=sys.argv[1], project=sys.argv[2], id=sys.argv[3], settings=settings)
run.log({"loss": 1.0})
run.finish()
"""


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbStandIn]:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with WandbStandIn() as running:
        yield running
        assert running.unknown == []


class TestOfflineMirror(BaseMirrorTests):
    client = "wandb"
    kills = 2

    @pytest.fixture
    def open_mirror(self, tmp_path: Path) -> Callable[[], Mirror]:
        return functools.partial(OfflineMirror, tmp_path / "wandb", "", "")

    @pytest.fixture
    def unreachable(self, tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def away() -> Iterator[None]:
            (tmp_path / "wandb").rename(tmp_path / "aside")
            (tmp_path / "wandb").write_text("not a directory")
            yield
            (tmp_path / "wandb").unlink()
            (tmp_path / "aside").rename(tmp_path / "wandb")

        return away

    @pytest.fixture
    def occupy(self, tmp_path: Path) -> Callable[[str], None]:
        return lambda run: _log_with_wandb(tmp_path, "else", run)


@pytest.mark.thorough
class TestOnlineMirror(BaseMirrorTests):
    client = "wandb"
    secrets = (KEY,)
    kills = 2

    @pytest.fixture
    def open_mirror(self, tmp_path: Path, standin: WandbStandIn) -> Callable[[], Mirror]:
        return functools.partial(OnlineMirror, tmp_path / "wandb", ENTITY, "kit", standin.url)

    @pytest.fixture
    def unreachable(self, standin: WandbStandIn) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def away() -> Iterator[None]:
            standin.stop()
            yield
            standin.start()

        return away

    @pytest.fixture
    def occupy(self, tmp_path: Path, standin: WandbStandIn) -> Callable[[str], None]:
        def take(run: str) -> None:
            _log_with_wandb(tmp_path / "elsewhere", "kit", run)
            _sync(next((tmp_path / "elsewhere").rglob("*.wandb")), standin)

        return take


def _log_with_wandb(directory: Path, project: str, run: str) -> None:
    directory.mkdir(exist_ok=True)
    words = [sys.executable, "-c", _FOREIGN, str(directory), project, run]
    subprocess.run(words, check=True, timeout=120, capture_output=True)


def _sync(path: Path, standin: WandbStandIn) -> None:
    words = [sys.executable, "-m", "wandb", "sync", "-e", ENTITY, str(path)]
    environ = os.environ | {"WANDB_BASE_URL": standin.url, "WANDB_DIR": str(path.parent)}
    done = subprocess.run(words, env=environ, timeout=120, capture_output=True)
    assert done.returncode == 0, done.stderr
