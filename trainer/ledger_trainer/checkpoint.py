"""What a checkpoint directory holds. No clock and no run's name, so equal training gives equal files.

========================  ===================================================================================
``progress.json``         format, step, seed and world of the training
``rng-rank<k>.pt``        state of every generator of rank k
``model.safetensors``     parameters and buffers (written by the engines here)
``optimizer.pt``          state of the optimizer (written by the engines here)
========================  ===================================================================================

Every ``.pt`` file is read with ``weights_only``: a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError

from ledger.errors import CheckpointUnavailable
from ledger_trainer import ranks
from ledger_trainer.determinism import capture_random_state, restore_random_state

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.hooks.ports import Engine

FORMAT: Final = 1


def save(directory: Path, engine: Engine, *, step: int, seed: int, rank: int) -> None:
    """Write the whole state after ``step`` into ``directory``, which every rank must see.

    A collective, in which rank 0 writes what is not the engine's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(canonical(capture_random_state()), buffer)
    states = ranks.gather(buffer.getvalue())
    engine.save(directory)()
    if rank == 0:
        for k, state in enumerate(states):
            (directory / f"rng-rank{k}.pt").write_bytes(state)
        progress = {"format": FORMAT, "seed": seed, "step": step, "world": len(states)}
        (directory / "progress.json").write_text(json.dumps(progress, sort_keys=True) + "\n")


def load(directory: Path, engine: Engine, *, seed: int, rank: int, world: int) -> int:
    """Restore what ``save`` wrote and return its step; a collective.

    Generators come last, since whatever is made before them may draw from them. Raises
    ``CheckpointUnavailable`` where the directory is of another kind of training, before anything was changed.
    """
    try:
        progress = json.loads((directory / "progress.json").read_text())
        found = {"format": progress["format"], "seed": progress["seed"], "world": progress["world"]}
        step = int(progress["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointUnavailable(f"{directory} is not a checkpoint of this trainer: {error!r}") from error
    for name, asked in {"format": FORMAT, "seed": seed, "world": world}.items():
        if found[name] != asked:
            raise CheckpointUnavailable(
                f"the checkpoint of step {step} has {name} {found[name]}, this training {asked}",
                mend="resume with the recipe and the number of processes that the run was started with",
            )
    engine.load(directory)
    restore_random_state(load_safely(directory / f"rng-rank{rank}.pt"))
    return step


def holds() -> tuple[str, ...]:
    """What ``save`` writes, for the log; the schedule and the data's position are functions of the step."""
    generators = (
        "rng.python",
        "rng.numpy",
        "rng.torch",
        *(("rng.cuda",) if torch.cuda.is_available() else ()),
    )
    return ("model", "optimizer", "schedule", "data position", *generators)


def save_model(model: torch.nn.Module, path: Path) -> None:
    """Write parameters and buffers; one that has several names is written under the first."""
    names = first_names(model)
    state = model.state_dict()
    tensors = {name: state[name].detach().cpu().contiguous() for name in dict.fromkeys(names.values())}
    safetensors.torch.save_file(tensors, path)


def load_model(model: torch.nn.Module, path: Path) -> None:
    """Restore what ``save_model`` wrote. Raises ``CheckpointUnavailable`` where it is of another model."""
    try:
        tensors = safetensors.torch.load_file(path)
        model.load_state_dict({name: tensors[first] for name, first in first_names(model).items() if first in tensors})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointUnavailable(
            f"the checkpoint is not of this model: {error}",
            mend="resume with the recipe and code that wrote it",
        ) from error


def first_names(model: torch.nn.Module) -> dict[str, str]:
    """The first name of each entry of the state, which is its only one unless tensors are tied."""
    first: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    names = {}
    for name, tensor in model.state_dict().items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride())
        names[name] = first.setdefault(identity, name) if tensor.numel() else name
    return names


def save_state(state: Any, path: Path) -> None:
    """Write a tree of tensors and plain values; equal trees give equal bytes."""
    with path.open("wb") as file:  # given a path, torch would write its name into the file
        torch.save(canonical(state), file)


def load_safely(path: Path) -> Any:
    """Read what ``save_state`` wrote. Raises ``CheckpointUnavailable``."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise CheckpointUnavailable(f"{path.name} of the checkpoint cannot be read: {error}") from error


def canonical(value: Any) -> Any:
    """The same tree with nothing shared but names, because pickle writes down what is the same object."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {canonical(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(canonical(item) for item in value)
    return sys.intern(value) if isinstance(value, str) else value
