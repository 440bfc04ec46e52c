"""The bundled trainer keeps the promises of its port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ledger.testing.trainers import BaseTrainerTests
from ledger_trainer.trainer import RecipeTrainer
from tests.engine_table import RECIPE, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.hooks.ports import Trainer


class TestTrainer(BaseTrainerTests):
    override, mistake, resized = "optim.lr=0.5", "optim.speed=1", 2

    @pytest.fixture
    def trainer(self) -> Trainer:
        return RecipeTrainer()

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Path:
        (tmp_path / "recipe.toml").write_text(RECIPE)
        return tmp_path / "recipe.toml"

    @pytest.fixture
    def data(self, tmp_path: Path) -> dict[str, Path]:
        write_text(tmp_path)
        return {"train": tmp_path / "kjv.txt"}
