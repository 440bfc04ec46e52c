"""Layers dealt out to stages, and micro-batches sent through them: torch's 1F1B schedule (Narayanan et al. 2019)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from ledger.errors import InvalidRecipe
from ledger_trainer.determinism import random_state_kept
from ledger_trainer.task import Pipelined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ledger_trainer.task import Batch, Task


def keep_stage(model: nn.Module, stage: int, stages: int) -> None:
    """Replace the layers of all other stages by ``nn.Identity``, in place.

    Raises ``InvalidRecipe`` for a model that cannot be dealt out to so many.
    """
    if not isinstance(model, Pipelined):
        raise InvalidRecipe(
            f"parallel.pipeline = {stages}: {type(model).__name__} does not say which layers follow each other",
            mend="leave parallel.pipeline out, or give the model a method pipeline_layers",
        )
    names = model.pipeline_layers()
    layers = [model.get_submodule(name) for name in names]
    deal = deal_out([sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in layers], stages)
    if deal is None:
        raise InvalidRecipe(
            f"parallel.pipeline = {stages}: the model has too few layers with parameters for so many stages",
            mend="set parallel.pipeline lower, or give the model more layers",
        )
    _require_apart(model, names, layers, deal)
    for name, owner in zip(names, deal, strict=True):
        if owner != stage:
            model.set_submodule(name, nn.Identity())


def deal_out(sizes: Sequence[int], stages: int) -> list[int] | None:
    """The stage of each layer: runs of neighbours, the largest of which is as small as can be.

    Every stage gets something to train; None where there is not enough for that.
    """

    @functools.cache
    def best(first: int, left: int) -> tuple[float, tuple[int, ...]]:
        """Largest stage, and the ends of all, when the layers from ``first`` on are dealt out to ``left`` stages."""
        if left == 1:
            return sum(sizes[first:]) or float("inf"), (len(sizes),)
        found: tuple[float, tuple[int, ...]] = (float("inf"), ())
        for end in range(first + 1, len(sizes) - left + 2):
            largest, ends = best(end, left - 1)
            found = min(found, (max(sum(sizes[first:end]) or float("inf"), largest), (end, *ends)))
        return found

    largest, ends = best(0, stages)
    if largest == float("inf"):
        return None
    return [sum(end <= layer for end in ends) for layer in range(len(sizes))]


def _require_apart(model: nn.Module, names: Sequence[str], layers: Sequence[nn.Module], deal: Sequence[int]) -> None:
    """Every parameter in exactly one stage: one that is tied across two would be trained as two."""
    owner: dict[nn.Parameter, int] = {}
    for layer, stage in zip(layers, deal, strict=True):
        for parameter in layer.parameters():
            if owner.setdefault(parameter, stage) != stage:
                raise InvalidRecipe(
                    "parallel.pipeline: a parameter of the model is used in two stages",
                    mend="untie it, or set parallel.pipeline lower",
                )
    if outside := [name for name, parameter in model.named_parameters() if parameter not in owner]:
        raise InvalidRecipe(
            f"parallel.pipeline: {outside[0]} of the model is in none of its layers {', '.join(names[:3])} …",
            mend="name the layer that it belongs to in pipeline_layers",
        )


class Pipeline:
    """One stage, and the schedules by which it and its neighbours train and evaluate."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        trained: nn.Module,
        group: distributed.ProcessGroup,
        device: torch.device,
        autocast: Callable[[], torch.autocast],
    ) -> None:
        # The schedule calls the model, so autocast must be a part of it; elsewhere it is around the task.
        model.forward = autocast()(model.forward)
        self._task = task
        self._model = model
        self._trained = trained
        self._group = group
        self._device = device
        self._autocast = autocast
        self._stage = group.rank()
        self._stages = group.size()
        self._micro: Sequence[Batch] = ()
        self._schedules: dict[tuple[bool, int, torch.Size], Schedule1F1B | ScheduleGPipe] = {}

    @property
    def is_last(self) -> bool:
        """Whether this is the stage that sees the model's output."""
        return self._stage == self._stages - 1

    def train(self, batch: Sequence[Batch]) -> Tensor:
        """Add up gradients; returns the mean loss on the last stage, 0 elsewhere."""
        inputs = [_argument(self._task, micro) for micro in batch]
        self._micro = batch
        losses: list[Tensor] = []
        target = torch.arange(len(batch)) if self.is_last else None  # each chunk of it tells which micro-batch it is
        whole = (torch.cat(inputs),) if self._stage == 0 else ()
        self._schedule(inputs[0], len(batch)).step(*whole, target=target, losses=losses, return_outputs=False)
        return torch.stack(losses).detach().mean() if losses else torch.zeros((), device=self._device)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """The task's metrics of one batch on the last stage, their names with zeros elsewhere."""
        argument = _argument(self._task, batch)
        output = self._schedule(argument, None).step(*((argument,) if self._stage == 0 else ()))
        metrics = dict(self._task.metrics(_Answer(output), batch)) if self.is_last else {}
        names: list[Any] = [list(metrics)]
        distributed.broadcast_object_list(names, group=self._group, group_src=self._stages - 1)
        return metrics or {name: torch.zeros((), device=self._device) for name in names[0]}

    def _schedule(self, argument: Tensor, micro_batches: int | None) -> Schedule1F1B | ScheduleGPipe:
        """The schedule for micro-batches of this shape; None evaluates a single one."""
        key = (self._model.training, micro_batches or 1, argument.shape)
        if key not in self._schedules:
            given, made = self._borders(argument, trains=micro_batches is not None)
            # Of known shapes, because torch would otherwise find them out by a forward pass that draws dropout.
            stage = PipelineStage(
                self._trained, self._stage, self._stages, self._device, given, made, group=self._group
            )
            self._schedules[key] = (
                Schedule1F1B(stage, micro_batches, loss_fn=self._loss) if micro_batches else ScheduleGPipe(stage, 1)
            )
        return self._schedules[key]

    def _loss(self, output: Tensor, which: Tensor) -> Tensor:
        with self._autocast():
            return self._task.loss(_Answer(output), self._micro[int(which)])

    def _borders(self, argument: Tensor, *, trains: bool) -> tuple[Tensor, Tensor]:
        """Tensors like the input and the output of this stage, found by passing zeros through all of them."""
        given, made = argument, argument
        training = self._model.training
        self._model.eval()
        with random_state_kept(), torch.no_grad():
            for stage in range(self._stages):
                described: list[Any] = [None]
                if stage == self._stage:
                    given, made = made, self._model(made)
                    described = [(made.shape, made.dtype)]
                distributed.broadcast_object_list(described, group=self._group, group_src=stage)
                if stage < self._stage:
                    shape, dtype = described[0]
                    made = torch.zeros(shape, dtype=dtype, device=self._device)
        self._model.train(training)
        return given.detach().requires_grad_(trains and self._stage > 0), made.detach().requires_grad_(trains)


class _Argument(Exception):
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Asker(nn.Module):
    """Stands in for the model to learn what it is called with."""

    def forward(self, *given: Any, **named: Any) -> Tensor:
        if len(given) != 1 or named or not isinstance(given[0], Tensor):
            raise InvalidRecipe(
                "parallel.pipeline: the task calls its model with something else than one tensor",
                mend="leave parallel.pipeline out, or pass one tensor",
            )
        raise _Argument(given[0])


class _Answer(nn.Module):
    """Stands in for the model where its output is there already."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, *given: Any, **named: Any) -> Tensor:
        return self._output


def _argument(task: Task, batch: Mapping[str, Tensor]) -> Tensor:
    """What the task would call its model with."""
    try:
        task.loss(_Asker(), batch)
    except _Argument as asked:
        return asked.tensor
    raise InvalidRecipe(
        "parallel.pipeline: the task computes its loss without calling the model", mend="leave parallel.pipeline out"
    )
