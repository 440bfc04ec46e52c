"""The engine ``deepspeed``: data-parallel processes that share out their state as ZeRO does."""

from __future__ import annotations

import contextlib
import platform
import random
import shutil
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import distributed, nn

from ledger.errors import CheckpointUnavailable, InvalidRecipe, Unavailable
from ledger.files import appearing
from ledger_deepspeed import backend, checkpoint, settings
from ledger_deepspeed.shards import ShardDigests, digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    Batch = Mapping[str, Tensor]

_BUCKET: Final = 500_000_000
"""DeepSpeed's own size of a bucket, in numbers."""


class ZeroEngine:
    """DeepSpeed's engine behind the port ``ledger.hooks.ports.Engine``.

    ``config`` is a recipe's, with the objects ``task``, ``optimizer`` and ``learning_rate`` in it.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._task = config["task"]
        self._rate: Callable[[int], float] = config["learning_rate"]
        self.settings = settings.merged(config)
        """What DeepSpeed was given."""
        self._deepspeed = backend.start()
        self._check_settings()
        self.done = 0
        """Steps made so far, in this process and before."""
        self._norm: Tensor | None = None
        self.engine = self._initialised()
        self.engine.checkpoint_engine = checkpoint.SafeFiles()
        self._model = _Rounding(self.engine, self._precision)

    # --- what a step is ---------------------------------------------------------------------------------------

    def step(self, batch: Sequence[Batch]) -> dict[str, float]:
        """Train on micro-batches of equal size.

        Returns ``loss``, ``grad_norm`` before clipping, and ``lr``.
        """
        lr = self._set_rate()
        self._model.train()
        total = torch.zeros((), device=self.engine.device)
        for micro in batch:
            loss = self._task.loss(self._model, self._moved(micro))
            self.engine.backward(loss)
            self.engine.step()
            total += loss.detach() / len(batch)
        self.done += 1
        return {"loss": self._mean(total).item(), "grad_norm": self._grad_norm(), "lr": lr}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, float]:
        """The task's metrics of one batch."""
        self._model.eval()
        with random_state_kept():
            metrics = self._task.metrics(self._model, self._moved(batch))
        return {name: self._mean(value.float()).item() for name, value in metrics.items()}

    # --- its state --------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> Callable[[], None]:
        """Have DeepSpeed write its own checkpoint, at once, with the steps made in its ``client_state``.

        Raises ``Unavailable`` where there is no room for it.
        """
        state = {"ledger": {"done": self.done}}
        try:
            self.engine.save_checkpoint(str(directory), tag=checkpoint.TAG, client_state=state)
        except OSError as error:
            raise Unavailable(
                f"cannot write {error.filename or directory}: {error.strerror}",
                mend="make room there: a checkpoint lies there until it is stored",
            ) from error
        card = self._card()
        if distributed.get_rank() == 0:
            checkpoint.write_card(directory, card)
            # Programs for reading the files, which come with DeepSpeed as well: a checkpoint is data.
            for program in directory.glob("zero_to_*.py"):
                program.unlink()
        return lambda: None

    def load(self, directory: Path) -> None:
        """Restore it: bit for bit on as many processes, by a universal checkpoint on more or fewer.

        Raises ``CheckpointUnavailable`` where it is of another model, or of another kind of training.
        """
        card = checkpoint.read_card(directory)
        own = self._card()
        for name in ("parameters", "precision", "zero"):
            if card[name] != own[name]:
                raise CheckpointUnavailable(
                    _unlike(name, card[name], own[name]), mend="resume with the recipe and code that wrote it"
                )
        if card["mesh"]["pipeline"] != own["mesh"]["pipeline"]:
            raise CheckpointUnavailable(
                f"the checkpoint is of {card['mesh']['pipeline']} pipeline stages, this training has "
                f"{own['mesh']['pipeline']}",
                mend=f"set parallel.pipeline = {card['mesh']['pipeline']}",
            )
        if card["mesh"] == own["mesh"] or own["zero"] == 0:
            state = self._loaded(directory)
        else:
            self._refuse_conversion()
            with self._converted(directory) as universal, self._settings_kept():
                state = self._loaded(universal)
        self.done = state["ledger"]["done"]

    def fingerprint(self) -> Callable[[], ShardDigests]:
        """Copy what this rank holds; what is returned hashes it."""
        return digests(self.engine, self._original_name)

    def export(self, directory: Path) -> Mapping[str, Tensor]:
        """Whole tensors of the model by name, from what all ranks have saved."""
        if self._zero == 3:
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

            checkpoint.vet(directory / checkpoint.TAG)
            whole: Mapping[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(directory), checkpoint.TAG)
            return whole
        path = directory / checkpoint.TAG / "mp_rank_00_model_states.pt"
        model: Mapping[str, Tensor] = checkpoint.SafeFiles().load(str(path), map_location="cpu")["module"]
        return model

    def topology(self) -> dict[str, Any]:
        """How the processes train together, and everything that DeepSpeed was told; a collective."""
        mesh = self._mesh()
        own = {
            "coordinates": self._coordinates(distributed.get_rank()),
            "device": str(self.engine.device),
            "host": platform.node(),
            "threads": torch.get_num_threads(),
        }
        return {
            "engine": "deepspeed",
            "backend": distributed.get_backend(),
            "mesh": mesh,
            "ranks": _of_all(own),
            "deepspeed": {"version": self._deepspeed.__version__, "settings": self.settings},
        }

    def close(self) -> None:
        """Leave the process group."""
        if hasattr(self, "engine"):
            self.engine.destroy()
            del self.engine, self._model
        backend.leave()

    # --- what a pipeline does in another way ------------------------------------------------------------------

    def _initialised(self) -> Any:
        """DeepSpeed's engine around the task's model."""
        model = self._task.model()
        return self._initialise(model, self._config["optimizer"](model))

    def _original_name(self, name: str) -> str:
        """The name that a parameter has in the task's model."""
        return name

    def _mesh(self) -> dict[str, int]:
        """Sizes of the dimensions, outermost first."""
        return {"pipeline": 1, "data": distributed.get_world_size(), "shard": 1, "tensor": 1}

    def _shapes(self) -> dict[str, list[int]]:
        """Shape of every parameter and buffer of the whole model by name; every rank calls it."""
        state = (*self.engine.module.named_parameters(), *self.engine.module.named_buffers())
        return {self._original_name(name): list(getattr(tensor, "ds_shape", tensor.shape)) for name, tensor in state}

    # --- how ---------------------------------------------------------------------------------------------------

    @property
    def _zero(self) -> int:
        return int(self.settings["zero_optimization"]["stage"])

    @property
    def _precision(self) -> torch.dtype:
        return torch.bfloat16 if self.settings["bf16"]["enabled"] else torch.float32

    @property
    def _clips_itself(self) -> bool:
        """Whether torch's own optimizer makes the step: DeepSpeed clips then, but tells nobody the norm."""
        return self._zero == 0 and self._precision == torch.float32

    def _check_settings(self) -> None:
        from deepspeed.runtime.config import DeepSpeedConfig

        world = distributed.get_world_size()
        if world != self._config["parallel"]["processes"]:
            raise InvalidRecipe(
                f"{world} processes were launched, the recipe has parallel.processes = "
                f"{self._config['parallel']['processes']}",
                mend="launch it with `ledger train`, which takes the number from the recipe",
            )
        stages = settings.size(self._config, "pipeline")
        # DeepSpeed divides the batch by the processes; in a pipeline it takes that number from the layout.
        parse = lambda found: DeepSpeedConfig(found, mpu=_Layout(world // stages))  # noqa: E731
        settings.accepted(self.settings, settings.options(self._config).config, parse)

    def _fit_buckets(self, model: nn.Module) -> None:
        """Make DeepSpeed's buffers no larger than the model, where the user has said nothing about them.

        ZeRO 1 to 3 make and free one of 2 GB in every step, however small the model is: fifty times as slow. What fits
        into one bucket still does, so that no sum changes.
        """
        whole = sum(parameter.numel() for parameter in model.parameters())
        for name in ("reduce_bucket_size", "allgather_bucket_size"):
            self.settings["zero_optimization"].setdefault(name, min(_BUCKET, max(1, whole)))

    def _initialise(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        self._fit_buckets(model)
        told = dict(self.settings)
        if self._clips_itself:
            told["gradient_clipping"] = 0.0
            optimizer.register_step_pre_hook(self._clip)
        engine, *_ = self._deepspeed.initialize(model=model, optimizer=optimizer, config=told, dist_init_required=False)
        return engine

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Before a step of torch's own optimizer."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._norm = self._global_norm(torch.nn.utils.get_total_norm([p.grad for p in parameters]))
        if clip := self._config["optim"]["clip"]:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, self._norm)

    def _global_norm(self, norm: Tensor) -> Tensor:
        """The norm over the whole model, from that over this rank's part of it."""
        return norm

    def _grad_norm(self) -> float:
        norm: Any = self._norm if self._clips_itself else self.engine.get_global_grad_norm()
        return float(norm)

    def _set_rate(self) -> float:
        lr = self._rate(self.done + 1)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _moved(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.engine.device) for name, tensor in batch.items()}

    def _mean(self, value: Tensor) -> Tensor:
        """Mean over all ranks."""
        distributed.all_reduce(value)
        return value / distributed.get_world_size()

    def _coordinates(self, rank: int) -> dict[str, int]:
        place = {}
        for name, size in reversed(self._mesh().items()):
            rank, place[name] = divmod(rank, size)
        return {name: place[name] for name in self._mesh()}

    def _card(self) -> dict[str, Any]:
        precision = str(self._precision).removeprefix("torch.")
        return {"mesh": self._mesh(), "parameters": self._shapes(), "precision": precision, "zero": self._zero}

    def _loaded(self, directory: Path) -> Any:
        """Have DeepSpeed load; its ``client_state``."""
        try:
            path, state = self.engine.load_checkpoint(str(directory), tag=checkpoint.TAG)
        except (OSError, RuntimeError, AssertionError, KeyError, ValueError) as error:
            raise CheckpointUnavailable(f"DeepSpeed cannot load the checkpoint: {error}") from error
        if path is None:
            raise CheckpointUnavailable(f"DeepSpeed finds no checkpoint in {directory}")
        return state

    def _refuse_conversion(self) -> None:
        if self._zero == 3 and self._config["optim"]["name"] != "adamw":
            raise CheckpointUnavailable(
                "for another number of processes DeepSpeed converts checkpoints of ZeRO 3 only with adamw: "
                f"optim.name = {self._config['optim']['name']!r}",
                mend="resume with as many processes as wrote the checkpoint",
            )

    @contextlib.contextmanager
    def _settings_kept(self) -> Iterator[None]:
        """Around the loading of a universal checkpoint.

        For ZeRO 3 DeepSpeed 0.19 gives all groups the settings of the first, and makes one tensor count the steps of
        all, as often as there are groups.
        """
        optimizer = self.engine.optimizer.optimizer
        before = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
        yield
        for group, settings_of_group in zip(optimizer.param_groups, before, strict=True):
            group.update(settings_of_group)
        for state in optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()

    @contextlib.contextmanager
    def _converted(self, directory: Path) -> Iterator[Path]:
        """The checkpoint in DeepSpeed's universal form, for as long as it is needed; a collective."""
        universal = directory.with_name(f"{directory.name}-universal")
        # Hosts may share the directory, or each have fetched one of its own: one process converts each.
        converts = _of_all(str(directory)).index(str(directory)) == distributed.get_rank()
        failures = _of_all(_converting(directory, universal) if converts else None)
        self.engine._config.load_universal_checkpoint = True
        try:
            if found := [error for error in failures if error]:
                raise found[0]
            yield universal
        finally:
            self.engine._config.load_universal_checkpoint = False
            distributed.barrier()
            if converts:
                shutil.rmtree(universal, ignore_errors=True)


class _Rounding(nn.Module):
    """The engine as the task sees it: in and out it speaks float32, whatever the model computes in."""

    def __init__(self, engine: Any, precision: torch.dtype) -> None:
        super().__init__()
        self.engine = engine
        self._precision = precision

    def forward(self, *inputs: Any) -> Any:
        given = (cast(value, torch.float32, self._precision) for value in inputs)
        return cast(self.engine(*given), self._precision, torch.float32)


class _Layout:
    """The little that DeepSpeed's settings ask of a layout of processes."""

    def __init__(self, data: int) -> None:
        self._data = data

    def get_data_parallel_world_size(self) -> int:
        """Processes with samples of their own."""
        return self._data


def _of_all(fact: Any) -> list[Any]:
    """What each rank has given, by rank; a collective."""
    facts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(facts, fact)
    return facts


def _converting(directory: Path, universal: Path) -> Unavailable | None:
    """Convert the checkpoint; why that cannot be done, which the other ranks wait to hear."""
    shutil.rmtree(universal, ignore_errors=True)  # of a process that was killed before it could remove it
    try:
        with appearing(universal) as unfinished:
            checkpoint.convert(directory, unfinished)
    except Unavailable as error:
        return error
    return None


def cast(value: Any, kind: torch.dtype, to: torch.dtype) -> Any:
    """A tensor of one ``kind`` as another; everything else as it is."""
    return value.to(to) if isinstance(value, torch.Tensor) and value.dtype == kind else value


def _unlike(what: str, theirs: Any, own: Any) -> str:
    if what != "parameters":
        return f"the checkpoint is of {what} {theirs}, this training of {what} {own}"
    other = sorted(name for name in theirs.keys() | own.keys() if theirs.get(name) != own.get(name))
    first = f"{other[0]} is {theirs.get(other[0], 'missing')} there, {own.get(other[0], 'missing')} here"
    return f"the checkpoint is of another model: {len(other)} tensors differ; {first}"


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is drawn inside leaves no trace outside."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
