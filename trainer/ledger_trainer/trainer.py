"""The trainer as ``ledger train`` sees it, in the process of the command line: no torch here."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from ledger.errors import InvalidRecipe
from ledger.events import World
from ledger.hooks.ports import Recipe, RecipeKey
from ledger_trainer.feed import Feed
from ledger_trainer.recipe import TrainingRecipe
from ledger_trainer.recipe_file import Source, read, type_name, validate, validate_options, walk
from ledger_trainer.sampling import positions, share_of
from ledger_trainer.task import BUNDLED, find_factory, split_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic import BaseModel

COMMAND = ("-m", "ledger_trainer")


class RecipeTrainer:
    """Implements ``ledger.hooks.ports.Trainer``."""

    def describe(self) -> Sequence[RecipeKey]:
        """Every key, then the options of the bundled tasks."""
        keys = [_DATA_KEY if key.key == "data" else key for key in _describe(TrainingRecipe)]
        for reference in ("ledger_trainer.tasks.kjv:gpt", "ledger_trainer.tasks.mnist:classifier"):
            keys += _describe(find_factory(reference).options, "task_options.", f"{reference}: ")
        return keys

    def resolve(self, path: Path, overrides: Sequence[str]) -> Recipe:
        """Read, override, validate, fill in. Raises ``InvalidRecipe``.

        Options of a bundled task are checked here. A user's module may import anything, so its options are
        checked by the training process; here only that there is such a package.
        """
        source = read(path, overrides)
        recipe = validate(source).settled()
        if recipe.task.startswith(BUNDLED):
            options = validate_options(find_factory(recipe.task).options, source)
            recipe = recipe.model_copy(update={"task_options": options.model_dump(mode="json")})
        else:
            _require_module(recipe.task, source)
        return _resolved(recipe)

    def resize(self, config: Mapping[str, Any], processes: int) -> Recipe:
        """The same recipe for another number of processes. Raises ``InvalidRecipe``."""
        recipe = TrainingRecipe.model_validate(config)
        try:
            return _resolved(recipe.resized(processes))
        except ValidationError as error:
            found = (f"{detail.get('ctx', {}).get('key', 'parallel')}: {detail['msg']}" for detail in error.errors())
            raise InvalidRecipe(
                f"the run cannot go on with {processes} processes: " + "; ".join(found),
                mend="give another number of processes",
            ) from error

    def samples(self, config: Mapping[str, Any], data: Mapping[str, Path], step: int) -> list[list[int]]:
        """Identifiers of the samples that each rank read for ``step``, in order."""
        recipe = TrainingRecipe.model_validate(config)
        if not 1 <= step <= recipe.steps:
            raise InvalidRecipe(f"there is no step {step}: the training has steps 1 to {recipe.steps}")
        batch, mesh = recipe.batch, recipe.mesh()
        with _as_launched():
            task = find_factory(recipe.task).task(recipe.task_options, data)
            feeds = (Feed(task, recipe.seed, batch.size, batch.accumulation, r, mesh) for r in range(mesh.processes))
            return [[sample for micro in feed.samples(step) for sample in micro] for feed in feeds]

    def readings(self, config: Mapping[str, Any], data: Mapping[str, Path], sample: int) -> list[tuple[int, int]]:
        """Each step that reads the sample, with each rank that does, found without going through the steps."""
        recipe = TrainingRecipe.model_validate(config)
        with _as_launched():
            known = find_factory(recipe.task).task(recipe.task_options, data).samples("train")
        mesh, size = recipe.mesh(), recipe.batch.size
        found = []
        for place in (place for place, one in enumerate(known) if one == sample):
            for position in positions(recipe.seed, place, recipe.steps, size, len(known)):
                share = share_of(position, batch=size, shares=mesh.shares, accumulation=recipe.batch.accumulation)
                ranks = (rank for rank in range(mesh.processes) if mesh.share(rank) == share)
                found += [(position // size + 1, rank) for rank in ranks]
        return sorted(set(found))


_DATA_KEY = RecipeKey(
    "data.NAME.uri", "string", "", "Where a data set is: file:PATH, or any URI that a data plugin answers to."
)


def _resolved(recipe: TrainingRecipe) -> Recipe:
    return Recipe(
        config=recipe.model_dump(mode="json"),
        command=(sys.executable, *COMMAND),
        world=World(processes=recipe.mesh().processes),
        data={name: data.uri for name, data in recipe.data.items()},
        seed=recipe.seed,
        steps=recipe.steps,
    )


def _describe(component: type[BaseModel], prefix: str = "", note: str = "") -> list[RecipeKey]:
    return [
        RecipeKey(
            prefix + key,
            type_name(field.annotation),
            "required" if field.default is PydanticUndefined else _toml(field.default),
            note + " ".join((field.description or "").split()),
        )
        for key, field in walk(component)
    ]


def _toml(value: Any) -> str:
    """A default as one would write it in the recipe; empty where there is nothing to write."""
    return "" if value is None else json.dumps(value)


@contextmanager
def _as_launched() -> Iterator[None]:
    """A user's modules are found in the working directory, as they are by `python -m`."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _require_module(reference: str, source: Source) -> None:
    package = split_reference(reference)[0].partition(".")[0]
    with _as_launched():
        found = importlib.util.find_spec(package)
    if found is None:
        raise InvalidRecipe(
            f"{source.where('task')}: task = {reference!r}: there is no module {package!r}",
            mend="install it, or start in the directory that holds it",
        )
