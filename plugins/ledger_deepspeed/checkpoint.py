"""DeepSpeed's checkpoint files: written the same for the same training, read without running what is in them."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.zero.config import ZeroStageEnum

from ledger.errors import CheckpointUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

TAG: Final = "deepspeed"
"""Folder of a checkpoint that has DeepSpeed's own files."""
CLASSES: Final = (
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)
"""What DeepSpeed pickles beside tensors and plain values: settings and addresses, none of which acts on loading."""


class EqualFiles(TorchCheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's way to its files, with one difference.

    What is one object here is not written as one: which strings and tensors happen to be shared differs between
    processes that train the same.
    """

    def save(self, state_dict: Any, path: str) -> None:
        """Write one file. Raises ``OSError``."""
        try:
            with Path(path).open("wb") as file:  # given a path, torch would write its name into the file
                torch.save(canonical(state_dict), file)
        except (OSError, RuntimeError) as error:
            # Of a full disk torch says that a position in the file is unexpected.
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            raise OSError(reason.errno, reason.strerror, path) from error


class SafeFiles(EqualFiles):
    """Besides, reading is restricted to tensors, plain values and ``CLASSES``."""

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file. Raises ``CheckpointUnavailable``."""
        with safely():
            try:
                return torch.load(path, map_location=map_location, weights_only=True)
            except Exception as error:  # torch raises half a dozen kinds for a damaged file
                raise CheckpointUnavailable(
                    f"{Path(path).name} of the checkpoint cannot be read: {error}",
                    mend="resume from another checkpoint; `ledger checkpoints` lists them",
                ) from error


@contextlib.contextmanager
def safely() -> Iterator[None]:
    """Inside, ``weights_only`` allows DeepSpeed's own classes."""
    allowed = [getattr(importlib.import_module(module), name) for module, name in CLASSES]
    with torch.serialization.safe_globals(allowed):
        yield


def vet(directory: Path) -> None:
    """Read every file as ``SafeFiles`` does, before tools of DeepSpeed's that are not so careful see them."""
    files = SafeFiles()
    for path in sorted(directory.rglob("*.pt")):
        files.load(str(path), map_location="meta")


def convert(directory: Path, to: Path) -> None:
    """Make DeepSpeed's universal checkpoint, which loads on any number of processes. Raises ``CheckpointUnavailable``.

    It copies everything once more: on disk, and through the memory of a process of its own.
    """
    vet(directory / TAG)
    tool = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    folders = ["--input_folder", str(directory / TAG), "--output_folder", str(to / TAG)]
    done = subprocess.run([*tool, *folders], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise CheckpointUnavailable(
            f"DeepSpeed cannot convert the checkpoint for another number of processes: {said[0]}",
            mend="resume with as many processes as wrote it",
        )
    (to / "latest_universal").write_text(TAG)


def read_card(directory: Path) -> dict[str, Any]:
    """What ``write_card`` wrote. Raises ``CheckpointUnavailable`` where another engine wrote the checkpoint."""
    try:
        card = json.loads((directory / "deepspeed.json").read_text())
        return {name: card[name] for name in ("zero", "precision", "mesh", "parameters")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointUnavailable(
            f"the checkpoint was not written by the engine deepspeed: {error!r}",
            mend="resume with the engine that wrote it",
        ) from error


def write_card(directory: Path, card: dict[str, Any]) -> None:
    """Say what the checkpoint is of, so that another kind of training refuses it before it changes anything."""
    (directory / "deepspeed.json").write_text(json.dumps(card, sort_keys=True) + "\n")


def canonical(value: Any) -> Any:
    """The same tree with nothing shared but short strings, because pickle writes down what is the same object."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if type(value) in (dict, OrderedDict):
        return type(value)((canonical(key), canonical(item)) for key, item in value.items())
    if type(value) in (list, tuple, set):
        return type(value)(canonical(item) for item in value)
    if isinstance(value, ZeroStageEnum):  # up to Python 3.11.3 it would be pickled as a call of ``getattr``
        return value.value
    return sys.intern(value) if type(value) is str else value
