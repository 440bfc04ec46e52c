from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ledger_trainer.tasks import kjv, mnist

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 300,000 characters of the real text: enough to learn from, quick to read."""
    directory = tmp_path_factory.mktemp("text")
    kjv.write_text(directory / "whole.txt")
    part = directory / "kjv.txt"
    part.write_text((directory / "whole.txt").read_text()[:300_000])
    return part


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "mnist.npz"
    mnist.write_images(path)
    return path
