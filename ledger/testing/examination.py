"""Whether an installed plugin keeps its promises: can it be loaded, are its hooks hooks, and does it pass the kit?

A plugin ships its conformance tests: subclasses of the kits in ``ledger.testing``, in a module that its distribution
announces under the entry-point group ``ledger.conformance``, by the plugin's name.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from ledger.errors import NotFound
from ledger.hooks import specs
from ledger.hooks.loading import DISTRIBUTION, discover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.hooks.loading import PluginInfo
    from ledger.settings import Settings

GROUP: Final = "ledger.conformance"
KITS: Final = {
    "open_data_source": "BaseDataSourceTests",
    "open_checkpoint_store": "BaseCheckpointStoreTests",
    "build_engine": "BaseEngineTests",
    "open_mirrors": "BaseMirrorTests",
    "open_trainer": "BaseTrainerTests",
}
"""The kit of the port that a hook opens."""
_SLOW_IMPORT_S: Final = 0.5
_STATES: Final[dict[str, State]] = {"passed": "ok", "failed": "fail", "skipped": "skip"}

State = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    check: str
    state: State
    finding: str = ""
    mend: str = ""


def examine(name: str, settings: Settings) -> Iterator[Finding]:
    """Everything that can be found out about the installed plugin of that name, as it is found.

    Raises ``NotFound`` where there is none.
    """
    manager, found = discover(settings)
    info = next((info for info in found if info.name == name), None)
    if info is None:
        raise NotFound(
            f"no plugin {name!r} is installed", mend=f"installed are {', '.join(sorted(i.name for i in found))}"
        )
    if info.status != "ok":
        yield Finding("load", "fail", f"{info.status}: {info.reason}", info.mend)
        return
    yield _import_time(info)
    yield from _hooks(info, manager.get_plugin(name))
    yield from _conformance(info)


def _import_time(info: PluginInfo) -> Finding:
    if info.import_s > _SLOW_IMPORT_S:
        mend = "import what is heavy inside the hooks: every `ledger` command loads the plugins"
        return Finding("load", "warn", f"its import took {info.import_s:.2f} s", mend)
    return Finding("load", "ok", f"imported in {info.import_s:.2f} s, plugin API {specs.API}")


def _hooks(info: PluginInfo, plugin: Any) -> Iterator[Finding]:
    hooks = {name for name, each in vars(specs).items() if hasattr(each, "ledger_spec")}
    for name in sorted(hooks - set(info.hooks)):
        if callable(getattr(plugin, name, None)):
            mend = "write @hookimpl above it: from ledger import hookimpl"
            yield Finding(f"hook {name}", "fail", "it is not marked, so nobody calls it", mend)
    if inspect.isclass(plugin):
        mend = "let the entry point name an object of it"
        yield Finding("hooks", "fail", f"the plugin is the class {plugin.__name__} itself", mend)
    elif info.hooks:
        yield Finding("hooks", "ok", ", ".join(info.hooks))
    else:
        yield Finding("hooks", "fail", "it implements no hook", "docs/plugins.md lists the hooks")


def _conformance(info: PluginInfo) -> Iterator[Finding]:
    needed = {KITS[hook] for hook in info.hooks if hook in KITS}
    module = _module(info)
    if module is None:
        if info.distribution == DISTRIBUTION:
            yield Finding("conformance", "skip", "it is Ledger's own, and tested with Ledger")
        elif needed:
            mend = (
                f"subclass {', '.join(sorted(needed))} of ledger.testing in a module of the plugin, and announce it: "
                f'[project.entry-points."{GROUP}"] {info.name} = "{info.module.partition(".")[0]}.conformance"'
            )
            yield Finding("conformance", "fail", "it ships no conformance tests", mend)
        return
    if importlib.util.find_spec("pytest") is None:
        yield Finding("conformance", "fail", "pytest is not installed, which runs the tests", "pip install pytest")
        return
    yield from _tests(module, needed)


def _module(info: PluginInfo) -> str | None:
    """The module with the plugin's conformance tests, as its own distribution announces it."""
    for entry in importlib.metadata.entry_points(group=GROUP, name=info.name):
        if entry.dist and entry.dist.name == info.distribution:
            return entry.module
    return None


def _tests(module: str, needed: set[str]) -> Iterator[Finding]:
    told = 0
    for facts in (session := _Session(module)):
        if "kits" in facts:
            for kit in sorted(needed - set(facts["kits"])):
                yield Finding(kit, "fail", f"{module} has no tests of it", f"subclass {kit} of ledger.testing there")
            continue
        told += 1
        yield Finding(facts["test"], _STATES[facts["outcome"]], facts["reason"])
    if not told or session.code not in (0, 1):
        said = session.output.strip() or f"pytest ended with {session.code}"
        yield Finding(
            "conformance", "fail", f"the tests of {module} could not be run: {said}", f"pytest --pyargs {module}"
        )


class _Session:
    """pytest in a process of its own: what it tells, line by line; then how it ended."""

    def __init__(self, module: str) -> None:
        self._module = module
        self.code = 0
        self.output = ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        ours, theirs = os.pipe()
        environ = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        argv = [sys.executable, "-m", f"{__package__}.session", self._module, str(theirs)]
        with (
            os.fdopen(ours, encoding="utf-8") as lines,
            tempfile.TemporaryDirectory() as home,
            tempfile.TemporaryFile("w+", errors="replace") as output,
        ):
            process = subprocess.Popen(
                argv, cwd=home, env=environ, pass_fds=[theirs], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            os.close(theirs)
            try:
                yield from map(json.loads, lines)
                self.code = process.wait()
            finally:
                process.kill()
                process.wait()
            output.seek(0)
            self.output = output.read()
