"""The model in a smaller type, for whoever wants the weights and knows nothing of Ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import safetensors.torch
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def export_model(tensors: Mapping[str, Tensor], directory: Path, type_name: str) -> Path:
    """Write ``model-<type>.safetensors``: floats in that type, rounded to nearest even; all else as it is.

    ``safetensors.torch.load_file`` reads it. Tensors that share their memory are written under the first name.
    """
    dtype: torch.dtype = getattr(torch, type_name)
    written: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    kept = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and written.setdefault(identity, name) != name:
            continue
        kept[name] = (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
    path = directory / f"model-{type_name}.safetensors"
    safetensors.torch.save_file(kept, path)
    return path
