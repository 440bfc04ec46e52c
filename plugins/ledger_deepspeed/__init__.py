"""DeepSpeed: an engine for the trainer, its launcher, and one line that records scripts of your own.

Importing this costs nothing: torch and DeepSpeed come when a hook, or ``attach``, needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger import Run
    from ledger.events import World
    from ledger.hooks.ports import Engine, Launch


@hookimpl
def build_engine(name: str, config: Mapping[str, Any]) -> Engine | None:
    """``deepspeed``: ZeRO 0 to 3, or a pipeline where ``parallel.pipeline`` is above 1."""
    if name != "deepspeed":
        return None
    from ledger_deepspeed import backend, settings

    settings.check_sizes(config)
    backend.load()  # before the modules here that import it
    from ledger_deepspeed.engine import ZeroEngine
    from ledger_deepspeed.pipeline import PipelineEngine

    return PipelineEngine(config) if settings.size(config, "pipeline") > 1 else ZeroEngine(config)


@hookimpl
def check_engine(name: str, config: Mapping[str, Any]) -> None:
    """Sizes that DeepSpeed has, and a JSON that does not contradict the recipe."""
    if name == "deepspeed":
        from ledger_deepspeed import settings

        settings.check_sizes(config)
        settings.merged(config)


@hookimpl
def offer_engines() -> Mapping[str, str]:
    """``deepspeed``, ready where DeepSpeed is installed."""
    from ledger_deepspeed import backend

    return {"deepspeed": "" if backend.installed() else backend.INSTALL}


@hookimpl
def launch_command(plan: Launch, world: World) -> Sequence[str] | None:
    """DeepSpeed's own launcher, where the world asks for it."""
    if world.launcher != "deepspeed":
        return None
    from ledger_deepspeed.launch import command

    return command(plan, world)


def attach(engine: Any, run: Run | None) -> None:
    """Record metrics, checkpoints and topology of a script's own DeepSpeed ``engine``.

    Every rank calls it once, right after ``deepspeed.initialize``; ``run`` may be None on all but the first. From then
    on, after each step ``train/loss`` (the mean over all ranks), ``lr`` and ``grad_norm`` (where DeepSpeed computes
    it) are logged at DeepSpeed's ``global_steps``. ``save_checkpoint`` puts the generators of every rank and the data
    position into ``client_state["ledger"]``, and what it wrote is stored as a checkpoint of the run, from which
    ``load_checkpoint(run.resumed_from)`` goes on. ``load_checkpoint`` restores the generators. A failure to record is
    a warning: it never ends the script. Only where the run has been resumed elsewhere, a step or ``save_checkpoint``
    raises ``FencedAttempt`` on the first rank, so that two do not train the same run.
    """
    from ledger_deepspeed.recording import attach as start

    start(engine, run)
