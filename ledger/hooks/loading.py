"""Which plugins are installed, and whether each can be used: found by their entry points, loaded one by one."""

from __future__ import annotations

import importlib.metadata
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pluggy

from ledger.errors import UsageError
from ledger.hooks import guard, specs

if TYPE_CHECKING:
    from ledger.settings import Settings

GROUP: Final = "ledger.plugins"
DISTRIBUTION: Final = "training-ledger"
IMPORT_LIMIT_S = 60.0
"""How long the import of a stranger's plugin may take."""
_LEAVE_OUT: Final = "or leave it out: LEDGER_PLUGINS names the plugins to load"


@dataclass
class PluginInfo:
    """One plugin that was found, whether it could be loaded or not."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    status: str = "ok"
    """``ok``, ``disabled``, ``not installed`` (something it imports is missing), ``broken``, ``other API`` or
    ``quarantined``."""
    reason: str = ""
    mend: str = ""
    module: str = ""
    """Where it is imported from."""
    import_s: float = field(default=0.0, compare=False)
    """Seconds that its import took."""

    @property
    def failing(self) -> bool:
        """Whether it is out of action though nobody asked for that."""
        return self.status not in ("ok", "disabled")


class Mistaken(Exception):
    """A plugin that can be imported, but not be used as it is."""


def discover(settings: Settings) -> tuple[pluggy.PluginManager, list[PluginInfo]]:
    """All installed plugins of the entry-point group ``ledger.plugins``, each loaded on its own.

    Ledger's own are always loaded; of the others only those that ``settings.plugins`` names, if it names any.
    """
    manager = new_manager()
    found = [_load(manager, entry, settings) for entry in importlib.metadata.entry_points(group=GROUP)]
    installed = {info.name for info in found}
    if unknown := [name for name in settings.plugins or () if name not in installed]:
        raise UsageError(
            f"LEDGER_PLUGINS names {', '.join(unknown)}: not installed",
            mend=f"installed are {', '.join(sorted(installed))}",
        )
    return manager, found


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows Ledger's hooks."""
    manager = pluggy.PluginManager("ledger")
    manager.add_hookspecs(specs)
    return manager


def admit(manager: pluggy.PluginManager, plugin: object, name: str) -> tuple[str, ...]:
    """Register a plugin; the names of the hooks that it implements.

    Raises ``Mistaken`` for one of another API, ``pluggy.PluginValidationError`` for hooks that do not exist or ask for
    arguments that there are not. Then it is not registered.
    """
    _require_api(plugin)
    manager.register(plugin, name)
    try:
        manager.check_pending()
        callers = manager.get_hookcallers(plugin) or []
        for caller in callers:
            if any(each.hookwrapper or each.wrapper for each in caller.get_hookimpls() if each.plugin is plugin):
                raise Mistaken(f"its {caller.name} is a hook wrapper, which Ledger has no use for")
    except Exception:
        manager.unregister(name=name)
        raise
    return tuple(sorted(caller.name for caller in callers))


def describe(error: BaseException) -> str:
    """An exception with the place it came from: a plugin's author needs both."""
    origin = error.__cause__ if isinstance(error, guard.Escaped) and error.__cause__ else error
    place = traceback.extract_tb(origin.__traceback__)
    where = f" ({place[-1].filename}:{place[-1].lineno})" if place else ""
    return f"{type(error).__name__}: {error}{where}"


class OtherApi(Mistaken):
    """A plugin that was written for another version of the plugin API."""

    def __init__(self, theirs: int) -> None:
        super().__init__(f"it was written for version {theirs} of the plugin API, and this Ledger has {specs.API}")
        self.mend = (
            f"pip install --upgrade {DISTRIBUTION}" if theirs > specs.API else "install a newer version of the plugin"
        )


def _require_api(plugin: object) -> None:
    stated = getattr(plugin, "ledger_api", specs.API)
    if type(stated) is not int:
        raise Mistaken(f"its ledger_api is {stated!r}, no whole number")
    if stated != specs.API:
        raise OtherApi(stated)


def _load(manager: pluggy.PluginManager, entry: importlib.metadata.EntryPoint, settings: Settings) -> PluginInfo:
    distribution, version = (entry.dist.name, entry.dist.version) if entry.dist else ("", "")
    info = PluginInfo(entry.name, distribution, version, module=entry.module)
    if settings.plugins is not None and entry.name not in settings.plugins and distribution != DISTRIBUTION:
        info.status, info.reason = "disabled", "LEDGER_PLUGINS leaves it out"
        return info
    begun = time.monotonic()
    try:
        info.hooks = admit(manager, _imported(entry, distribution), entry.name)
    except ModuleNotFoundError as error:
        own = (error.name or "").split(".")[0] == entry.module.split(".")[0]
        _fails(info, "broken" if own else "not installed", f"it needs {error.name}", f"install {error.name}")
    except OtherApi as error:
        _fails(info, "other API", str(error), error.mend)
    except Mistaken as error:
        _fails(info, "broken", str(error), "report it to its authors")
    except Exception as error:  # noqa: BLE001 - a broken plugin is reported, it does not stop the others
        _fails(info, "broken", describe(error), "report it to its authors")
    info.import_s = time.monotonic() - begun
    return info


def _imported(entry: importlib.metadata.EntryPoint, distribution: str) -> object:
    if distribution == DISTRIBUTION:
        return entry.load()
    return guard.bounded(f"plugin {entry.name}", entry.load, IMPORT_LIMIT_S)


def _fails(info: PluginInfo, status: str, reason: str, mend: str) -> None:
    info.status, info.reason, info.mend = status, reason, f"{mend}, {_LEAVE_OUT}"
