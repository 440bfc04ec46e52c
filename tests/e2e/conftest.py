from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    home = tmp_path / "desk"
    home.mkdir()
    desk = Desk(home)
    desk.git("init", "--quiet", "--initial-branch", "main")
    return desk
