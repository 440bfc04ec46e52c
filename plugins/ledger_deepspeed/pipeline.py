"""DeepSpeed's pipeline: layers dealt out to stages, micro-batches on their way through them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import distributed, nn

from ledger.errors import InvalidRecipe
from ledger_deepspeed import checkpoint, settings
from ledger_deepspeed.engine import ZeroEngine, cast, random_state_kept

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    Batch = Mapping[str, Tensor]


class PipelineEngine(ZeroEngine):
    """``ZeroEngine`` over DeepSpeed's ``PipelineModule``, with ZeRO 0 or 1 between the replicas of a stage.

    The task's model says by ``pipeline_layers()`` which of its modules ``forward`` is one after the other.
    """

    _layers: Sequence[str]
    """Names of the layers, by their number in the pipeline."""
    _names: Sequence[str] = ()
    """Names of the tensors of a batch, in the order in which they travel."""
    _measured: list[dict[str, Tensor]] | None = None
    """What the last stage has measured, while an evaluation is under way."""

    def step(self, batch: Sequence[Batch]) -> dict[str, float]:
        """Train on micro-batches of equal size: as many as the pipeline was told to expect."""
        lr = self._set_rate()
        loss = self.engine.train_batch(iter([self._pair(micro) for micro in batch]))
        self.done += 1
        return {"loss": loss.item(), "grad_norm": self._grad_norm(), "lr": lr}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, float]:
        """The task's metrics of one batch, which the last stage computes and tells the others."""
        engine = self.engine
        self._measured = []
        monitored, engine.monitor.enabled = engine.monitor.enabled, False  # it would log a loss that is none
        engine.reset_activation_shape()  # a batch is larger than a micro-batch
        with random_state_kept():
            engine.eval_batch(iter([self._pair(batch)]), reduce_output=None, bcast_loss=False, num_micro_batches=1)
        engine.reset_activation_shape()
        engine.monitor.enabled = monitored
        told: list[Any] = [None]
        if self._measured:
            (metrics,) = self._measured
            group, size = engine.mpu.get_data_parallel_group(), self._mesh()["data"]
            for value in metrics.values():
                distributed.all_reduce(value, group=group)
            told = [{name: value.item() / size for name, value in metrics.items()}]
        self._measured = None
        pipe = engine.mpu.get_pipe_parallel_group()
        distributed.broadcast_object_list(told, src=engine.grid.stage_to_global(engine.num_stages - 1), group=pipe)
        metrics_of_all: dict[str, float] = told[0]
        return metrics_of_all

    def export(self, directory: Path) -> Mapping[str, Tensor]:
        """Whole tensors of the model by name, from the file of each layer."""
        whole: dict[str, Tensor] = {}
        for number, layer in enumerate(self._layers):
            path = directory / checkpoint.TAG / f"layer_{number:02d}-model_states.pt"
            if path.exists():  # a layer without a state has none
                found = checkpoint.SafeFiles().load(str(path), map_location="cpu")
                whole |= {f"{layer}.{name}": tensor for name, tensor in found.items()}
        return whole

    def _initialised(self) -> Any:
        from deepspeed.pipe import PipelineModule

        model = self._task.model()
        stages = settings.size(self._config, "pipeline")
        self._layers = _layers(model, stages)
        modules = [model.get_submodule(name) for name in self._layers]
        pipeline = PipelineModule(modules, num_stages=stages, loss_fn=self._loss, partition_method="parameters")
        return self._initialise(pipeline, self._config["optimizer"](pipeline))

    def _original_name(self, name: str) -> str:
        number, _, rest = name.partition(".")
        return f"{self._layers[int(number)]}.{rest}"

    def _mesh(self) -> dict[str, int]:
        stages = settings.size(self._config, "pipeline")
        return {"pipeline": stages, "data": distributed.get_world_size() // stages, "shard": 1, "tensor": 1}

    def _shapes(self) -> dict[str, list[int]]:
        stages: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(stages, super()._shapes())
        return {name: shape for stage in stages for name, shape in stage.items()}

    def _global_norm(self, norm: Tensor) -> Tensor:
        square = norm.square()
        distributed.all_reduce(square, group=self.engine.mpu.get_pipe_parallel_group())
        return square.sqrt()

    def _pair(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the first stage computes with, and what the last stage needs for the loss: the whole batch."""
        self._names = sorted(batch)
        try:
            self._task.loss(_Catching(), batch)
        except _Caught as caught:
            return cast(caught.value, torch.float32, self._precision), tuple(batch[name] for name in self._names)
        raise InvalidRecipe("the task's loss never calls the model", mend="call it once, with one tensor")

    def _loss(self, output: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """The task's loss, or in an evaluation its metrics, of what the last layer has computed."""
        done = _Done(cast(output, self._precision, torch.float32))
        batch = dict(zip(self._names, labels, strict=True))
        if self._measured is None:
            loss: Tensor = self._task.loss(done, batch)
            return loss
        done.eval()
        metrics = self._task.metrics(done, batch)
        self._measured.append({name: value.float() for name, value in metrics.items()})
        return torch.zeros((), device=output.device)


class _Caught(Exception):
    """What the model was called with."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


class _Catching(nn.Module):
    """A model that only tells what it was called with."""

    def forward(self, value: Tensor) -> NoReturn:
        raise _Caught(value)


class _Done(nn.Module):
    """A model that has computed its output already."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, _: Tensor) -> Tensor:
        return self._output


def _layers(model: Any, stages: int) -> list[str]:
    """Names of the layers that are dealt out. Raises ``InvalidRecipe`` where the model cannot be."""
    if not hasattr(model, "pipeline_layers"):
        raise InvalidRecipe(
            f"parallel.pipeline = {stages}: {type(model).__name__} does not say of which layers it is made",
            mend="give the model a method pipeline_layers(), or set parallel.pipeline to 1",
        )
    layers = list(model.pipeline_layers())
    if len(layers) < stages:
        raise InvalidRecipe(
            f"parallel.pipeline = {stages}: {type(model).__name__} has only {len(layers)} layers",
            mend=f"set it to {len(layers)} or less",
        )
    known = dict(model.named_parameters(remove_duplicate=False))
    lost = [name for name in known if not any(name.startswith(f"{layer}.") for layer in layers)]
    if lost:
        raise InvalidRecipe(f"{lost[0]} is in none of the layers that pipeline_layers() names", mend="add its module")
    tied = [name for name in known if name not in dict(model.named_parameters())]
    if tied:
        raise InvalidRecipe(
            f"parallel.pipeline = {stages}: {tied[0]} is tied to another parameter, which another stage may have",
            mend="untie them, or set parallel.pipeline to 1",
        )
    return layers
