"""The few things that processes which train together say to each other outside a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def agree(*flags: int) -> tuple[int, ...]:
    """The largest of each flag over all ranks, on every rank.

    What one has noticed, all act on after the same step.
    """
    if not distributed.is_initialized():
        return flags
    agreed = torch.tensor(flags, device=_device())
    distributed.all_reduce(agreed, op=distributed.ReduceOp.MAX)
    return tuple(agreed.tolist())


def gather(payload: bytes) -> list[bytes]:
    """What each rank gave, by rank, on every rank."""
    if not distributed.is_initialized():
        return [payload]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, payload)
    return gathered


def _device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
