from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import ledger
from tests.e2e.desk import Desk
from tests.e2e.project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    home = tmp_path / "desk"
    home.mkdir()
    desk = Desk(home)
    desk.git("init", "--quiet", "--initial-branch", "main")
    return desk


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    root = tmp_path / "project"
    root.mkdir()
    with ledger.open_ledger(str(tmp_path / "ledger")) as book:
        made = Project(root, book)
        made.git("init", "--quiet", "--initial-branch=main")
        yield made
