"""``ledger doctor``: what is installed, reachable or missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ledger.cli import render
from ledger.cli.options import command
from ledger.cli.render import Column
from ledger.errors import LedgerError
from ledger.hooks.uris import without_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ledger.cli.session import Session

_OLDEST_PYTHON: Final = (3, 11)
_LITTLE_SPACE: Final = 5_000_000_000
_NO_SPACE: Final = 100_000_000
_PROBE: Final = b"ledger doctor\n"
_NVML: Final = "pip install 'training-ledger[gpu]'"
_TORCH: Final = "pip install 'training-ledger[torch]'"


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    check: str
    state: Literal["ok", "warn", "fail"]
    finding: str
    mend: str | None = None


@command(
    "doctor",
    example="ledger doctor\nledger doctor --json | jq 'select(.state != \"ok\")'",
    json="one check a line",
)
def doctor(session: Session) -> int:
    """Say what is installed, reachable or missing.

    Ends with 4 if anything fails, else with 0. All that it leaves is a probe of a few bytes in the objects.
    """
    findings = _once(finding for look in _LOOKS for finding in _guarded(look, session))
    if session.json:
        for finding in findings:
            render.json_line(asdict(finding))
    else:
        columns = [Column("state"), Column("check"), Column("finding", whole=False)]
        render.table(columns, [row for finding in findings for row in _rows(finding)])
    return 4 if any(finding.state == "fail" for finding in findings) else 0


def _once(findings: Iterable[Finding]) -> list[Finding]:
    """Without repetitions: settings that cannot be read make several looks fail for the one reason."""
    return list({(f.state, f.finding) if f.state == "fail" else f: f for f in reversed(list(findings))}.values())[::-1]


def _rows(finding: Finding) -> Iterator[list[str]]:
    yield [finding.state, finding.check, finding.finding]
    if finding.mend:
        yield ["", "", f"mend: {finding.mend}"]


def _guarded(look: Callable[[Session], Iterator[Finding]], session: Session) -> Iterator[Finding]:
    try:
        yield from look(session)
    except LedgerError as error:
        yield Finding(look.__name__.strip("_"), "fail", str(error), error.mend)
    except Exception as error:  # noqa: BLE001 - a doctor reports what is broken, it does not break
        yield Finding(look.__name__.strip("_"), "fail", f"{type(error).__name__}: {error}")


def _python(_: Session) -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        yield Finding("python", "fail", found, "Ledger needs Python 3.11 or newer")
    else:
        yield Finding("python", "ok", found)


def _ledger(session: Session) -> Iterator[Finding]:
    where = f"{session.place}, {session.found_by}"
    if session.there_is_one():
        yield Finding("ledger", "ok", where)
    else:
        yield Finding("ledger", "warn", f"none yet at {where}", "`ledger init` makes one, as does the first run")


def _store(session: Session) -> Iterator[Finding]:
    if not session.there_is_one():
        return
    with session.reading() as book:
        yield Finding("store", "ok", f"opens, {render.count(len(book.names()), 'run')}")
        digest = book.objects.put_bytes(_PROBE)
        intact = book.objects.get_bytes(digest) == _PROBE
        state: Literal["ok", "fail"] = "ok" if intact else "fail"
        yield Finding("objects", state, f"can be written and read back in {session.settings.objects}")


def _checkpoints(session: Session) -> Iterator[Finding]:
    if session.there_is_one():
        with session.reading() as book:
            book.require_checkpoint_place()
            yield Finding("checkpoints", "ok", f"can be stored in {without_credentials(session.settings.checkpoints)}")


def _disk(session: Session) -> Iterator[Finding]:
    place = session.database.parent if session.database else session.settings.scratch
    there = next(p for p in (place, *place.parents) if p.exists())
    free = shutil.disk_usage(there).free
    state: Literal["ok", "warn", "fail"] = "fail" if free < _NO_SPACE else "warn" if free < _LITTLE_SPACE else "ok"
    mend = None if state == "ok" else "free some space, or move the ledger: `ledger init --ledger DIR`"
    yield Finding("disk", state, f"{render.size(free)} free at {there}", mend)


def _git(_: Session) -> Iterator[Finding]:
    if shutil.which("git") is None:
        yield Finding("git", "warn", "not installed", "install git: without it no commit can be recorded")
        return
    version = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    inside = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
    if inside.returncode == 0:
        yield Finding("git", "ok", f"{version}, repository {inside.stdout.strip()}")
    else:
        mend = "`git init` here: then runs also record a commit, and ignored files are left out"
        yield Finding("git", "warn", f"{version}, but {Path.cwd()} is in no repository", mend)


def _plugins(session: Session) -> Iterator[Finding]:
    from ledger.hooks.manager import load_plugins

    for info in load_plugins(session.settings).describe():
        name = f"plugin {info.name}"
        if info.status in ("ok", "disabled"):
            yield Finding(name, "ok", f"{info.version} {info.status if info.status != 'ok' else ''}".strip())
        elif info.status == "not installed":
            yield Finding(name, "warn", info.reason, "install what it needs, or leave it out with LEDGER_PLUGINS")
        else:
            yield Finding(name, "fail", f"{info.status}: {info.reason}", "mend it, or leave it out with LEDGER_PLUGINS")


def _mirrors(session: Session) -> Iterator[Finding]:
    from ledger.codec import new_id
    from ledger.hooks.manager import load_plugins
    from ledger.mirror.asking import shows

    plugins = load_plugins(session.settings)
    for name in session.settings.mirrors:
        mirror = plugins.mirror(name, session.settings)
        try:
            shows(mirror, new_id())
            yield Finding(f"mirror {name}", "ok", mirror.target)
        except LedgerError as error:
            yield Finding(f"mirror {name}", "warn", str(error), error.mend)
        finally:
            mirror.close()


def _torch(_: Session) -> Iterator[Finding]:
    try:
        yield Finding("torch", "ok", importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        yield Finding("torch", "warn", "not installed: `ledger train` needs it, `ledger run` does not", _TORCH)


def _devices(_: Session) -> Iterator[Finding]:
    from ledger.record.capture.nvml import open_nvml

    nvml = open_nvml(os.environ)
    if nvml:
        models = ", ".join(dict.fromkeys(nvml.models))
        yield Finding("devices", "ok", f"{render.count(len(nvml.models), 'GPU')}: {models}, driver {nvml.driver}")
    elif shutil.which("nvidia-smi") and importlib.util.find_spec("pynvml") is None:
        yield Finding("devices", "warn", "GPU time is counted as that of the CPU: nvidia-ml-py is not installed", _NVML)
    else:
        yield Finding("devices", "ok", "no NVIDIA GPU: device time is that of the CPU")


def _trainer(session: Session) -> Iterator[Finding]:
    from ledger.hooks.manager import load_plugins

    trainer = load_plugins(session.settings).trainer(session.settings)
    yield Finding("trainer", "ok", f"takes {render.count(len(trainer.describe()), 'recipe key')}")


_LOOKS: tuple[Callable[[Session], Iterator[Finding]], ...] = (
    _python, _ledger, _store, _checkpoints, _disk, _git, _plugins, _mirrors, _torch, _devices, _trainer,
)  # fmt: skip
