"""A training in one process, and what holds for the state of all engines here.

A checkpoint holds ``model/`` and ``optimizer/``, tensors by name, and ``engine.json``. The schedule is a function of
the step. Names are the same under every engine, so each can load what another one of any size has saved.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
from typing import TYPE_CHECKING, Any, Final

import torch

from ledger.errors import CheckpointUnavailable
from ledger.files import Lent, write_out
from ledger_trainer.determinism import random_state_kept
from ledger_trainer.engines import files
from ledger_trainer.engines.staging import Staging
from ledger_trainer.engines.state import TrainingState, whole
from ledger_trainer.fingerprint import Digests, tensor_digest
from ledger_trainer.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor, nn

    from ledger_trainer.engines.state import Part
    from ledger_trainer.task import Batch, Task

OTHER_TRAINING: Final = "resume with the recipe and code that wrote it"


class TorchEngine:
    """One process on the GPU if there is one, else on the CPU."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._name: str = config["engine"]["name"]
        self._task: Task = config["task"]
        self._learning_rate: Callable[[int], float] = config["learning_rate"]
        self._clip: float = config["optim"]["clip"]
        self._bfloat16 = config["engine"]["precision"] == "bfloat16"
        self._mesh = self._arrange(config)
        self.device = self._find_device()
        self.model = self._prepared(self._task.model())
        self._state = TrainingState(self.model, config["optimizer"])
        self._staging = Staging()
        self.done = 0
        """Steps made so far, in this process and before."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of what is trained in this process."""
        return self._state.optimizer

    # --- training ---------------------------------------------------------------------------------------------

    def step(self, batch: Sequence[Batch]) -> dict[str, float]:
        """Train on micro-batches of equal size.

        Returns ``loss``, ``grad_norm`` before clipping, and ``lr``.
        """
        lr = self._learning_rate(self.done + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._accumulate([self._moved(micro) for micro in batch])
        norm = self._clipped()
        self.optimizer.step()
        self.done += 1
        return {"loss": self._mean({"loss": loss})["loss"], "grad_norm": norm.item(), "lr": lr}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, float]:
        """The task's metrics of one batch."""
        self.model.eval()
        with random_state_kept(), self._autocast():
            metrics = self._measured(self._moved(batch))
        return self._mean(metrics)

    def _accumulate(self, batch: Sequence[Batch]) -> Tensor:
        """Add up gradients; returns the mean loss."""
        total = torch.zeros((), device=self.device)
        for i, micro in enumerate(batch):
            with self._gradients_kept_back(last=i == len(batch) - 1):
                with self._autocast():
                    loss = self._task.loss(self._trained, micro) / len(batch)
                torch.autograd.backward(loss)
            total += loss.detach()
        return total

    def _measured(self, batch: Batch) -> Mapping[str, Tensor]:
        return self._task.metrics(self.model, batch)

    def _clipped(self) -> Tensor:
        """Clip the gradient; returns its norm before."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip or math.inf)

    # --- the state --------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> Callable[[], None]:
        """Copy what this process is to write; what is returned writes it."""
        lend = self.lend(directory)
        return lambda: write_out(lend(), directory)

    def lend(self, directory: Path) -> Callable[[], Lent]:
        """The same where what is returned leaves tensors in memory."""
        model, optimizer = self._staged(owned=True), self._staged_optimizer(owned=True)
        rank, done = self._rank, self.done

        def write() -> Lent:
            if rank == 0:
                directory.mkdir(parents=True, exist_ok=True)
                (directory / "engine.json").write_text(json.dumps({"steps": done}) + "\n")
            return Lent(
                (f"{kind}/{name}", buffers)
                for kind, parts in (("model", model), ("optimizer", optimizer))
                for name, buffers in files.content(rank, parts).items()
            )

        return write

    def load(self, directory: Path) -> None:
        """Restore what ``save`` of this or another engine wrote, bit for bit.

        Raises ``CheckpointUnavailable`` where it is of another model or optimizer, before anything is changed.
        """
        try:
            done = int(json.loads((directory / "engine.json").read_text())["steps"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointUnavailable(
                f"the checkpoint is not of one of the engines torch, ddp and fsdp: {error!r}",
                mend="resume with the engine that wrote it",
            ) from error
        model = self._state.model()
        self._require_model(files.stored(directory / "model"))
        fresh = self._state.fresh_optimizer_state(self._kept(files.stored(directory / "optimizer")))
        optimizer = {
            f"{name}.{what}": value
            for name, parameter in self._state.parameters().items()
            for what, value in fresh.get(parameter, {}).items()
        }
        files.read(directory / "model", {name: tensor.detach() for name, tensor in model.items() if tensor.numel()})
        files.read(directory / "optimizer", {name: value for name, value in optimizer.items() if value.numel()})
        self._state.replace_optimizer_state(fresh)
        self._staging.forget()
        self.done = done

    def fingerprint(self) -> Callable[[], Digests]:
        """Copy what this process holds; what is returned digests it."""
        model, optimizer = self._staged(owned=False), self._staged_optimizer(owned=False)
        return lambda: Digests(_digests(model), _digests(optimizer))

    def export(self, directory: Path) -> Mapping[str, Tensor]:
        """The model that all processes have saved in ``directory``, whole and on the CPU."""
        return files.read_whole(directory / "model")

    def topology(self) -> dict[str, Any]:
        """How the processes train together, for the log; a collective."""
        rank = {
            "coordinates": self._mesh.coordinates(self._rank),
            "device": str(self.device),
            "host": socket.gethostname(),
            "threads": torch.get_num_threads(),
        }
        return {
            "engine": self._name,
            "backend": self._backend,
            "mesh": self._mesh.sizes,
            "ranks": self._of_all_ranks(rank),
        }

    def close(self) -> None:
        """Nothing to leave."""

    def _staged(self, *, owned: bool) -> dict[str, Part]:
        return self._copies("model", self._state.model(), owned=owned)

    def _staged_optimizer(self, *, owned: bool) -> dict[str, Part]:
        return self._copies("optimizer", self._state.optimizer_state(), owned=owned)

    def _copies(self, kind: str, tensors: Mapping[str, Tensor], *, owned: bool) -> dict[str, Part]:
        parts = {f"{kind}/{name}": self._part(tensor) for name, tensor in tensors.items()}
        wanted = {name: p for name, p in parts.items() if p.here and (self._owns(p) or not owned)}
        copies = self._staging.copies(self.done, wanted)
        return {name.removeprefix(f"{kind}/"): p for name, p in copies.items()}

    def _require_model(self, found: Mapping[str, files.Stored]) -> None:
        for name, tensor in self._state.model().items():
            asked = files.Stored(tensor.shape, tensor.dtype)
            if found.get(name) != asked:
                has = f"there it is {_shown(found[name])}" if name in found else "it has none of that name"
                raise CheckpointUnavailable(
                    f"the checkpoint is not of this model, which has {name} as {_shown(asked)}: {has}",
                    mend=OTHER_TRAINING,
                )
        if unknown := sorted(found.keys() - self._names_of_all_stages()):
            raise CheckpointUnavailable(
                f"the checkpoint is not of this model, which has no {', '.join(unknown[:3])}", mend=OTHER_TRAINING
            )

    def _kept(self, found: Mapping[str, files.Stored]) -> dict[str, set[str]]:
        """What the checkpoint has of each parameter's optimizer state, checked to be that of this optimizer."""
        keeps: dict[str, set[str]] = {}
        for key in found:
            name, _, what = key.rpartition(".")
            keeps.setdefault(name, set()).add(what)
        kinds = self._state.optimizer_kinds()
        parameters = self._state.parameters()
        for name, kept in keeps.items() or {"a parameter": set[str]()}.items():
            if kept != kinds.keys():
                raise CheckpointUnavailable(
                    f"the checkpoint has the state of another optimizer: of {name} it keeps {_listed(kept)}, "
                    f"this one keeps {_listed(kinds)}",
                    mend=OTHER_TRAINING,
                )
        for name in keeps.keys() & parameters.keys():
            for what, kind in kinds.items():
                like = parameters[name] if kind.dim() else kind
                has, asked = found[f"{name}.{what}"], files.Stored(like.shape, like.dtype)
                if has != asked:
                    raise CheckpointUnavailable(
                        f"the checkpoint has the state of another optimizer: {name}.{what} is {_shown(has)}, "
                        f"here {_shown(asked)}",
                        mend=OTHER_TRAINING,
                    )
        return keeps

    # --- what several processes do otherwise ------------------------------------------------------------------

    _rank = 0
    _backend = ""

    @property
    def _trained(self) -> nn.Module:
        """What the loss is computed with."""
        return self.model

    def _arrange(self, config: Mapping[str, Any]) -> Mesh:
        return Mesh()

    def _find_device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _prepared(self, model: nn.Module) -> nn.Module:
        """What this process trains of a fresh model."""
        self._whole = frozenset(model.state_dict())
        return model.to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16)

    def _moved(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _gradients_kept_back(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around one micro-batch: ranks exchange gradients only after the ``last``."""
        return contextlib.nullcontext()

    def _mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over all ranks."""
        return {name: value.float().item() for name, value in values.items()}

    def _part(self, tensor: Tensor) -> Part:
        """What this process holds of ``tensor``."""
        return whole(tensor)

    def _owns(self, part: Part) -> bool:
        """Whether it is this rank that writes ``part``."""
        return True

    def _of_all_ranks(self, fact: dict[str, Any]) -> list[dict[str, Any]]:
        return [fact]

    def _names_of_all_stages(self) -> frozenset[str]:
        return self._whole


def _digests(parts: Mapping[str, Part]) -> dict[str, str]:
    return {p.named(name): tensor_digest(name, p.tensor) for name, p in parts.items()}


def _shown(tensor: files.Stored) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _listed(names: Mapping[str, Any] | set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
