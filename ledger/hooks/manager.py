"""Plugins: their discovery, one typed method for each hook, and the error policy of each.

pluggy isolates nothing by itself, so nobody else calls a hook. Three policies: ``_first`` lets an exception
through, ``_collect`` asks each plugin alone and keeps failures beside results, ``_notify`` collects and puts a
plugin that failed into quarantine.
"""

from __future__ import annotations

import importlib.metadata
import traceback
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pluggy

from ledger.errors import LedgerError, PluginUnavailable, ReplayRefused, UsageError
from ledger.events import Check
from ledger.hooks import specs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.codec import Recorded
    from ledger.events import Event, World
    from ledger.hooks.ports import CheckpointStore, DataSource, Engine, Launch, Mirror, Trainer
    from ledger.objects import ObjectStore
    from ledger.read.state import RunState
    from ledger.replay.plan import Plan
    from ledger.settings import Settings

GROUP: Final = "ledger.plugins"
DISTRIBUTION: Final = "training-ledger"


@dataclass
class PluginInfo:
    """One plugin that was found, whether it could be loaded or not."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    status: str = "ok"
    """``ok``, ``disabled``, ``not installed`` (something it imports is missing), ``broken`` or ``quarantined``."""
    reason: str = ""


@dataclass
class _Collected:
    results: list[tuple[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


class Plugins:
    """The plugins of one ledger, behind one typed method for each hook."""

    def __init__(self, manager: pluggy.PluginManager, found: Sequence[PluginInfo]) -> None:
        self._manager = manager
        self._found = {info.name: info for info in found}
        self._quarantined: set[str] = set()

    @classmethod
    def of(cls, *plugins: object) -> Plugins:
        """Just these plugins, for tests and for programs that bring their own."""
        manager = _new_manager()
        found = []
        for plugin in plugins:
            name = getattr(plugin, "__name__", type(plugin).__name__)
            manager.register(plugin, name)
            found.append(_info(manager, name, "", ""))
        return cls(manager, found)

    def describe(self) -> list[PluginInfo]:
        """Every plugin that was found, with what it does and why it is out of action."""
        return list(self._found.values())

    # --- who answers ------------------------------------------------------------------------------------------

    def data_source(self, uri: str, settings: Settings, objects: ObjectStore) -> DataSource:
        """The source that answers to ``uri``. Raises ``PluginUnavailable`` where none does."""
        source: DataSource | None = self._first("open_data_source", uri=uri, settings=settings, objects=objects)
        if source is None:
            raise PluginUnavailable(f"no plugin reads data from {uri!r}", mend=self._mend(uri, "open_data_source"))
        return source

    def data_source_named(self, name: str, uri: str, settings: Settings, objects: ObjectStore) -> DataSource:
        """The source that pinned ``uri`` once; another plugin's answer would be other data."""
        source = self.data_source(uri, settings, objects)
        if source.name != name:
            raise PluginUnavailable(
                f"{uri!r} was pinned by the plugin {name!r}, but {source.name!r} answers now",
                mend=f"install and enable the plugin {name!r}",
            )
        return source

    def checkpoint_store(self, uri: str, settings: Settings) -> CheckpointStore:
        """The store that answers to ``uri``. Raises ``PluginUnavailable`` where none does."""
        store: CheckpointStore | None = self._first("open_checkpoint_store", uri=uri, settings=settings)
        if store is None:
            raise PluginUnavailable(
                f"no plugin stores checkpoints at {uri!r}", mend=self._mend(uri, "open_checkpoint_store")
            )
        return store

    def trainer(self, settings: Settings) -> Trainer:
        """The trainer behind ``ledger train``."""
        trainer: Trainer | None = self._first("open_trainer", settings=settings)
        if trainer is None:
            raise PluginUnavailable("no trainer is installed", mend="pip install 'training-ledger[torch]'")
        return trainer

    def engine(self, name: str, config: Mapping[str, Any]) -> Engine:
        """The engine called ``name``, ready in this process."""
        engine: Engine | None = self._first("build_engine", name=name, config=config)
        if engine is None:
            raise PluginUnavailable(
                f"no plugin builds the engine {name!r}", mend="see `ledger plugins` for those that are installed"
            )
        return engine

    def require_engine(self, name: str) -> None:
        """Raise ``PluginUnavailable`` where no plugin builds that engine, or the one that does cannot yet."""
        collected = self._collect("offer_engines")
        offered = {engine: mend for _, engines in collected.results for engine, mend in (engines or {}).items()}
        if offered.get(name):
            raise PluginUnavailable(f"the engine {name!r} is not ready to be used", mend=offered[name])
        silent = self._plugins("build_engine") - {plugin for plugin, _ in collected.results}
        if name not in offered and not silent:  # who does not say what it builds may build this
            raise PluginUnavailable(f"there is no engine {name!r}", mend=f"there are {', '.join(sorted(offered))}")

    def launch(self, plan: Launch, world: World) -> list[str]:
        """The argument vector that starts ``plan``: a launcher's, or the command itself for one process."""
        command: Sequence[str] | None = self._first("launch_command", plan=plan, world=world)
        if command is None and world.launcher:
            raise PluginUnavailable(
                f"no plugin starts this command with {world.launcher}",
                mend=f"pip install 'training-ledger[{world.launcher}]', or choose another --launcher",
            )
        return list(plan.command if command is None else command)

    def before_replay(self, plan: Plan) -> None:
        """Give every plugin its veto: ``ReplayRefused`` propagates, as does everything else."""
        for implementation in self._implementations("before_replay"):
            try:
                _call(implementation, {"plan": plan})
            except ReplayRefused:
                raise
            except Exception as error:
                raise self._blame(implementation, "before_replay", error) from error

    def event_types(self) -> list[type[Event]]:
        """Event types of all plugins; a plugin that fails here stops start-up."""
        types: list[type[Event]] = []
        for implementation in self._implementations("register_events"):
            try:
                types += _call(implementation, {}) or ()
            except Exception as error:
                raise self._blame(implementation, "register_events", error) from error
        return types

    # --- each on its own --------------------------------------------------------------------------------------

    def mirrors(self, settings: Settings) -> list[Mirror]:
        """All mirrors that could be opened; the others are off, each with a warning."""
        collected = self._collect("open_mirrors", settings=settings)
        for name, failure in collected.failures.items():
            warnings.warn(f"plugin {name}: its mirrors are off: {failure}", RuntimeWarning, stacklevel=2)
        return [mirror for _, mirrors in collected.results for mirror in mirrors or ()]

    def environment(self) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
        """Sections of the environment by plugins, and what failed by plugin name."""
        collected = self._collect("capture_environment")
        return [sections for _, sections in collected.results if sections], collected.failures

    def compare_runs(self, original: RunState, replayed: RunState) -> list[Check]:
        """Further checks on a replay; a plugin that fails becomes a failed check with its name."""
        collected = self._collect("compare_runs", original=original, replayed=replayed)
        failed = [
            Check(name=f"plugin {name}", expected="an answer", actual=failure, passed=False)
            for name, failure in collected.failures.items()
        ]
        return [check for _, checks in collected.results for check in checks or ()] + failed

    def events_appended(self, recorded: Sequence[Recorded]) -> None:
        """Tell every plugin what was committed; one that raises is told nothing more in this process."""
        self._notify("events_appended", recorded=recorded)

    # --- the three policies -----------------------------------------------------------------------------------

    def _first(self, hook: str, **arguments: Any) -> Any:
        # One at a time instead of pluggy's firstresult, so that an exception can be laid at a plugin's door.
        for implementation in self._implementations(hook):
            try:
                answer = _call(implementation, arguments)
            except LedgerError:
                raise
            except Exception as error:
                raise self._blame(implementation, hook, error) from error
            if answer is not None:
                return answer
        return None

    def _collect(self, hook: str, **arguments: Any) -> _Collected:
        collected = _Collected()
        for implementation in self._implementations(hook):
            name = implementation.plugin_name
            if name in self._quarantined:
                continue
            try:
                collected.results.append((name, _call(implementation, arguments)))
            except Exception as error:  # noqa: BLE001 - a stranger's code must never cost a run
                collected.failures[name] = _describe(error)
        return collected

    def _notify(self, hook: str, **arguments: Any) -> None:
        for name, failure in self._collect(hook, **arguments).failures.items():
            self._quarantined.add(name)
            info = self._found[name]
            info.status, info.reason = "quarantined", f"{hook}: {failure}"
            warnings.warn(
                f"plugin {name} failed in {hook} and is left out from now on: {failure}", RuntimeWarning, stacklevel=4
            )

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        # pluggy lists implementations in the order of registration and calls them from the end.
        return list(reversed(getattr(self._manager.hook, hook).get_hookimpls()))

    def _plugins(self, hook: str) -> set[str]:
        return {implementation.plugin_name for implementation in self._implementations(hook)}

    def _blame(self, implementation: pluggy.HookImpl, hook: str, error: Exception) -> LedgerError:
        info = self._found[implementation.plugin_name]
        return PluginUnavailable(
            f"plugin {info.name} {info.version} failed in {hook}: {_describe(error)}",
            mend="report it to the plugin's authors, or leave it out with LEDGER_PLUGINS",
        )

    def _mend(self, uri: str, hook: str) -> str:
        broken = [
            f"{i.name} is {i.status}: {i.reason}" for i in self._found.values() if i.status not in ("ok", "disabled")
        ]
        if broken:
            return "; ".join(broken)
        able = ", ".join(implementation.plugin_name for implementation in self._implementations(hook)) or "none"
        return f"installed for this: {able}; `ledger plugins` lists all. A path needs its scheme: file:{uri}"


def load_plugins(settings: Settings) -> Plugins:
    """All installed plugins of the entry-point group ``ledger.plugins``, each loaded on its own.

    Ledger's own are always loaded; of the others only those that ``settings.plugins`` names, if it names any.
    """
    manager = _new_manager()
    found = [_load(manager, entry, settings) for entry in importlib.metadata.entry_points(group=GROUP)]
    installed = {info.name for info in found}
    if unknown := [name for name in settings.plugins or () if name not in installed]:
        raise UsageError(
            f"LEDGER_PLUGINS names {', '.join(unknown)}: not installed",
            mend=f"installed are {', '.join(sorted(installed))}",
        )
    return Plugins(manager, found)


def _load(manager: pluggy.PluginManager, entry: importlib.metadata.EntryPoint, settings: Settings) -> PluginInfo:
    distribution = entry.dist.name if entry.dist else ""
    version = entry.dist.version if entry.dist else ""
    if settings.plugins is not None and entry.name not in settings.plugins and distribution != DISTRIBUTION:
        return PluginInfo(entry.name, distribution, version, status="disabled", reason="LEDGER_PLUGINS leaves it out")
    try:
        plugin = entry.load()
        manager.register(plugin, entry.name)
        manager.check_pending()
    except ModuleNotFoundError as error:
        own = (error.name or "").split(".")[0] == entry.module.split(".")[0]
        status = "broken" if own else "not installed"
        return PluginInfo(entry.name, distribution, version, status=status, reason=f"it needs {error.name}")
    except Exception as error:  # noqa: BLE001 - a broken plugin is reported, it does not stop the others
        manager.unregister(name=entry.name)
        return PluginInfo(entry.name, distribution, version, status="broken", reason=_describe(error))
    return _info(manager, entry.name, distribution, version)


def _info(manager: pluggy.PluginManager, name: str, distribution: str, version: str) -> PluginInfo:
    plugin = manager.get_plugin(name)
    callers = manager.get_hookcallers(plugin) or []
    return PluginInfo(name, distribution, version, hooks=tuple(sorted(caller.name for caller in callers)))


def _call(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    """One plugin's answer, alone, given those of the arguments that it asks for."""
    return implementation.function(*(arguments[name] for name in implementation.argnames))


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("ledger")
    manager.add_hookspecs(specs)
    return manager


def _describe(error: Exception) -> str:
    """An exception with the place it came from: a plugin's author needs both."""
    place = traceback.extract_tb(error.__traceback__)
    where = f" ({place[-1].filename}:{place[-1].lineno})" if place else ""
    return f"{type(error).__name__}: {error}{where}"
