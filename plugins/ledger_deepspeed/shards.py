"""What this rank holds of parameters and optimizer state, wherever ZeRO keeps it.

A shard is a run of elements of a flattened tensor; ``name[start]`` names it where it is not the whole. What is
hashed are the float32 weights that the optimizer changes, of which a bfloat16 model is a rounded copy.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn


@dataclass(frozen=True)
class ShardDigests:
    """SHA-256 of each shard of this rank, by name."""

    parameters: Mapping[str, str]
    optimizer: Mapping[str, str]


@dataclass(frozen=True)
class Shard:
    """Elements of one parameter from ``start`` on, and the optimizer's state for them."""

    name: str
    start: int
    whole: bool
    values: Tensor
    state: Mapping[str, Tensor]

    def key(self, suffix: str = "") -> str:
        """The name under which this is hashed."""
        return f"{self.name}{suffix}" + ("" if self.whole else f"[{self.start}]")


def digests(engine: Any, renamed: Callable[[str], str]) -> Callable[[], ShardDigests]:
    """Copy this rank's shards now; what is returned hashes them, in any thread."""
    parameters: dict[str, Tensor] = {}
    optimizer: dict[str, Tensor] = {}
    for shard in shards(engine):
        parameters[renamed(shard.key())] = shard.values.detach().to("cpu", copy=True)
        for state, values in shard.state.items():
            optimizer[renamed(shard.key(f".{state}"))] = values.detach().to("cpu", copy=True)
    for name, buffer in engine.module.named_buffers():
        parameters[renamed(name)] = buffer.detach().to("cpu", copy=True)

    def hashed() -> ShardDigests:
        return ShardDigests(
            {name: digest(name, tensor) for name, tensor in parameters.items()},
            {name: digest(name, tensor) for name, tensor in optimizer.items()},
        )

    return hashed


def shards(engine: Any) -> Iterator[Shard]:
    """This rank's shards; every parameter once, tied ones under their first name."""
    masters = _masters(engine.optimizer)
    for name, parameter in engine.module.named_parameters():
        if hasattr(parameter, "ds_id"):
            yield _partitioned(name, parameter)
        elif hasattr(parameter, "_hp_mapping"):
            # None: ZeRO has given all of this parameter to other ranks.
            if parameter._hp_mapping is not None:
                yield _fragment(name, parameter, engine.optimizer)
        else:
            master = masters.get(id(parameter), parameter)
            yield Shard(name, 0, True, master, _tensors(engine.optimizer, master))


def digest(name: str, tensor: Tensor) -> str:
    """SHA-256 over name, dtype and shape as JSON, and the bytes."""
    found = hashlib.sha256(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
    found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _partitioned(name: str, parameter: nn.Parameter) -> Shard:
    """ZeRO 3: each rank has one equal part, the last ones padded."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    held: Any = parameter
    size = held.ds_tensor.ds_numel
    start = size * torch.distributed.get_rank(held.ds_process_group)
    if not held.requires_grad:
        return Shard(name, start, False, held.ds_tensor, {})
    optimizer = held._z3_optimizer.optimizer
    flat = held._z3_optimizer.fp32_partitioned_groups_flat
    group, _, _ = held._z3_optimizer.grad_position[held._z3_optimizer.get_param_id(held)]
    names = [key for key, value in optimizer.state[flat[group]].items() if torch.is_tensor(value) and value.dim()]
    state = {key: safe_get_local_optimizer_state(held, key) for key in names}
    return Shard(name, start, False, safe_get_local_fp32_param(held), state)


def _fragment(name: str, parameter: nn.Parameter, optimizer: Any) -> Shard:
    """ZeRO 1 and 2: parameters lie end to end, and each rank has a stretch of that."""
    mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
    held, place = mapping.lp_fragment_address, mapping.hp_fragment_address
    stretches = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_groups_flat_partition
    flat = stretches[mapping.param_group_index]
    # Not mapping.optim_fragment: after a checkpoint was loaded those are no longer the optimizer's.
    state = {
        key: value.narrow(0, place.start, place.numel)
        for key, value in optimizer.optimizer.state.get(flat, {}).items()
        if torch.is_tensor(value) and value.shape == flat.shape
    }
    return Shard(name, held.start, held.numel == parameter.numel(), flat.narrow(0, place.start, place.numel), state)


def _masters(optimizer: Any) -> dict[int, Tensor]:
    """Float32 weights by the identity of the bfloat16 parameter, where DeepSpeed keeps them without ZeRO."""
    if not hasattr(optimizer, "fp32_groups"):
        return {}
    pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {id(low): high for lows, highs in pairs for low, high in zip(lows, highs, strict=True)}


def _tensors(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """State of a parameter in torch's own optimizer."""
    state = getattr(optimizer, "optimizer", optimizer).state.get(parameter, {})
    return {key: value for key, value in state.items() if torch.is_tensor(value) and value.dim()}
