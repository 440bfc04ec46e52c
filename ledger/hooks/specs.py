"""The hooks that a plugin may implement. Error policies are the façade's business: see ``ledger.hooks.manager``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

hookspec = pluggy.HookspecMarker("ledger")
hookimpl = pluggy.HookimplMarker("ledger")


@hookspec
def register_events() -> Sequence[type[Event]]:
    """Event types of the plugin's own, named under its prefix. Raising stops start-up."""
    raise NotImplementedError


@hookspec(firstresult=True)
def open_data_source(uri: str, settings: Settings, objects: ObjectStore) -> DataSource | None:
    """The source that answers to ``uri``, or None. Raising stops the run before it trains on unknown data."""


@hookspec(firstresult=True)
def open_checkpoint_store(uri: str, settings: Settings) -> CheckpointStore | None:
    """The store that answers to ``uri``, or None; fsspec answers last. Raising propagates."""


@hookspec(firstresult=True)
def open_trainer(settings: Settings) -> Trainer | None:
    """The trainer behind ``ledger train``, or None. Raising propagates."""


@hookspec
def offer_engines() -> Mapping[str, str]:
    """Names of the engines that this plugin builds, each with what to do before it can be used; empty if nothing."""
    raise NotImplementedError


@hookspec(firstresult=True)
def build_engine(name: str, config: Mapping[str, Any]) -> Engine | None:
    """The engine called ``name`` for this process, or None. Raising propagates."""


@hookspec(firstresult=True)
def launch_command(plan: Launch, world: World) -> Sequence[str] | None:
    """The argument vector that starts ``plan`` on ``world``, or None to run ``plan.command`` as it is."""


@hookspec
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The mirrors that this plugin has, none of them connected. Raising turns off these only, with a warning."""
    raise NotImplementedError


@hookspec
def capture_environment() -> Mapping[str, Any]:
    """Sections of ``environment.captured`` to merge in. A failure becomes part of the captured fact."""
    raise NotImplementedError


@hookspec
def before_replay(plan: Plan) -> None:
    """A look at a replay before anything runs; raise ``ReplayRefused`` to veto it."""


@hookspec
def compare_runs(original: RunState, replayed: RunState) -> Sequence[Check]:
    """Further checks between an original and its whole replay. A failure becomes a failed check naming the plugin."""
    raise NotImplementedError


@hookspec
def events_appended(recorded: Sequence[Recorded]) -> None:
    """Events that were just committed. The first failure quarantines the plugin for this run."""
