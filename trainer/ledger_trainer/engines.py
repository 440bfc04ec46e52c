"""The engines that come with the trainer: one process, and several that average their gradients.

An engine is built from the recipe's plain configuration in which ``task`` is not the factory's name any more
but the task it made. It reads the tables that concern it.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ledger.errors import CheckpointUnavailable
from ledger_trainer import checkpoint, fingerprint
from ledger_trainer.determinism import random_state_kept
from ledger_trainer.recipe import Optim, Schedule
from ledger_trainer.schedule import learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor, nn

    from ledger_trainer.task import Batch, Task


class TorchEngine:
    """One process on the GPU if there is one, else on the CPU."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._task: Task = config["task"]
        self._steps: int = config["steps"]
        self._optim = Optim.model_validate(config["optim"])
        self._schedule = Schedule.model_validate(config["schedule"])
        self._bfloat16 = config["engine"]["precision"] == "bfloat16"
        self.device = self._find_device()
        self.model = self._task.model().to(self.device)
        self.optimizer = build_optimizer(self.model, self._optim)
        self.done = 0
        """Steps made so far, in this process and before."""
        self._wrapped: nn.Module = self.model

    def step(self, batch: Sequence[Batch]) -> dict[str, float]:
        """Train on micro-batches of equal size.

        Returns ``loss``, ``grad_norm`` before clipping, and ``lr``.
        """
        lr = learning_rate(self._schedule, self._optim.lr, self.done + 1, self._steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._wrapped.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for i, micro in enumerate(batch):
            with self._gradients_kept_back(last=i == len(batch) - 1):
                with self._autocast():
                    loss = self._task.loss(self._wrapped, self._moved(micro)) / len(batch)
                torch.autograd.backward(loss)
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._optim.clip or math.inf)
        self.optimizer.step()
        self.done += 1
        return {"loss": self._mean(total).item(), "grad_norm": norm.item(), "lr": lr}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, float]:
        """The task's metrics of one batch."""
        self.model.eval()
        with random_state_kept(), self._autocast():
            metrics = self._task.metrics(self.model, self._moved(batch))
        return {name: self._mean(value.float()).item() for name, value in metrics.items()}

    def save(self, directory: Path) -> Callable[[], None]:
        """Write ``model.safetensors`` and ``optimizer.pt``. The schedule is a function of the step."""
        checkpoint.save_model(self.model, directory / "model.safetensors")
        state = {"done": self.done, "optimizer": self.optimizer.state_dict()}
        checkpoint.save_state(state, directory / "optimizer.pt")
        return lambda: None

    def load(self, directory: Path) -> None:
        """Restore both, bit for bit. Raises ``CheckpointUnavailable`` where they are of another model."""
        checkpoint.load_model(self.model, directory / "model.safetensors")
        state = checkpoint.load_safely(directory / "optimizer.pt")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, ValueError) as error:
            raise CheckpointUnavailable(f"the checkpoint has the state of another optimizer: {error}") from error
        self.done = state["done"]

    def fingerprint(self) -> fingerprint.Fingerprint:
        """Digests of parameters, buffers and optimizer."""
        return fingerprint.fingerprint(self.model, self.optimizer)

    def close(self) -> None:
        """Nothing to leave."""

    def _find_device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16)

    def _moved(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _gradients_kept_back(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around one micro-batch: ranks exchange gradients only after the ``last``."""
        return contextlib.nullcontext()

    def _mean(self, value: Tensor) -> Tensor:
        """Mean over all ranks."""
        return value


class DdpEngine(TorchEngine):
    """Several processes with a replica each.

    Torch's DistributedDataParallel over NCCL, or gloo on the CPU.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        distributed.init_process_group("nccl" if self._gpu_for_each() else "gloo")
        super().__init__(config)
        devices = [self.device] if self.device.type == "cuda" else None
        self._ddp = DistributedDataParallel(self.model, device_ids=devices)
        self._wrapped = self._ddp

    def save(self, directory: Path) -> Callable[[], None]:
        """Every rank holds the same: rank 0 writes it."""
        return super().save(directory) if distributed.get_rank() == 0 else lambda: None

    def close(self) -> None:
        """Leave the process group."""
        if distributed.is_initialized():
            # First the replica: were it the last to hold the group, gloo would be torn down under Python's lock,
            # waiting for a thread of its own that waits for that lock.
            del self._wrapped, self._ddp
            gc.collect()
            distributed.destroy_process_group()

    def _gpu_for_each(self) -> bool:
        return torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])

    def _find_device(self) -> torch.device:
        if not self._gpu_for_each():
            return torch.device("cpu")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))

    def _gradients_kept_back(self, *, last: bool) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self._ddp.no_sync()

    def _mean(self, value: Tensor) -> Tensor:
        distributed.all_reduce(value)
        return value / distributed.get_world_size()


def build_optimizer(model: nn.Module, options: Optim) -> torch.optim.Optimizer:
    """The optimizer; only matrices decay, as biases and norms are no better for being small."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.name == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)
    return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas)
