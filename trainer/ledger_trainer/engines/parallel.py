"""A training in several processes.

What is done to a fresh model, in this order: keep the layers of this stage, split layers over the tensor group,
replicate or split the parameters over the processes that have samples of their own. Each is left out where its size
in the mesh is 1, so that any of them can be had with any other.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ledger_trainer.engines.engine import TorchEngine
from ledger_trainer.engines.replicas import spread
from ledger_trainer.engines.state import Part, whole
from ledger_trainer.engines.tensor import plan_layers, split_layers
from ledger_trainer.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from ledger_trainer.engines.pipeline import Pipeline
    from ledger_trainer.task import Batch


class ParallelEngine(TorchEngine):
    """Several processes over NCCL with a GPU each, or gloo on the CPU."""

    def step(self, batch: Sequence[Batch]) -> dict[str, float]:
        """Train on this process's micro-batches; what is returned is of the global batch."""
        measured = super().step(batch)
        # Running statistics are each process's own: those of the first one are the model's.
        for buffer in self._state.buffers().values():
            for dimension in ("data", "shard", "tensor"):
                distributed.broadcast(buffer, group=self._devices.get_group(dimension), group_src=0)
        return measured

    def close(self) -> None:
        """Leave the process group."""
        if distributed.is_initialized():
            # First the model: were it the last to hold the group, gloo would be torn down under Python's lock,
            # waiting for a thread of its own that waits for that lock.
            vars(self).clear()
            gc.collect()
            distributed.destroy_process_group()

    # --- setting up -------------------------------------------------------------------------------------------

    def _arrange(self, config: Mapping[str, Any]) -> Mesh:
        sizes = config["parallel"]
        mesh = Mesh(**{name: sizes[name] for name in Mesh().sizes})
        self._backend = "nccl" if self._gpu_for_each() else "gloo"
        distributed.init_process_group(self._backend)
        self._rank = distributed.get_rank()
        self._place = mesh.coordinates(self._rank)
        return mesh

    def _gpu_for_each(self) -> bool:
        return torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])

    def _find_device(self) -> torch.device:
        if not self._gpu_for_each():
            return torch.device("cpu")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))

    def _prepared(self, model: nn.Module) -> nn.Module:
        mesh, sizes = self._mesh, self._mesh.sizes
        self._devices = init_device_mesh(self.device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        self._whole = frozenset(model.state_dict())
        plan = plan_layers(model, mesh.tensor) if mesh.tensor > 1 else {}
        self._pipeline: Pipeline | None = None
        if mesh.pipeline > 1:
            # Here, as it takes a second to import.
            from ledger_trainer.engines.pipeline import Pipeline, keep_stage

            keep_stage(model, self._place["pipeline"], mesh.pipeline)
        model = model.to(self.device)
        if plan:
            split_layers(model, self._devices["tensor"], plan)
        self._spread = spread(model, mesh, self._devices, self.device)
        if mesh.pipeline > 1:
            group = self._devices.get_group("pipeline")
            self._pipeline = Pipeline(self._task, model, self._spread, group, self.device, self._autocast)
        return model

    # --- training ---------------------------------------------------------------------------------------------

    @property
    def _trained(self) -> nn.Module:
        return self._spread

    def _accumulate(self, batch: Sequence[Batch]) -> Tensor:
        return self._pipeline.train(batch) if self._pipeline else super()._accumulate(batch)

    def _measured(self, batch: Batch) -> Mapping[str, Tensor]:
        return self._pipeline.evaluate(batch) if self._pipeline else super()._measured(batch)

    def _gradients_kept_back(self, *, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self._spread, FSDPModule):
            self._spread.set_requires_gradient_sync(last)
        elif isinstance(self._spread, DistributedDataParallel) and not last:
            return self._spread.no_sync()
        return contextlib.nullcontext()

    @torch.no_grad()
    def _clipped(self) -> Tensor:
        """The norm is that of the whole gradient: each value counts once, however many processes hold it."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for gradient in gradients:
            here = self._part(gradient)
            squares += torch.linalg.vector_norm(here.tensor).double().square() / self._replicas(here)
        distributed.all_reduce(squares)
        norm = squares.sqrt().float()
        if self._clip:
            scale = (self._clip / (norm + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(scale)
        return norm

    def _mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        if not values:
            return {}
        stacked = torch.stack([value.detach().float() for value in values.values()])
        distributed.all_reduce(stacked)
        # In a pipeline, only the processes of the last stage have put in something.
        means = stacked / (self._mesh.shares * self._mesh.tensor)
        return dict(zip(values, means.tolist(), strict=True))

    # --- the state --------------------------------------------------------------------------------------------

    def _replicas(self, part: Part) -> int:
        """How many processes hold these values."""
        sizes = self._mesh.sizes
        return math.prod(sizes[name] for name in sizes.keys() - part.cut - {"pipeline"})

    def _part(self, tensor: Tensor) -> Part:
        if not isinstance(tensor, DTensor):
            return whole(tensor)
        (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
        names = tensor.device_mesh.mesh_dim_names or ()
        cut = frozenset(
            name for name, placement in zip(names, tensor.placements, strict=True) if not placement.is_replicate()
        )
        return Part(tensor.to_local().detach(), tuple(chunk.offsets), tensor.shape, cut)

    def _owns(self, part: Part) -> bool:
        return not any(self._place[name] for name in self._place.keys() - part.cut - {"pipeline"})

    def _of_all_ranks(self, fact: dict[str, Any]) -> list[dict[str, Any]]:
        facts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(facts, fact)
        return facts
