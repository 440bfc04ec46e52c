"""``ledger train``: the bundled trainer, recorded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ledger.cli.launching import launch_options
from ledger.cli.options import command, commit_option, no_snapshot_option, tag_option
from ledger.errors import LedgerError, PluginUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.cli.session import Session
    from ledger.hooks.ports import RecipeKey
    from ledger.record.command import Started
    from ledger.record.world import Asked


_NO_TORCH: Final = "training needs PyTorch, which is not installed"
_INSTALL: Final = "pip install 'training-ledger[torch]'"


class _Train(click.Command):
    """Adds to its help what a recipe may say, which only the trainer knows."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        try:
            rows = [_row(key) for key in _described()]
        except (LedgerError, ImportError) as error:
            with formatter.section("Recipe keys"):
                formatter.write_text(f"{error}: {_INSTALL}")
            return
        if _torch_is_missing():
            with formatter.section("Not ready"):
                formatter.write_text(f"{_NO_TORCH}: {_INSTALL}")
        with formatter.section("Recipe keys (TYPE = DEFAULT), in CONFIG.toml or as key=value"):
            formatter.write_dl(rows, col_max=28)


@command(
    "train",
    example="ledger train recipe.toml\n"
    "ledger train recipe.toml optim.lr=0.001 --nproc 2 --tag baseline\n"
    "ledger train recipe.toml engine.name=fsdp --nproc 4 --max-restarts 3",
    cls=_Train,
)
@click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG.toml")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@launch_options
@commit_option
@no_snapshot_option
@tag_option
def train(
    session: Session,
    config: Path,
    overrides: tuple[str, ...],
    asked: Asked,
    commit: str | None,
    no_snapshot: bool,
    tags: tuple[str, ...],
) -> int:
    """Train from a recipe, recorded.

    Several processes are started by torchrun or by DeepSpeed's launcher. On several nodes, start the same command on
    each, with its own --node-rank and a common ledger; node 0 records the run, the others join it.

    On a terminal a bar shows step, loss, pace and the time that is left.

    Ends with 0, with 5 if the training failed, with 130 if it was interrupted; `ledger resume` goes on.
    """
    from ledger.cli.outcome import announce_gaps, conclude, invocation
    from ledger.cli.progress import Bar
    from ledger.hooks.manager import load_plugins
    from ledger.record.command import Request, record_command
    from ledger.record.join import join_command, joins
    from ledger.record.world import engine_of

    overrides += (f"parallel.processes={asked.processes}",) if asked.processes else ()
    # A recipe that does not hold is refused before a ledger is made for it.
    plugins = load_plugins(session.settings)
    recipe = plugins.trainer(session.settings).resolve(config, overrides)
    world = asked.world(recipe.world.processes)
    if "ledger_trainer" in recipe.command and _torch_is_missing():
        raise PluginUnavailable(_NO_TORCH, mend=_INSTALL)
    if engine := engine_of(recipe.config):
        plugins.require_engine(engine)
        plugins.check_engine(engine, recipe.config)
    if joins(world):
        with session.writing() as book:
            return conclude(book, join_command(book, world, config=recipe.config))
    request = Request(
        kind="train",
        invocation=invocation(),
        command=recipe.command,
        directory=Path.cwd(),
        world=world,
        seed=recipe.seed,
        config=recipe.config,
        overrides=overrides,
        data=recipe.data,
        tags=tags,
        snapshot=not no_snapshot,
        commit=commit,
    )
    with session.writing() as book:
        with Bar(recipe.steps) as bar:

            def on_start(started: Started) -> None:
                announce_gaps(book, started)
                bar.start(started.name)

            outcome = record_command(book, request, watch=bar.watch, on_start=on_start)
        return conclude(book, outcome)


def _torch_is_missing() -> bool:
    return importlib.util.find_spec("torch") is None


def _described() -> Sequence[RecipeKey]:
    from ledger.hooks.manager import load_plugins
    from ledger.settings import find_settings

    settings = find_settings()
    return load_plugins(settings).trainer(settings).describe()


def _row(key: RecipeKey) -> tuple[str, str]:
    default = "required" if key.default == "required" else f"= {key.default}" if key.default else "(none)"
    return key.key, f"{key.type} {default}. {key.help}"
