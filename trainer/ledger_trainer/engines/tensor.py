"""Layers split over processes, after Megatron-LM (Shoeybi et al. 2019), by torch's DTensor.

The processes of a tensor group read the same samples and draw the same random numbers, so whatever is not split is
the same in all of them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from ledger.errors import InvalidRecipe
from ledger_trainer.task import TensorParallel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.distributed.device_mesh import DeviceMesh

    from ledger_trainer.task import Cut

STYLES: Final = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}


def plan_layers(model: nn.Module, size: int) -> dict[str, Cut]:
    """How each layer that is to be split over ``size`` processes is cut, by its whole name.

    Raises ``InvalidRecipe`` for a model that has no plan, or none for so many.
    """
    if not isinstance(model, TensorParallel):
        raise InvalidRecipe(
            f"parallel.tensor = {size}: {type(model).__name__} does not say how its layers can be split",
            mend="leave parallel.tensor out, or give the model a method tensor_plan",
        )
    plan: dict[str, Cut] = {}
    for pattern, cut in model.tensor_plan(size).items():
        found = {name: module for name, module in model.named_modules() if name and _matches(name, pattern)}
        if not found:
            raise InvalidRecipe(
                f"parallel.tensor = {size}: the model's plan names {pattern}, which it has not",
                mend="correct the model's tensor_plan",
            )
        for name, module in found.items():
            _require_divisible(name, module, cut, size)
            plan[name] = cut
    return plan


def split_layers(model: nn.Module, mesh: DeviceMesh, plan: Mapping[str, Cut]) -> None:
    """Cut the layers of ``plan`` that are here, in place."""
    here = {name for name, _ in model.named_modules()}
    parallelize_module(model, mesh, {name: STYLES[cut]() for name, cut in plan.items() if name in here})


def _matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _require_divisible(name: str, module: nn.Module, cut: Cut, size: int) -> None:
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear | nn.Embedding) or weight is None:
        raise InvalidRecipe(
            f"parallel.tensor = {size}: {name} of the model's plan is neither Linear nor Embedding",
            mend="leave it out of tensor_plan",
        )
    length = weight.shape[0 if (cut == "colwise") == isinstance(module, nn.Linear) else 1]
    if length % size:
        raise InvalidRecipe(
            f"parallel.tensor = {size}: {name} has {length} of what is to be dealt out to {size} processes",
            mend=f"set parallel.tensor to a divisor of {length}",
        )
