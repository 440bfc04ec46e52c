"""Digests of a training's state. A loss curve agrees to nine decimals where the weights already differ.

Each rank digests what it holds; what all of them found makes up one fact.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from ledger.codec import canonical_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


class ShardDigests(Protocol):
    """What one rank holds: SHA-256 by fully qualified name.

    A shard that is not the whole tensor is named with its offsets in it: ``name[0,128]``. Replicas of one shard have
    equal names on all ranks that hold them.
    """

    @property
    def parameters(self) -> Mapping[str, str]:
        """Of parameters and buffers."""

    @property
    def optimizer(self) -> Mapping[str, str]:
        """Of the optimizer's state."""


@dataclass(frozen=True)
class Digests:
    """``ShardDigests`` as plain values."""

    parameters: Mapping[str, str]
    optimizer: Mapping[str, str]


@runtime_checkable
class Fingerprinting(Protocol):
    """An engine that can tell its state's digests."""

    def fingerprint(self) -> Callable[[], ShardDigests]:
        """Take the state as it is now; what is returned digests this rank's part of it.

        A collective, which may use what ``save`` took after the same step, and the other way round. Each rank calls
        what it got once, from any thread and while training goes on: it makes no collective call.
        """


@runtime_checkable
class Exporting(Protocol):
    """An engine that can read whole tensors out of what its ranks have saved."""

    def export(self, directory: Path) -> Mapping[str, torch.Tensor]:
        """The model by fully qualified names, on the CPU.

        Called on rank 0 only, from any thread, when all ranks have written to ``directory``; no collective.
        """


@dataclass(frozen=True)
class Fingerprint:
    """Digests of the state at one step, of all ranks."""

    parameters: str
    """Of all parameters and buffers: SHA-256 over the canonical JSON of ``tensors``."""
    optimizer: str
    """Of the optimizer's state, in the same way."""
    tensors: Mapping[str, str]
    """Of each parameter and buffer, or shard of one, by name."""
    shards: Mapping[str, str]
    """Of all that each rank holds, by rank as text; empty where one process holds everything."""
    disagreements: Sequence[str]
    """Where ranks that hold the same have different values, which they never should."""


def merge(ranks: Sequence[ShardDigests]) -> Fingerprint:
    """What the digests of all ranks, in their order, come to."""
    disagreements: list[str] = []
    parameters = _union([rank.parameters for rank in ranks], disagreements)
    optimizer = _union([rank.optimizer for rank in ranks], disagreements)
    shards = {
        str(k): canonical_digest({"optimizer": dict(rank.optimizer), "parameters": dict(rank.parameters)})
        for k, rank in enumerate(ranks)
    }
    return Fingerprint(
        canonical_digest(parameters),
        canonical_digest(optimizer),
        parameters,
        shards if len(ranks) > 1 else {},
        disagreements,
    )


def tensor_digest(name: str, tensor: torch.Tensor) -> str:
    """SHA-256 over name, dtype and shape as JSON, and the bytes."""
    header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
    digest = hashlib.sha256(header.encode())
    digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The values of a tensor in row-major order; where it is contiguous and on the CPU, it is no copy."""
    # As bytes, because NumPy knows no bfloat16, and not by tobytes(), because that would copy.
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    view: memoryview = flat.numpy().data
    return view


def _union(ranks: Sequence[Mapping[str, str]], disagreements: list[str]) -> dict[str, str]:
    first: dict[str, tuple[str, int]] = {}
    for k, digests in enumerate(ranks):
        for name, digest in digests.items():
            known, holder = first.setdefault(name, (digest, k))
            if known != digest:
                disagreements.append(f"{name} is {known[:12]}… on rank {holder}, {digest[:12]}… on rank {k}")
    return {name: digest for name, (digest, _) in first.items()}
