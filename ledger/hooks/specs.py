"""The hooks that a plugin may implement. Error policies are the façade's business: see ``ledger.hooks.manager``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.codec import Recorded
    from ledger.events import Check, Event, World
    from ledger.hooks.ports import CheckpointStore, DataSource, Engine, Launch, Mirror, Trainer
    from ledger.objects import ObjectStore
    from ledger.read.state import RunState
    from ledger.replay.plan import Plan
    from ledger.settings import Settings

API: Final = 1
"""Version of the plugin API: these hooks and ``ledger.hooks.ports``. A plugin states the one that it was written for
as ``ledger_api``."""

hookspec = pluggy.HookspecMarker("ledger")
hookimpl = pluggy.HookimplMarker("ledger")


@hookspec
def register_events() -> Sequence[type[Event]]:
    """Event types of the plugin's own: subclasses of ``ledger.events.Event``, named under its prefix.

    Failing: Ledger does not start.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def open_data_source(uri: str, settings: Settings, objects: ObjectStore) -> DataSource | None:
    """The source that answers to ``uri``, or None.

    ``objects`` is the ledger's content-addressed store, for snapshots. The plugin's name goes on record; a replay asks
    it again.

    Failing: the run stops before it trains on unknown data.
    """


@hookspec(firstresult=True)
def open_checkpoint_store(uri: str, settings: Settings) -> CheckpointStore | None:
    """The store that answers to ``uri``, or None; the bundled fsspec store answers last.

    Failing: what needs the store stops.
    """


@hookspec(firstresult=True)
def open_trainer(settings: Settings) -> Trainer | None:
    """The trainer behind ``ledger train``, or None.

    Failing: what needs the trainer stops.
    """


@hookspec
def offer_engines() -> Mapping[str, str]:
    """Names of the engines that this plugin builds, each with what is left to do before it can be used.

    That is ``pip install …``, or an empty text where nothing is left to do. ``ledger train`` refuses other names before
    anything starts, unless a plugin with ``build_engine`` leaves this hook out or fails in it.

    Failing: a warning names the plugin, and ``build_engine`` is asked all the same.
    """
    raise NotImplementedError


@hookspec
def check_engine(name: str, config: Mapping[str, Any]) -> None:
    """A look at a recipe for the engine called ``name``; raise ``ledger.errors.InvalidRecipe`` to refuse it.

    ``config`` is the recipe as plain values. Called in the process of the command line before a run is on record: an
    engine of another plugin is none of its business, and neither torch nor the like should be imported.

    Failing: nothing starts.
    """


@hookspec(firstresult=True)
def build_engine(name: str, config: Mapping[str, Any]) -> Engine | None:
    """The engine called ``name`` for this process, or None. Called in the training process, by every rank.

    ``config`` is the recipe as plain values, in which ``task`` is the task itself, ``optimizer`` makes the optimizer of
    a model and ``learning_rate`` tells the rate of a step.

    Failing: the training stops.
    """


@hookspec(firstresult=True)
def launch_command(plan: Launch, world: World) -> Sequence[str] | None:
    """The argument vector that starts ``plan`` on ``world``, or None to run ``plan.command`` as it is.

    It starts ``plan.command`` on the ``world.processes`` processes of all ``world.nodes`` together, by
    ``world.launcher`` with ``world.options``. For a launcher that somebody asked for, None from all is an error. Called
    before a run is on record, to find out what would keep it from starting, and once more to start it.

    Failing: nothing starts; the second time the run is recorded as failed.
    """


@hookspec
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The mirrors that this plugin has, none of them connected.

    Failing: the mirrors of this plugin are off, with a warning; recording goes on.
    """
    raise NotImplementedError


@hookspec
def capture_environment() -> Mapping[str, Any]:
    """Sections of ``environment.captured`` to merge in: ``libraries``, ``determinism``, ``accelerators``.

    Failing: that becomes part of the captured fact, under ``failures``.
    """
    raise NotImplementedError


@hookspec
def before_replay(plan: Plan) -> None:
    """A look at a replay before anything runs; raise ``ledger.errors.ReplayRefused`` to veto it.

    Failing: nothing is run.
    """


@hookspec
def compare_runs(original: RunState, replayed: RunState) -> Sequence[Check]:
    """Further checks between an original and its whole replay.

    Failing: that becomes a failed check with the plugin's name.
    """
    raise NotImplementedError


@hookspec
def events_appended(recorded: Sequence[Recorded]) -> None:
    """Events that were just committed, told in the process that wrote them.

    Failing: the plugin is in quarantine for the rest of that process, with a warning; recording goes on.
    """
