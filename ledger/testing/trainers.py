"""Conformance of a ``Trainer``::

class TestMyTrainer(BaseTrainerTests):
    @pytest.fixture
    def trainer(self): ...

    @pytest.fixture
    def recipe(self, tmp_path): ...

    @pytest.fixture
    def data(self, tmp_path): ...

    override, mistake, resized = "lr=0.5", "no.such.key=1", 2
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from ledger.codec import canonical_json
from ledger.errors import InvalidRecipe
from ledger.hooks.ports import Trainer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class BaseTrainerTests:
    """What every trainer promises. Override the fixtures, the attributes and, where it applies, the capability."""

    override: ClassVar[str]
    """``key=value`` that changes the recipe."""
    mistake: ClassVar[str]
    """``key=value`` that no recipe takes."""
    resized: ClassVar[int | None] = None
    """Capability: another number of processes that the recipe can be shared out among."""

    @pytest.fixture
    def trainer(self) -> Trainer:
        """A trainer."""
        raise NotImplementedError

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Path:
        """The file of a small recipe with two steps or more."""
        raise NotImplementedError

    @pytest.fixture
    def data(self, tmp_path: Path) -> Mapping[str, Path]:
        """The data sets of the recipe by name, as if fetched."""
        raise NotImplementedError

    def test_is_a_trainer(self, trainer: Trainer) -> None:
        assert isinstance(trainer, Trainer)

    def test_every_key_is_described_once(self, trainer: Trainer) -> None:
        keys = trainer.describe()
        assert keys
        assert len({(key.key, key.help) for key in keys}) == len(keys)
        assert all(key.key and key.type and key.help for key in keys)

    def test_a_recipe_has_all_that_a_run_needs(self, trainer: Trainer, recipe: Path, data: Mapping[str, Path]) -> None:
        resolved = trainer.resolve(recipe, ())
        assert resolved.command
        assert resolved.steps >= 2
        assert resolved.data.keys() == data.keys()
        assert canonical_json(resolved.config)

    def test_the_same_recipe_resolves_to_the_same(self, trainer: Trainer, recipe: Path) -> None:
        assert trainer.resolve(recipe, ()) == trainer.resolve(recipe, ())

    def test_an_override_changes_the_recipe(self, trainer: Trainer, recipe: Path) -> None:
        assert trainer.resolve(recipe, (self.override,)).config != trainer.resolve(recipe, ()).config

    def test_a_mistake_is_refused_with_what_to_do(self, trainer: Trainer, recipe: Path) -> None:
        with pytest.raises(InvalidRecipe) as caught:
            trainer.resolve(recipe, (self.mistake,))
        assert self.mistake.partition("=")[0].partition(".")[0] in str(caught.value)
        assert caught.value.mend

    def test_a_recipe_that_is_not_there_is_refused(self, trainer: Trainer, tmp_path: Path) -> None:
        with pytest.raises(InvalidRecipe) as caught:
            trainer.resolve(tmp_path / "nowhere.toml", ())
        assert "nowhere.toml" in str(caught.value)

    def test_a_recipe_can_be_resized_from_what_is_on_record(self, trainer: Trainer, recipe: Path) -> None:
        if self.resized is None:
            pytest.skip("this trainer keeps its number of processes")
        resolved = trainer.resolve(recipe, ())
        resized = trainer.resize(resolved.config, self.resized)
        assert resized.world.processes == self.resized
        assert (resized.steps, resized.seed, resized.data) == (resolved.steps, resolved.seed, resolved.data)

    def test_the_samples_of_a_step_are_told_again_and_again(
        self, trainer: Trainer, recipe: Path, data: Mapping[str, Path]
    ) -> None:
        resolved = trainer.resolve(recipe, ())
        first = trainer.samples(resolved.config, data, 1)
        assert len(first) == resolved.world.processes
        assert all(first)
        assert trainer.samples(resolved.config, data, 1) == first

    def test_the_steps_of_a_sample_are_those_that_read_it(
        self, trainer: Trainer, recipe: Path, data: Mapping[str, Path]
    ) -> None:
        resolved = trainer.resolve(recipe, ())
        told = {step: trainer.samples(resolved.config, data, step) for step in range(1, resolved.steps + 1)}
        sample = told[2][0][0]
        expected = [(step, rank) for step, ranks in told.items() for rank, read in enumerate(ranks) if sample in read]
        assert trainer.readings(resolved.config, data, sample) == expected
        assert trainer.readings(resolved.config, data, -1) == []

    @pytest.mark.parametrize("step", [0, 10**9])
    def test_there_are_no_samples_of_a_step_that_is_not(
        self, trainer: Trainer, recipe: Path, data: Mapping[str, Path], step: int
    ) -> None:
        with pytest.raises(InvalidRecipe):
            trainer.samples(trainer.resolve(recipe, ()).config, data, step)
