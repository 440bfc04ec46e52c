"""What is trained: the protocol that users implement to bring their own.

A recipe names a factory as ``package.module:factory``. It is called as ``factory(options, data)``:
``options`` is an instance of the pydantic model that its first parameter is annotated with, made from
``[task_options]``; ``data`` has the local path of each data set by name.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError

from ledger.errors import InvalidRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    Batch = Mapping[str, Tensor]
    """Tensors by name, the samples along the first axis of each."""

Split = Literal["train", "validation"]
Cut = Literal["colwise", "rowwise"]
"""Which way the weight of an ``nn.Linear`` or ``nn.Embedding`` is cut: by its outputs, or by its inputs."""
BUNDLED: Final = "ledger_trainer.tasks."


class Task(Protocol):
    """A model, its samples, its loss and its metrics.

    Every rank makes one, and calls ``model`` once, with the same random state everywhere. Making it and
    asking for ``samples`` should not need torch: ``ledger audit --step`` does both.
    """

    def samples(self, split: Split) -> Sequence[int]:
        """Identifier of each sample of ``split``, always in the same order.

        Empty if there is no such split.
        """

    def batch(self, samples: Sequence[int]) -> Batch:
        """These samples on the CPU: a pure function of the identifiers, which draws no random number."""

    def model(self) -> nn.Module:
        """A fresh model; all its randomness comes from torch's global generator."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss over the batch; calls ``model`` exactly once."""

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Means over the batch, ``loss`` among them.

        Called without gradients, the model in evaluation mode.
        """


@runtime_checkable
class TensorParallel(Protocol):
    """What a task's model has besides, where its layers can be split over processes: ``[parallel] tensor``."""

    def tensor_plan(self, size: int) -> Mapping[str, Cut]:
        """How to cut its layers for ``size`` processes, by name; ``*`` stands for one part of a name.

        A layer that is cut ``colwise`` computes some of its outputs, which must go, element by element or head by
        head, into one that is cut ``rowwise``; everything else is computed by each. Raises ``InvalidRecipe`` where
        ``size`` is too many.
        """


@runtime_checkable
class Pipelined(Protocol):
    """What a task's model has besides, where its layers can be dealt out to stages: ``[parallel] pipeline``."""

    def pipeline_layers(self) -> Sequence[str]:
        """Names of its modules, of which ``forward`` is one after the other.

        Each takes one tensor, the first one the model's only argument, and returns one. A stage replaces those
        that it does not have by ``nn.Identity``.
        """


@dataclass(frozen=True)
class Factory:
    """A task's factory, and the model of its options."""

    reference: str
    options: type[BaseModel]
    make: Callable[[Any, Mapping[str, Path]], Task]

    def task(self, options: Mapping[str, Any], data: Mapping[str, Path]) -> Task:
        """Make the task. Raises ``InvalidRecipe`` for options that it does not take."""
        try:
            return self.make(self.options.model_validate(options), data)
        except ValidationError as error:
            found = (f"task_options.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InvalidRecipe("\n".join(found), mend=f"options are {', '.join(self.options.model_fields)}") from error


def split_reference(reference: str) -> tuple[str, str]:
    """Module and name of ``package.module:name``. Raises ``InvalidRecipe``."""
    module, colon, name = reference.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise InvalidRecipe(
            f"task = {reference!r} is not package.module:factory",
            mend="for example ledger_trainer.tasks.kjv:gpt",
        )
    return module, name


def find_factory(reference: str) -> Factory:
    """Import the factory.

    Raises ``InvalidRecipe`` for a module or name that is not there, or takes no options.
    """
    module_name, name = split_reference(reference)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InvalidRecipe(
            f"task = {reference!r}: there is no module {error.name!r}",
            mend="install it, or start in the directory that holds it",
        ) from error
    make = getattr(module, name, None)
    if not callable(make):
        offered = [
            public
            for public, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module_name and not public.startswith("_")
        ]
        raise InvalidRecipe(
            f"task = {reference!r}: {module_name} has no {name!r}",
            mend=f"it has {', '.join(offered) or 'no function'}",
        )
    first = next(iter(inspect.signature(make).parameters.values()), None)
    options = first.annotation if first else None
    if isinstance(options, str):  # from __future__ import annotations
        options = getattr(module, options, None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        raise InvalidRecipe(
            f"task = {reference!r}: the first parameter of {name} is not annotated with a pydantic model",
            mend=f"def {name}(options: Options, data: Mapping[str, Path]), with class Options(BaseModel)",
        )
    return Factory(reference, options, make)
