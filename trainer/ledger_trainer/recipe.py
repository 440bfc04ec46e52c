"""The recipe: one small class for each part of a training, with what each key means under it.

Values are as strict as TOML is: ``"100"`` is not a number. What only fits together is checked here as well,
and such an error names the key to change.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

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

from ledger_trainer.mesh import Mesh

BUNDLED_ENGINES: Final = ("torch", "ddp", "fsdp")
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
    """torch (one process), ddp (replicas), fsdp (parameters split), or an engine of a plugin.

    By default as [parallel] needs.
    """
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes under autocast; parameters stay float32."""
    options: dict[str, Any] = {}
    """Options of a plugin's engine."""


class Parallel(Component):
    """The processes that train together. Their number is the product of the sizes."""

    processes: PositiveInt | None = None
    """How many in all; `--nproc` sets it. By default as many as the sizes need."""
    data: PositiveInt | None = None
    """Replicas of the parameters; by default what the other sizes leave of the processes."""
    shard: PositiveInt | None = None
    """Processes that split a replica's parameters, for fsdp; by default what the other sizes leave."""
    tensor: PositiveInt | None = None
    """Processes that split each layer; by default 1."""
    pipeline: PositiveInt | None = None
    """Stages that the layers are dealt out to; by default 1."""


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
        mesh = self.mesh()
        shares = mesh.shares * self.batch.accumulation
        if self.batch.size % shares:
            raise _mismatch(
                "batch.size",
                f"{self.batch.size} samples cannot be shared out equally over parallel.data × parallel.shard = "
                f"{mesh.shares} times batch.accumulation = {self.batch.accumulation}; "
                f"set batch.size to a multiple of {shares}",
            )
        if self.batch.accumulation < mesh.pipeline:
            raise _mismatch(
                "batch.accumulation",
                f"{self.batch.accumulation} micro-batches cannot fill a pipeline of {mesh.pipeline} stages; "
                f"set it to {mesh.pipeline} or more",
            )
        if self.schedule.warmup > self.steps:
            raise _mismatch("schedule.warmup", f"it is longer than the training; set it to {self.steps} or less")
        if self.schedule.kind == "cosine" and self.schedule.min_lr > self.optim.lr:
            raise _mismatch("schedule.min_lr", f"it is above optim.lr = {self.optim.lr}; lower it, or raise optim.lr")
        if self.optim.momentum and self.optim.name != "sgd":
            raise _mismatch("optim.momentum", f'{self.optim.name} has none; remove it, or set optim.name = "sgd"')
        if self.checkpoint.keep_every and not self.checkpoint.keep_last:
            raise _mismatch("checkpoint.keep_every", "all are kept anyway; set checkpoint.keep_last, or remove it")
        if self.checkpoint.export and not self.checkpoint.best:
            raise _mismatch(
                "checkpoint.export", "it adds to the best checkpoint; set checkpoint.best to a metric, or remove it"
            )
        self._engine_fits(mesh)
        return self

    def _engine_fits(self, mesh: Mesh) -> None:
        name = self.engine_name(mesh)
        if name == "torch" and mesh.processes > 1:
            raise _mismatch("engine.name", '"torch" trains in one process; set it to "ddp", or parallel.processes to 1')
        if name in ("ddp", "fsdp") and mesh.processes == 1:
            raise _mismatch(
                "engine.name", f'"{name}" needs several processes; set parallel.processes, or remove engine.name'
            )
        if name == "ddp" and mesh.shard > 1:
            raise _mismatch("parallel.shard", '"ddp" splits no parameters; set engine.name = "fsdp", or remove it')
        if name == "fsdp" and mesh.shard == 1:
            raise _mismatch(
                "parallel.shard", '"fsdp" with a shard of 1 splits nothing; raise it, or set engine.name = "ddp"'
            )
        if name in BUNDLED_ENGINES and self.engine.options:
            raise _mismatch("engine.options", f'the engine "{name}" has none; remove them')

    def engine_name(self, mesh: Mesh) -> str:
        """The engine's name, where the recipe has none that which the mesh needs."""
        needed = "fsdp" if mesh.shard > 1 else "ddp" if mesh.processes > 1 else "torch"
        return self.engine.name or needed

    def mesh(self) -> Mesh:
        """The sizes, those left open filled in."""
        given = self.parallel.model_dump(exclude={"processes"}, exclude_none=True)
        mesh = Mesh(**given)
        processes = self.parallel.processes or mesh.processes
        open_ended = ("shard", "data") if self.engine.name == "fsdp" else ("data",)
        left = [name for name in open_ended if name not in given]
        if left and processes % mesh.processes == 0:
            return replace(mesh, **{left[0]: processes // mesh.processes})
        if mesh.processes != processes:
            sizes = " × ".join(f"{name} {size}" for name, size in mesh.sizes.items() if name not in left)
            raise _mismatch(
                "parallel.processes",
                f"{processes} cannot be laid out as {sizes}; "
                f"set it to {'a multiple of ' if left else ''}{mesh.processes}, or change the sizes",
            )
        return mesh

    def settled(self) -> TrainingRecipe:
        """The same recipe with nothing left to the machine, so that a replay elsewhere does the same."""
        mesh = self.mesh()
        threads = self.determinism.threads or max(1, _processors() // mesh.processes)
        return self.model_copy(
            update={
                "engine": self.engine.model_copy(update={"name": self.engine_name(mesh)}),
                "parallel": Parallel(processes=mesh.processes, **mesh.sizes),
                "determinism": self.determinism.model_copy(update={"threads": threads}),
            }
        )

    def resized(self, processes: int) -> TrainingRecipe:
        """This settled recipe for another number of processes; tensor and pipeline stay as they are.

        A single process needs no split, so a bundled engine then gives way to "torch", and that to "ddp" where
        there are several. Replicas that are split (data and shard above 1) keep their shard if it divides.
        Raises ``pydantic.ValidationError`` where the recipe cannot be shared out among so many.
        """
        old = self.mesh()
        keep: dict[str, int] = {"tensor": old.tensor, "pipeline": old.pipeline}
        name = self.engine.name
        if name in BUNDLED_ENGINES and (processes == 1 or name == "torch"):
            keep, name = {}, None
        elif old.data > 1 and old.shard > 1 and processes % (old.shard * old.tensor * old.pipeline) == 0:
            keep["shard"] = old.shard
        changed = {
            "engine": self.engine.model_dump() | {"name": name},
            "parallel": {"processes": processes, **keep},
        }
        return TrainingRecipe.model_validate(self.model_dump() | changed).settled()


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mismatch(key: str, message: str) -> PydanticCustomError:
    return PydanticCustomError("mismatch", "{reason}", {"key": key, "reason": message})
