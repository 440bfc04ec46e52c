"""The trainer's hooks.

Importing this module costs nothing: torch and the rest come when a hook needs them.
"""

from __future__ import annotations

import importlib.util
import runpy
from typing import TYPE_CHECKING, Any

from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.events import World
    from ledger.hooks.ports import Engine, Launch, Trainer
    from ledger.settings import Settings


@hookimpl
def open_trainer(settings: Settings) -> Trainer:
    """The bundled trainer."""
    from ledger_trainer.trainer import RecipeTrainer

    return RecipeTrainer()


@hookimpl
def build_engine(name: str, config: Mapping[str, Any]) -> Engine | None:
    """``torch`` for one process, ``ddp`` for several."""
    if name not in ("torch", "ddp"):
        return None
    from ledger_trainer.engines import DdpEngine, TorchEngine

    return DdpEngine(config) if name == "ddp" else TorchEngine(config)


@hookimpl
def launch_command(plan: Launch, world: World) -> Sequence[str] | None:
    """torchrun, for several processes of this trainer."""
    interpreter, *rest = plan.command
    if world.processes == 1 or rest[:2] != ["-m", "ledger_trainer"]:
        return None
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world.processes)]
    return [interpreter, *launcher, *rest]


@hookimpl
def capture_environment() -> Mapping[str, Any]:
    """How torch was built, read from its files: the process that records a command need not import it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return {}
    built = runpy.run_path(f"{spec.submodule_search_locations[0]}/version.py")
    facts = {
        "version": built["__version__"],
        "git": built["git_version"],
        "cuda": built["cuda"],
        "hip": built["hip"],
    }
    return {"libraries": {"torch": {name: value for name, value in facts.items() if value is not None}}}
