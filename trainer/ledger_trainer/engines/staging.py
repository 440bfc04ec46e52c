"""Copies of tensors that training leaves alone, so that they can be written and digested while it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger_trainer.engines.state import Part


class Staging:
    """Buffers on the CPU, made once and used again; what was copied after a step is copied once."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}
        self._step = -1
        self._copied: set[str] = set()

    def copies(self, step: int, parts: Mapping[str, Part]) -> dict[str, Part]:
        """The same parts as they are after ``step``; valid until the next step is asked for."""
        if step != self._step:
            self._step = step
            self._copied.clear()
        waits = False
        for name, part in parts.items():
            if name not in self._copied:
                self._buffer(name, part.tensor).copy_(part.tensor, non_blocking=True)
                self._copied.add(name)
                waits |= part.tensor.is_cuda
        if waits:
            torch.cuda.current_stream().synchronize()
        return {name: part._replace(tensor=self._buffers[name]) for name, part in parts.items()}

    def forget(self) -> None:
        """The state has changed without a step."""
        self._step = -1

    def _buffer(self, name: str, like: torch.Tensor) -> torch.Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != like.shape or buffer.dtype != like.dtype:
            buffer = torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
            self._buffers[name] = buffer
        return buffer
