"""Recording a script that calls ``deepspeed.initialize`` itself.

What the script does stays as it is: metrics come through DeepSpeed's own monitor, checkpoints are the files that
``save_checkpoint`` has written anyway. A failure to record is a warning. What ends the script is only that the run has
been resumed elsewhere.
"""

from __future__ import annotations

import functools
import os
import platform
import random
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from ledger.errors import FencedAttempt
from ledger_deepspeed import backend

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ledger import Run

NAMES: Final = {"train_loss": "train/loss", "eval_loss": "val/loss", "lr": "lr", "loss_scale": "loss_scale"}
"""DeepSpeed's name of a metric and ours. Its timings are left out: no replay could repeat them."""


def attach(engine: Any, run: Run | None) -> None:
    """See ``ledger_deepspeed.attach``."""
    backend.load()
    _Recorder(engine, run).begin()


class _Recorder:
    """What is between an engine and a run."""

    def __init__(self, engine: Any, run: Run | None) -> None:
        from deepspeed.runtime.pipe.engine import PipelineEngine

        self._engine = engine
        self._run = run if torch.distributed.get_rank() == 0 else None
        self._reports_loss = isinstance(engine, PipelineEngine)
        self._loss: torch.Tensor | None = None
        self._last: dict[str, float] = {}

    def begin(self) -> None:
        """Take the engine's calls; from here on it is the recorder that forwards them."""
        from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

        from ledger_deepspeed.checkpoint import EqualFiles

        engine = self._engine
        self._record_topology()
        engine.monitor = _monitor(self, engine.monitor)
        if not self._reports_loss:
            engine.backward = self._adding_up(engine.backward)
            engine.step = self._reporting(engine.step)
        if type(engine.checkpoint_engine) is TorchCheckpointEngine:
            engine.checkpoint_engine = EqualFiles()  # a replay compares files
        engine.save_checkpoint = self._storing(engine.save_checkpoint)
        engine.load_checkpoint = self._restoring(engine.load_checkpoint)

    # --- metrics ----------------------------------------------------------------------------------------------

    def log(self, events: Sequence[tuple[str, Any, int]]) -> None:
        """What DeepSpeed tells its monitors, on rank 0: name, value, samples so far."""
        metrics: dict[str, float] = {}
        for name, value, _ in events:
            if ours := NAMES.get(name.rpartition("/")[2]):
                metrics[ours] = float(value)
        if "lr" in metrics and (norm := self._engine.get_global_grad_norm()) is not None:
            metrics["grad_norm"] = float(norm)
        self.record(metrics)

    def record(self, metrics: Mapping[str, float]) -> None:
        """Log at the step that DeepSpeed is at."""
        self._last.update(metrics)
        if self._run is not None and metrics:
            with _warned("metrics"):
                self._run.log(metrics, step=self._engine.global_steps)

    def _adding_up(self, backward: Any) -> Any:
        @functools.wraps(backward)
        def wrapped(loss: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            share = loss.detach().float() / self._engine.gradient_accumulation_steps()
            self._loss = share if self._loss is None else self._loss + share
            return backward(loss, *args, **kwargs)

        return wrapped

    def _reporting(self, step: Any) -> Any:
        @functools.wraps(step)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before = self._engine.global_steps
            result = step(*args, **kwargs)
            if self._engine.global_steps != before and self._loss is not None:
                torch.distributed.all_reduce(self._loss)
                self.record({"train/loss": self._loss.item() / torch.distributed.get_world_size()})
                self._loss = None
            return result

        return wrapped

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _storing(self, save: Any) -> Any:
        @functools.wraps(save)
        def wrapped(
            save_dir: Any, tag: Any = None, client_state: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any
        ) -> Any:
            tag = f"global_step{self._engine.global_steps}" if tag is None else str(tag)
            state = dict(client_state or {}) | {"ledger": self._own_state()}
            result = save(save_dir, tag, state, *args, **kwargs)
            if self._run is not None:
                with _warned(f"the checkpoint {tag}"):
                    self._store(Path(save_dir), tag)
            return result

        return wrapped

    def _store(self, directory: Path, tag: str) -> None:
        assert self._run is not None  # noqa: S101 - the caller has looked
        with tempfile.TemporaryDirectory(dir=directory, prefix=".ledger-") as alone:
            shutil.copytree(directory / tag, Path(alone) / tag, copy_function=_link)
            (Path(alone) / "latest").write_text(tag)
            generators = ("rng.python", "rng.numpy", "rng.torch", *(("rng.cuda",) if torch.cuda.is_available() else ()))
            self._run.checkpoint(
                alone,
                step=self._engine.global_steps,
                metrics=self._last,
                name=tag,
                holds=("model", "optimizer", "scheduler", "data position", *generators),
            )

    def _restoring(self, load: Any) -> Any:
        @functools.wraps(load)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            path, state = load(*args, **kwargs)
            generators = ((state or {}).get("ledger") or {}).get("generators")
            if generators is not None:
                with _warned("the state of the random generators, which is not restored"):
                    if len(generators) != torch.distributed.get_world_size():
                        raise ValueError(f"{len(generators)} processes wrote the checkpoint")
                    _restore(generators[torch.distributed.get_rank()])
            return path, state

        return wrapped

    def _own_state(self) -> dict[str, Any]:
        """What DeepSpeed leaves out of its checkpoints; a collective."""
        generators: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(generators, _captured())
        position = {"samples": self._engine.global_samples, "micro_steps": self._engine.micro_steps}
        return {"generators": generators, "data": position}

    # --- topology ---------------------------------------------------------------------------------------------

    def _record_topology(self) -> None:
        engine, distributed = self._engine, torch.distributed
        data = engine.mpu.get_data_parallel_world_size() if self._reports_loss else distributed.get_world_size()
        stages = distributed.get_world_size() // data
        place = (
            {"pipeline": engine.stage_id, "data": engine.grid.data_parallel_id}
            if self._reports_loss
            else {"pipeline": 0, "data": distributed.get_rank()}
        )
        own = {
            "coordinates": place,
            "device": str(engine.device),
            "host": platform.node(),
            "threads": torch.get_num_threads(),
        }
        ranks: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(ranks, own)
        if self._run is None:
            return
        import deepspeed

        with _warned("the topology"):
            self._run.environment(
                topology={
                    "engine": "deepspeed",
                    "backend": distributed.get_backend(),
                    "mesh": {"pipeline": stages, "data": data},
                    "ranks": ranks,
                    "deepspeed": {"version": deepspeed.__version__, "settings": engine.config},
                }
            )


def _monitor(recorder: _Recorder, before: Any) -> Any:
    """A monitor of DeepSpeed's kind that tells the recorder, and those that the script has asked for itself."""
    from deepspeed.monitor.monitor import Monitor

    class RecordingMonitor(Monitor):  # type: ignore[misc]
        """Always on: the engine asks on every rank and writes on the first."""

        enabled = True

        def __init__(self) -> None:
            self.monitor_config = before.monitor_config

        def write_events(self, event_list: Any) -> None:
            if before.enabled:
                before.write_events(event_list)
            recorder.log(event_list)

    return RecordingMonitor()


def _captured() -> dict[str, Any]:
    """State of every generator of this process, of plain types only: torch loads it with ``weights_only``."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def _link(source: str, dest: str) -> None:
    """The same file under another name where the file system can do that, else a copy."""
    try:
        os.link(source, dest)
    except OSError:
        shutil.copy2(source, dest)


@contextmanager
def _warned(what: str) -> Iterator[None]:
    """A failure inside is a warning, save that another attempt has the run now: this one must stop."""
    try:
        yield
    except FencedAttempt:
        raise
    except Exception as error:  # noqa: BLE001 - recording must never end somebody's training
        warnings.warn(f"not on record: {what}: {error}", RuntimeWarning, stacklevel=3)
