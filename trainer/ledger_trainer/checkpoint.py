"""What a checkpoint directory holds. No clock and no run's name, so equal training gives equal files.

==============================  =============================================================================
``progress.json``               format, step, seed and world (number of processes) of the training
``rng-rank<k>.pt``              state of every generator of rank k
``model-bfloat16.safetensors``  the model for others, where the recipe asks for it; nothing is resumed from it
everything else                 is the engine's
==============================  =============================================================================

Every ``.pt`` file is read with ``weights_only``: a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import torch

from ledger.errors import CheckpointUnavailable
from ledger.files import Lent
from ledger_trainer import ranks
from ledger_trainer.determinism import capture_random_state, restore_random_state, seed_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ledger.hooks.ports import Engine

FORMAT: Final = 1


@runtime_checkable
class Lending(Protocol):
    """An engine that need not write its tensors for others to read them."""

    def lend(self, directory: Path) -> Callable[[], Lent]:
        """``Engine.save``, save that what is returned may leave files in memory, and then returns them.

        They stay as they are until ``save``, ``lend`` or ``fingerprint`` is called after another step.
        """


def save(directory: Path, engine: Engine, *, step: int, seed: int, rank: int, lend: bool = False) -> Callable[[], Lent]:
    """Take the whole state after ``step``; what is returned writes this rank's part of it to ``directory``.

    A collective, under the terms of ``Engine.save``. Every rank must see the directory. Files that this rank is to
    ``lend`` are not written where the engine can leave them in memory: what is returned returns them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state = canonical(capture_random_state())
    world = ranks.world()
    take: Callable[[], Lent | None]
    take = engine.lend(directory) if lend and isinstance(engine, Lending) else engine.save(directory)

    def write() -> Lent:
        lent = take() or Lent()
        save_state(state, directory / f"rng-rank{rank}.pt")
        if rank == 0:
            progress = {"format": FORMAT, "seed": seed, "step": step, "world": world}
            (directory / "progress.json").write_text(json.dumps(progress, sort_keys=True) + "\n")
        return lent

    return write


def load(directory: Path, engine: Engine, *, seed: int, rank: int, world: int) -> int:
    """Restore what ``save`` wrote and return its step; a collective.

    Generators come last, since whatever is made before them may draw from them. Where ``world`` is not the number of
    processes that wrote the checkpoint, generators begin anew, as a function of the seed that this process has set
    and of the step. Raises ``CheckpointUnavailable`` where the directory is of another kind of training, before
    anything was changed.
    """
    progress = _progress(directory)
    for name, asked in {"format": FORMAT, "seed": seed}.items():
        if progress[name] != asked:
            raise CheckpointUnavailable(
                f"the checkpoint of step {progress['step']} has {name} {progress[name]}, this training {asked}",
                mend="resume with the recipe that the run was started with",
            )
    same = progress["world"] == world
    # First, as a damaged file must be found before anything is changed.
    state = load_safely(directory / f"rng-rank{rank}.pt") if same else None
    engine.load(directory)
    if state is not None:
        restore_random_state(state)
    else:
        seed_all(torch.initial_seed(), f"after step {progress['step']}")
    return progress["step"]


def processes(directory: Path) -> int:
    """How many processes wrote the checkpoint; with another number training goes on, but not bit for bit."""
    return _progress(directory)["world"]


def _progress(directory: Path) -> dict[str, int]:
    try:
        progress = json.loads((directory / "progress.json").read_text())
        return {name: int(progress[name]) for name in ("format", "seed", "step", "world")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointUnavailable(f"{directory} is not a checkpoint of this trainer: {error!r}") from error


def holds() -> tuple[str, ...]:
    """What ``save`` writes, for the log; the schedule and the data's position are functions of the step."""
    generators = (
        "rng.python",
        "rng.numpy",
        "rng.torch",
        *(("rng.cuda",) if torch.cuda.is_available() else ()),
    )
    return ("model", "optimizer", "schedule", "data position", *generators)


def save_state(state: Any, path: Path) -> None:
    """Write a tree of tensors and plain values; equal trees give equal bytes."""
    content = io.BytesIO()  # given a path, torch would write its name into the file; of a full disk it tells nothing
    torch.save(canonical(state), content)
    path.write_bytes(content.getbuffer())


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
