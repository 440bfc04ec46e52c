"""The trainer's hooks.

Importing this module costs nothing: torch and the rest come when a hook needs them.
"""

from __future__ import annotations

import importlib.util
import runpy
from typing import TYPE_CHECKING, Any

from ledger.errors import UsageError
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
    """``torch`` for one process, ``ddp`` and ``fsdp`` for several."""
    if name not in ("torch", "ddp", "fsdp"):
        return None
    if name == "torch":
        from ledger_trainer.engines import TorchEngine

        return TorchEngine(config)
    from ledger_trainer.engines.parallel import ParallelEngine

    return ParallelEngine(config)


@hookimpl
def offer_engines() -> Mapping[str, str]:
    """Those of ``build_engine``, ready where torch is; `ledger train` itself says where it is not."""
    return dict.fromkeys(("torch", "ddp", "fsdp"), "")


@hookimpl
def launch_command(plan: Launch, world: World) -> Sequence[str] | None:
    """torchrun, for what one process of this trainer alone cannot be."""
    interpreter, *rest = plan.command
    if rest[:2] != ["-m", "ledger_trainer"] or world.launcher not in ("", "torchrun"):
        return None
    if not world.launcher and world.processes == 1:
        _must_be_alone(plan.environ)
        return None
    each = world.processes // world.nodes
    variables = []
    if any(word.startswith("--max-restarts=") for word in world.options):
        # With the store that torch 2.13 shares between agent and workers, restarted workers hang on its old keys.
        variables.append("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")
    if each > 1 and "OMP_NUM_THREADS" not in plan.environ:
        variables.append("OMP_NUM_THREADS=1")  # as torchrun itself sets it, with a banner in front of every training
    torchrun = [*(["env", *variables] if variables else []), interpreter, "-m", "torch.distributed.run"]
    torchrun.append(f"--nproc-per-node={each}")
    if world.nodes > 1:
        torchrun.append(f"--nnodes={world.nodes}")
    elif not any(word.startswith(("--rdzv-", "--master-")) for word in world.options):
        torchrun.append("--standalone")
    return [*torchrun, *world.options, *rest]


def _must_be_alone(environ: Mapping[str, str]) -> None:
    """Raise ``UsageError`` where variables of a launcher, or of a cluster, speak of several processes."""
    alone = {"RANK": "0", "WORLD_SIZE": "1"}
    told = [f"{name}={environ[name]}" for name in alone if name in environ]
    if any(environ.get(name, value) != value for name, value in alone.items()):
        raise UsageError(
            f"this training has one process, and {' '.join(told)} tell it that it is one of several",
            mend="`--nproc N` trains with N, and starts them itself; for one: unset RANK WORLD_SIZE",
        )


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
