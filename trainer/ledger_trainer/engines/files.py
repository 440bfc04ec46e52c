"""The files of a checkpoint that hold tensors.

Each process writes what it has as safetensors, with the offsets in the form of torch's distributed checkpoint
(``HuggingFaceStorageWriter(save_distributed=True)``), whose reader puts parts together again for any other number
of processes. Nothing is pickled. The writer itself is not used: it would copy everything into one string first.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from safetensors import SafetensorError

from ledger.errors import CheckpointUnavailable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ledger_trainer.engines.state import Part


@dataclass(frozen=True)
class Stored:
    """A whole tensor, as the files have it."""

    shape: torch.Size
    dtype: torch.dtype


def write(directory: Path, rank: int, parts: Mapping[str, Part]) -> None:
    """Write the parts of one process, if there are any; equal parts give equal bytes. Raises ``Unavailable``."""
    if not parts:
        return
    directory.mkdir(parents=True, exist_ok=True)
    offsets = {name: {"saved_offsets": list(part.offsets)} for name, part in parts.items()}
    tensors = {name: part.tensor for name, part in parts.items()}
    file = directory / f"rank-{rank:05d}.safetensors"
    # One entry and no more: safetensors writes several in any order.
    metadata = {"DCP_SHARDING_INFO": json.dumps(offsets, sort_keys=True)}
    try:
        safetensors.torch.save_file(tensors, file, metadata)
    except SafetensorError as error:
        raise Unavailable(
            f"cannot write {file}: {error}", mend="make room there: a checkpoint lies there until it is stored"
        ) from error


def stored(directory: Path) -> dict[str, Stored]:
    """The tensors that all processes wrote together. Raises ``CheckpointUnavailable`` where a part is missing."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    if not directory.exists():
        return {}
    try:
        found = HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointUnavailable(f"{directory.name} of the checkpoint cannot be read: {error}") from error
    tensors = {}
    for name, tensor in found.items():
        assert isinstance(tensor, TensorStorageMetadata)  # noqa: S101 - the reader knows no other kind
        if sum(math.prod(chunk.sizes) for chunk in tensor.chunks) != math.prod(tensor.size):
            raise CheckpointUnavailable(f"{directory.name} of the checkpoint lacks a part of {name}")
        tensors[name] = Stored(tensor.size, tensor.properties.dtype)
    return tensors


def read(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill ``tensors``, which may be distributed, in place; no collective."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    if not tensors:
        return
    # What torch.distributed.checkpoint.load does, less the collectives and a warning that there are none.
    reader = HuggingFaceStorageReader(str(directory))
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    metadata = reader.read_metadata()
    planner.set_up_planner(dict(tensors), metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    reader.read_data(reader.prepare_local_plan(planner.create_local_plan()), planner).wait()


def read_whole(directory: Path) -> dict[str, Tensor]:
    """Every tensor, whole and on the CPU."""
    tensors = {name: torch.empty(found.shape, dtype=found.dtype) for name, found in stored(directory).items()}
    read(directory, tensors)
    return tensors
