"""Plugins: one typed method for each hook, and the error policy of each.

pluggy isolates nothing by itself, so nobody else calls a hook. Three policies: ``_first`` lets an exception through,
naming the plugin; ``_collect`` asks each plugin alone, for a bounded time, and keeps failures beside results;
``_notify`` collects and puts a plugin that failed into quarantine, as does every hook that had no answer in time.
What an answer is not allowed to be counts as a failure.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import LedgerError, PluginUnavailable, ReplayRefused, UsageError
from ledger.events import Check
from ledger.hooks import answers, guard
from ledger.hooks.loading import DISTRIBUTION, PluginInfo, admit, describe, discover, new_manager
from ledger.hooks.ports import CheckpointStore, DataSource, Engine, Mirror, Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pluggy

    from ledger.codec import Recorded
    from ledger.events import Event, World
    from ledger.hooks.ports import Launch
    from ledger.objects import ObjectStore
    from ledger.read.state import RunState
    from ledger.replay.plan import Plan
    from ledger.settings import Settings

LIMIT_S = 30.0
"""How long one plugin may take to answer a hook whose failure costs no run."""
PATIENCE_S = 60.0
"""How long one may take to answer a hook that a run waits for, before it is said who is waited for."""
_LEAVE_OUT: Final = "report it to the plugin's authors, or leave it out with LEDGER_PLUGINS"


@dataclass
class _Collected:
    results: list[tuple[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


class Plugins:
    """The plugins of one ledger, behind one typed method for each hook."""

    def __init__(self, manager: pluggy.PluginManager, found: Sequence[PluginInfo]) -> None:
        self._manager = manager
        self._all = list(found)
        self._found = {info.name: info for info in reversed(found)}  # of two with one name, the first is loaded
        self._quarantined: set[str] = set()

    @classmethod
    def of(cls, *plugins: object) -> Plugins:
        """Just these plugins, for tests and for programs that bring their own."""
        manager = new_manager()
        names = [getattr(plugin, "__name__", type(plugin).__name__) for plugin in plugins]
        found = [
            PluginInfo(name, "", "", admit(manager, plugin, name)) for name, plugin in zip(names, plugins, strict=True)
        ]
        return cls(manager, found)

    def describe(self) -> list[PluginInfo]:
        """Every plugin that was found, with what it does and why it is out of action."""
        return list(self._all)

    # --- who answers ------------------------------------------------------------------------------------------

    def data_source(self, uri: str, settings: Settings, objects: ObjectStore) -> DataSource:
        """The source that answers to ``uri``. Raises ``PluginUnavailable`` where none does."""
        source: DataSource | None = self._first(
            "open_data_source", answers.a(DataSource), uri=uri, settings=settings, objects=objects
        )
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
        store: CheckpointStore | None = self._first(
            "open_checkpoint_store", answers.a(CheckpointStore), uri=uri, settings=settings
        )
        if store is None:
            raise PluginUnavailable(
                f"no plugin stores checkpoints at {uri!r}", mend=self._mend(uri, "open_checkpoint_store")
            )
        return store

    def trainer(self, settings: Settings) -> Trainer:
        """The trainer behind ``ledger train``."""
        trainer: Trainer | None = self._first("open_trainer", answers.a(Trainer), settings=settings)
        if trainer is None:
            raise PluginUnavailable("no trainer is installed", mend="pip install 'training-ledger[torch]'")
        return trainer

    def engine(self, name: str, config: Mapping[str, Any]) -> Engine:
        """The engine called ``name``, ready in this process."""
        engine: Engine | None = self._first("build_engine", answers.a(Engine), name=name, config=config)
        if engine is None:
            raise PluginUnavailable(
                f"no plugin builds the engine {name!r}", mend="see `ledger plugins` for those that are installed"
            )
        return engine

    def require_engine(self, name: str) -> None:
        """Raise ``PluginUnavailable`` where no plugin builds that engine, or the one that does cannot yet."""
        collected = self._collect("offer_engines", answers.table)
        for plugin, failure in collected.failures.items():
            _warn(f"plugin {plugin} does not say which engines it builds: {failure}")
        offered = {engine: mend for _, engines in collected.results for engine, mend in engines.items()}
        if offered.get(name):
            raise PluginUnavailable(f"the engine {name!r} is not ready to be used", mend=offered[name])
        silent = self._plugins("build_engine") - {plugin for plugin, _ in collected.results}
        if name not in offered and not silent:  # who does not say what it builds may build this
            raise PluginUnavailable(f"there is no engine {name!r}", mend=f"there are {', '.join(sorted(offered))}")

    def check_engine(self, name: str, config: Mapping[str, Any]) -> None:
        """Have every plugin look at a recipe for that engine: ``InvalidRecipe`` propagates, as does everything else."""
        for implementation in self._implementations("check_engine"):
            arguments = {"name": name, "config": config}
            self._ask(implementation, "check_engine", answers.ignored, arguments, passing=LedgerError)

    def launch(self, plan: Launch, world: World) -> list[str]:
        """The argument vector that starts ``plan``: a launcher's, or the command itself for one process."""
        command: Sequence[str] | None = self._first("launch_command", answers.words, plan=plan, world=world)
        if command is None and world.launcher:
            raise PluginUnavailable(
                f"no plugin starts this command with {world.launcher}",
                mend=f"pip install 'training-ledger[{world.launcher}]', or choose another --launcher",
            )
        return list(plan.command if command is None else command)

    def before_replay(self, plan: Plan) -> None:
        """Give every plugin its veto: ``ReplayRefused`` propagates, as does everything else."""
        for implementation in self._implementations("before_replay"):
            self._ask(implementation, "before_replay", answers.ignored, {"plan": plan}, passing=ReplayRefused)

    def event_types(self) -> list[type[Event]]:
        """Event types of all plugins; a plugin that fails here stops start-up."""
        types: list[type[Event]] = []
        for implementation in self._implementations("register_events"):
            types += self._ask(implementation, "register_events", answers.event_types, {})
        return types

    # --- each on its own --------------------------------------------------------------------------------------

    def mirrors(self, settings: Settings) -> list[Mirror]:
        """All mirrors that could be opened; the others are off, each with a warning."""
        collected = self._collect("open_mirrors", answers.list_of(Mirror), settings=settings)
        self._warn_of_mirrors(collected.failures)
        return [mirror for _, mirrors in collected.results for mirror in mirrors]

    def mirror(self, name: str, settings: Settings) -> Mirror:
        """The mirror called ``name``. Raises ``UsageError`` naming those there are, and what its plugin raises."""
        offered: dict[str, str] = {}
        failed: dict[str, LedgerError] = {}
        for implementation in self._in_action("open_mirrors"):
            plugin = implementation.plugin_name
            try:
                opened = self._alone(implementation, "open_mirrors", answers.list_of(Mirror), {"settings": settings})
            except LedgerError as error:
                failed[plugin] = error
            except Exception as error:  # noqa: BLE001 - another plugin may have the one that is wanted
                failed[plugin] = self._blame(implementation, "open_mirrors", error)
            else:
                if wanted := next((mirror for mirror in opened if mirror.name == name), None):
                    self._warn_of_mirrors(failed)
                    return wanted  # type: ignore[no-any-return]  # `list_of` has seen to it
                offered |= {mirror.name: mirror.target for mirror in opened}
        if name in failed:
            raise failed[name]
        shown = [f"{mirror} ({target})" for mirror, target in sorted(offered.items())]
        shown += [f"those of the plugin {plugin}, which fails: {error}" for plugin, error in failed.items()]
        raise UsageError(f"there is no mirror {name!r}", mend=f"there are {', '.join(shown) or 'none'}")

    def _warn_of_mirrors(self, failures: Mapping[str, object]) -> None:
        for name, failure in failures.items():
            _warn(f"plugin {name}: its mirrors are off: {failure}")

    def environment(self) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
        """Sections of the environment by plugins, and by plugin name what failed.

        A run begins with this: so here it is said, too, which plugins it has to do without.
        """
        missing = {info.name: f"{info.status}: {info.reason}" for info in self._all if _missed(info)}
        for name, failure in missing.items():
            _warn(f"plugin {name} is out of action, {failure}")
        collected = self._collect("capture_environment", answers.table)
        return [sections for _, sections in collected.results if sections], missing | collected.failures

    def compare_runs(self, original: RunState, replayed: RunState) -> list[Check]:
        """Further checks on a replay; a plugin that fails becomes a failed check with its name."""
        collected = self._collect("compare_runs", answers.list_of(Check), original=original, replayed=replayed)
        failed = [
            Check(name=f"plugin {name}", expected="an answer", actual=failure, passed=False)
            for name, failure in collected.failures.items()
        ]
        return [check for _, checks in collected.results for check in checks] + failed

    def events_appended(self, recorded: Sequence[Recorded]) -> None:
        """Tell every plugin what was committed; one that raises is told nothing more in this process."""
        self._notify("events_appended", recorded=recorded)

    # --- the three policies -----------------------------------------------------------------------------------

    def _first(self, hook: str, proper: Callable[[Any], Any], **arguments: Any) -> Any:
        # One at a time instead of pluggy's firstresult, so that an exception can be laid at a plugin's door.
        for implementation in self._implementations(hook):
            answer = self._ask(implementation, hook, answers.optional(proper), arguments, passing=LedgerError)
            if answer is not None:
                return answer
        return None

    def _ask(
        self,
        implementation: pluggy.HookImpl,
        hook: str,
        proper: Callable[[Any], Any],
        arguments: Mapping[str, Any],
        passing: type[LedgerError] | tuple[()] = (),
    ) -> Any:
        """One plugin's answer, in this thread; a failure that is none of ``passing`` is laid at the plugin's door."""
        who = f"plugin {implementation.plugin_name}"

        def say() -> None:
            _warn(f"{who} has not answered {hook} for {PATIENCE_S:g} s; without it: LEDGER_PLUGINS")

        try:
            with guard.noticed(PATIENCE_S, say):
                return guard.contained(who, partial(_answer, implementation, arguments, proper))
        except passing:
            raise
        except Exception as error:
            raise self._blame(implementation, hook, error) from error

    def _collect(self, hook: str, proper: Callable[[Any], Any], **arguments: Any) -> _Collected:
        collected = _Collected()
        for implementation in self._in_action(hook):
            name = implementation.plugin_name
            try:
                collected.results.append((name, self._alone(implementation, hook, proper, arguments)))
            except guard.TooLong as error:
                collected.failures[name] = str(error)
            except Exception as error:  # noqa: BLE001 - a stranger's code must never cost a run
                collected.failures[name] = describe(error)
        return collected

    def _alone(
        self,
        implementation: pluggy.HookImpl,
        hook: str,
        proper: Callable[[Any], Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        """One plugin's answer, for which nobody waits longer than ``LIMIT_S``."""
        name = implementation.plugin_name
        try:
            return guard.bounded(f"plugin {name}", partial(_answer, implementation, arguments, proper), LIMIT_S)
        except guard.TooLong as error:
            self._quarantine(name, hook, str(error))
            raise

    def _notify(self, hook: str, **arguments: Any) -> None:
        for name, failure in self._collect(hook, answers.ignored, **arguments).failures.items():
            if name not in self._quarantined:
                self._quarantine(name, hook, failure)

    def _quarantine(self, name: str, hook: str, failure: str) -> None:
        self._quarantined.add(name)
        info = self._found[name]
        info.status, info.reason, info.mend = "quarantined", f"{hook}: {failure}", _LEAVE_OUT
        _warn(f"plugin {name} failed in {hook} and is left out from now on: {failure}")

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        # pluggy lists implementations in the order of registration and calls them from the end.
        return list(reversed(getattr(self._manager.hook, hook).get_hookimpls()))

    def _in_action(self, hook: str) -> list[pluggy.HookImpl]:
        return [each for each in self._implementations(hook) if each.plugin_name not in self._quarantined]

    def _plugins(self, hook: str) -> set[str]:
        return {implementation.plugin_name for implementation in self._implementations(hook)}

    def _blame(self, implementation: pluggy.HookImpl, hook: str, error: Exception) -> LedgerError:
        info = self._found[implementation.plugin_name]
        who = " ".join(filter(None, ("plugin", info.name, info.version)))
        return PluginUnavailable(f"{who} failed in {hook}: {describe(error)}", mend=_LEAVE_OUT)

    def _mend(self, uri: str, hook: str) -> str:
        if failing := [info for info in self._all if info.failing]:
            return "; ".join(f"{i.name} is {i.status}: {i.reason}" + (f" ({i.mend})" * bool(i.mend)) for i in failing)
        able = ", ".join(implementation.plugin_name for implementation in self._implementations(hook)) or "none"
        return f"installed for this: {able}; `ledger plugins` lists all. A path needs its scheme: file:{uri}"


def load_plugins(settings: Settings) -> Plugins:
    """The plugins that are installed, as ``settings`` selects them. Raises ``UsageError`` for one that is not."""
    return Plugins(*discover(settings))


def _missed(info: PluginInfo) -> bool:
    """Whether a run has to do without this plugin, and somebody might wonder why."""
    return info.failing and info.status != "quarantined" and info.distribution != DISTRIBUTION


def _answer(implementation: pluggy.HookImpl, arguments: Mapping[str, Any], proper: Callable[[Any], Any]) -> Any:
    """One plugin's answer, alone, given those of the arguments that it asks for, if it is a proper one."""
    return proper(implementation.function(*(arguments[name] for name in implementation.argnames)))


def _warn(message: str) -> None:
    """Warn, and go on whatever becomes of the warning: a filter may have made an error of it."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        sys.stderr.write(f"{message}\n")
