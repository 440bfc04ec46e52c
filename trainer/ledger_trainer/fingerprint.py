"""Digests of a training's state. A loss curve agrees to nine decimals where the weights already differ."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Fingerprint:
    """Digests at one step."""

    parameters: str
    """Of all parameters and buffers."""
    optimizer: str
    tensors: Mapping[str, str]
    """Of each parameter and buffer by name."""


@runtime_checkable
class Fingerprinting(Protocol):
    """An engine that can tell its state's digests."""

    def fingerprint(self) -> Fingerprint:
        """Digests of the whole state, whatever the sharding; a collective."""


def fingerprint(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Fingerprint:
    """Digests of a model and its optimizer, both whole in this process."""
    tensors = {name: tensor_digest(name, tensor) for name, tensor in model.state_dict().items()}
    return Fingerprint(_digest(tensors), _digest(optimizer.state_dict()), tensors)


def tensor_digest(name: str, tensor: torch.Tensor) -> str:
    """SHA-256 over name, dtype and shape as JSON, and the bytes."""
    header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
    digest = hashlib.sha256(header.encode())
    # As bytes, because NumPy knows no bfloat16, and without a copy, because tobytes() would make one.
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(flat.numpy().data)
    return digest.hexdigest()


def _digest(value: Any) -> str:
    """SHA-256 over a tree of plain values, its tensors replaced by their digests."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tensor_digest("", value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
