"""The recipe: one small class for each part of a training, with what each key means under it.

Values are as strict as TOML is: ``"100"`` is not a number. What only fits together is checked here as well,
and such an error names the key to change.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A float in [0, 1)."""


class Component(BaseModel):
    """A table of the recipe.

    Unknown keys, NaN and infinities are errors; field docstrings are the help texts.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataSet(Component):
    """One set of data."""

    uri: str
    """Where it is: file:PATH, or any URI that a data plugin answers to."""


class Batch(Component):
    """How samples become steps."""

    size: PositiveInt = 32
    """Samples in one step, over all processes and micro-batches together."""
    accumulation: PositiveInt = 1
    """Micro-batches whose gradients are added up to one step."""


class Optim(Component):
    """The optimizer."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw (Loshchilov and Hutter 2019) or sgd."""
    lr: PositiveFloat = 3e-4
    """Highest learning rate."""
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = (0.9, 0.95)
    """Decay of adamw's two running means."""
    momentum: Share = 0.0
    """Momentum of sgd."""
    weight_decay: NonNegativeFloat = 0.1
    """Decay of matrices; vectors such as biases and norms are left alone."""
    clip: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""


class Schedule(Component):
    """The learning rate from step to step."""

    kind: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up.

    Optim.lr for ever, or half a cosine from optim.lr to min_lr at the last step.
    """
    warmup: NonNegativeInt = 0
    """Steps of linear increase before that."""
    min_lr: NonNegativeFloat = 0.0
    """Where the cosine ends."""


class Evaluate(Component):
    """Measuring on the validation samples."""

    every: NonNegativeInt = 0
    """Steps between two evaluations; 0: only after the last step."""
    batches: PositiveInt = 8
    """Batches of batch.size in one evaluation, always the same ones; fewer where there are fewer."""


class Log(Component):
    """Training metrics."""

    every: PositiveInt = 10
    """Steps between two records of train/loss, lr and grad_norm."""


class Checkpoint(Component):
    """When the whole state is stored, and which states are kept. The last step is always stored."""

    every: NonNegativeInt = 0
    """Steps between two checkpoints; 0: only after the last step."""
    minutes: NonNegativeFloat = 0.0
    """Most minutes between two checkpoints, whatever the steps; 0: the time does not count."""
    best: str = ""
    """Metric whose best value gets a checkpoint of its own, such as val/loss; empty: none does."""
    mode: Literal["min", "max"] = "min"
    """Whether lower or higher is better."""
    keep_last: NonNegativeInt = 0
    """Regular checkpoints that are kept; 0: all of them."""
    keep_every: NonNegativeInt = 0
    """Steps between two regular checkpoints that are kept for good, beside the last ones; 0: none is."""
    full_every: NonNegativeInt = 0
    """Store differences to the checkpoint before, and a whole one every so many; 0: each is whole."""
    export: Literal["", "bfloat16"] = ""
    """Add to the best checkpoint its model in this type, as model-bfloat16.safetensors."""


class Fingerprint(Component):
    """Digests of parameters and optimizer, by which a replay sees the first step at which weights part ways."""

    every: NonNegativeInt = 0
    """Steps between two, beside those after each checkpoint by steps and each evaluation."""


class Engine(Component):
    """What carries out a step."""

    name: str | None = None
    """torch (one process), ddp (several), or an engine of a plugin.

    By default as parallel.processes needs.
    """
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes under autocast; parameters stay float32."""


class Parallel(Component):
    """The processes that train together."""

    processes: PositiveInt = 1
    """How many; `--nproc` sets it."""


class Determinism(Component):
    """What decides bits beside the seed."""

    threads: PositiveInt | None = None
    """CPU threads of each process; by default this machine's share, which is then recorded and replayed."""
    algorithms: bool = True
    """Only deterministic algorithms; an operation that has none is then an error that names it."""


class TrainingRecipe(Component):
    """A whole recipe."""

    task: str
    """What is trained, as package.module:factory."""
    steps: PositiveInt
    """Optimizer steps in all."""
    seed: NonNegativeInt = 0
    """Decides initial parameters, dropout and the order of samples."""
    stop_on_nan: bool = True
    """End with an error when the loss is no longer a number."""
    task_options: dict[str, Any] = {}
    """Options of the task's factory."""
    data: dict[str, DataSet] = {}
    """Data sets by name, as [data.NAME] tables."""
    batch: Batch = Batch()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    evaluate: Evaluate = Evaluate()
    log: Log = Log()
    checkpoint: Checkpoint = Checkpoint()
    fingerprint: Fingerprint = Fingerprint()
    engine: Engine = Engine()
    parallel: Parallel = Parallel()
    determinism: Determinism = Determinism()

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingRecipe:
        shares = self.parallel.processes * self.batch.accumulation
        if self.batch.size % shares:
            raise _mismatch(
                "batch.size",
                f"{self.batch.size} samples cannot be shared out equally over parallel.processes = "
                f"{self.parallel.processes} times batch.accumulation = {self.batch.accumulation}; "
                f"set batch.size to a multiple of {shares}",
            )
        if self.schedule.warmup > self.steps:
            raise _mismatch("schedule.warmup", f"it is longer than the training; set it to {self.steps} or less")
        if self.schedule.kind == "cosine" and self.schedule.min_lr > self.optim.lr:
            raise _mismatch("schedule.min_lr", f"it is above optim.lr = {self.optim.lr}; lower it, or raise optim.lr")
        if self.optim.momentum and self.optim.name != "sgd":
            raise _mismatch("optim.momentum", f'{self.optim.name} has none; remove it, or set optim.name = "sgd"')
        if self.engine.name == "torch" and self.parallel.processes > 1:
            raise _mismatch("engine.name", '"torch" trains in one process; set it to "ddp", or parallel.processes to 1')
        if self.engine.name == "ddp" and self.parallel.processes == 1:
            raise _mismatch(
                "engine.name", '"ddp" needs several processes; set parallel.processes, or remove engine.name'
            )
        return self

    def settled(self) -> TrainingRecipe:
        """The same recipe with nothing left to the machine, so that a replay elsewhere does the same."""
        name = self.engine.name or ("ddp" if self.parallel.processes > 1 else "torch")
        threads = self.determinism.threads or max(1, _processors() // self.parallel.processes)
        return self.model_copy(
            update={
                "engine": self.engine.model_copy(update={"name": name}),
                "determinism": self.determinism.model_copy(update={"threads": threads}),
            }
        )


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mismatch(key: str, message: str) -> PydanticCustomError:
    return PydanticCustomError("mismatch", "{reason}", {"key": key, "reason": message})
