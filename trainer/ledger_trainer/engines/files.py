"""The files of a checkpoint that hold tensors.

Each process writes what it has as safetensors, with the offsets in the form of torch's distributed checkpoint
(``HuggingFaceStorageWriter(save_distributed=True)``), whose reader puts parts together again for any other number
of processes. Nothing is pickled. The writer itself is not used: it would copy everything into one string first, and
that of safetensors can only write to a disk, where a store that takes buffers has no need of it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError

from ledger.errors import CheckpointUnavailable
from ledger.files import Lent
from ledger_trainer.fingerprint import tensor_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ledger_trainer.engines.state import Part


_DTYPES: Final = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float64: "F64",
}


@dataclass(frozen=True)
class Stored:
    """A whole tensor, as the files have it."""

    shape: torch.Size
    dtype: torch.dtype


def content(rank: int, parts: Mapping[str, Part]) -> Lent:
    """The file of one process by its name, if it has any parts, as buffers; equal parts give equal bytes.

    The format: https://huggingface.co/docs/safetensors#format. The largest numbers come first, so that all of them
    are aligned.
    """
    if not parts:
        return Lent()
    offsets = {name: {"saved_offsets": list(part.offsets)} for name, part in parts.items()}
    header: dict[str, Any] = {"__metadata__": {"DCP_SHARDING_INFO": json.dumps(offsets, sort_keys=True)}}
    buffers = []
    end = 0
    for name, part in sorted(parts.items(), key=lambda item: (-item[1].tensor.element_size(), item[0])):
        buffer = tensor_bytes(part.tensor)
        header[name] = {
            "dtype": _DTYPES[part.tensor.dtype],
            "shape": list(part.tensor.shape),
            "data_offsets": [end, end + len(buffer)],
        }
        end += len(buffer)
        buffers.append(buffer)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin = memoryview(len(text).to_bytes(8, "little") + text)
    return Lent({f"rank-{rank:05d}.safetensors": [begin, *buffers]})


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
