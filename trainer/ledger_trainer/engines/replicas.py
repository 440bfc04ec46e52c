"""Parameters replicated, split, or both, over processes that each have samples of their own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ledger.errors import InvalidRecipe

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from ledger_trainer.mesh import Mesh


def spread(model: nn.Module, mesh: Mesh, devices: DeviceMesh, device: torch.device) -> nn.Module:
    """What to compute the loss with so that gradients are averaged: the model, wrapped or changed in place.

    Replicas alone are torch's DistributedDataParallel, parameters that are split its FSDP2. That takes replicas of
    layers split by tensor as well, as shards of one process each: DistributedDataParallel knows no DTensor.
    """
    if mesh.shares == 1:
        return model
    if mesh.shard == 1 and mesh.tensor == 1:
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            process_group=devices.get_group("data"),
        )
    require_splittable(model)
    among = devices["data", "shard"] if mesh.data > 1 else devices["shard"]
    for unit in units(model):
        fully_shard(unit, mesh=among)
    # Split again after a forward pass without a backward one, as in an evaluation.
    fully_shard(model, mesh=among, reshard_after_forward=True)
    return model


def require_splittable(model: nn.Module) -> None:
    """Raises ``InvalidRecipe`` for a model with a parameter that FSDP2 cannot split."""
    for name, parameter in model.named_parameters():
        if reason := _unsplittable(parameter):
            raise InvalidRecipe(
                f"parallel.shard: the parameter {name} {reason}, which fsdp cannot split",
                mend='set engine.name = "ddp", or change the parameter',
            )


def _unsplittable(parameter: nn.Parameter) -> str:
    if not parameter.dim():
        return "is a single number without a dimension"
    if not parameter.numel():
        return "has no element"
    return "" if parameter.is_contiguous() else "is laid out in another order than its indices"


def units(model: nn.Module) -> list[nn.Module]:
    """What is gathered at once: each entry of a list of modules, inner ones first.

    One that shares a parameter with another module is none, as a parameter can be in one unit only.
    """
    used = _uses(model)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    entries = [entry for modules in reversed(lists) for entry in modules]
    return [entry for entry in entries if (own := _uses(entry)) and all(used[p] == n for p, n in own.items())]


def _uses(module: nn.Module) -> Counter[nn.Parameter]:
    return Counter(parameter for _, parameter in module.named_parameters(remove_duplicate=False))
