"""Which Python a command runs under, and what that one has installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger.record.capture import probe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TIMEOUT_S: Final = 30


@dataclass(frozen=True)
class Interpreter:
    """A Python installation."""

    python: Mapping[str, str]
    packages: Mapping[str, str]
    """Version of each by normalised name (PEP 503)."""
    imports: tuple[str, ...]
    """Real paths of the directories outside the installation that it imports from: PYTHONPATH, editable
    installs."""
    failure: str | None = None
    """Why the command's interpreter could not be asked; the rest is then about this process's."""


def interpreter_of(
    command: Sequence[str] = (), *, directory: Path | None = None, environ: Mapping[str, str] | None = None
) -> Interpreter:
    """The interpreter that ``command`` runs under; that of this process where it names no other.

    ``directory`` and ``environ`` are the command's. Never raises: what fails is told in ``failure``.
    """
    environ = os.environ if environ is None else environ
    directory = directory or Path.cwd()
    other = _other_python(command, directory, environ)
    paths = environ.get("PYTHONPATH", "").split(os.pathsep)
    pythonpath = os.pathsep.join(str(directory / p) for p in paths if p)
    if other is None:
        return _interpreter(probe.look(pythonpath, []))
    try:
        return _interpreter(_ask(other, directory, {**environ, "PYTHONPATH": pythonpath}))
    except (OSError, ValueError, TypeError, KeyError, subprocess.SubprocessError) as error:
        return _interpreter(probe.look(pythonpath, []), f"{other} could not be asked: {error}")


def _interpreter(facts: Mapping[str, Mapping[str, str]], failure: str | None = None) -> Interpreter:
    return Interpreter(facts["python"], facts["packages"], tuple(facts["imports"]), failure)


def _ask(python: str, directory: Path, environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    # Isolated (-I): nothing of the user's directory is imported in place of the standard library.
    done = subprocess.run(
        [python, "-I", probe.__file__],
        cwd=directory,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stderr.decode("utf-8", "replace").strip()[-500:] or f"exit code {done.returncode}")
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


def _other_python(command: Sequence[str], directory: Path, environ: Mapping[str, str]) -> str | None:
    """Path of the Python that ``command`` starts, directly or by its first line, if it is not this one."""
    path = _resolve(command[0], directory, environ) if command else None
    if path is not None and not _is_python(path):
        words = _first_line(path)
        # #!/usr/bin/env python
        named = words[1] if len(words) > 1 and os.path.basename(words[0]) == "env" else words[0] if words else ""
        path = _resolve(named, directory, environ) if _is_python(named) else None
    if path is None or os.path.dirname(path) == os.path.dirname(os.path.abspath(sys.executable)):
        return None
    return path


def _resolve(name: str, directory: Path, environ: Mapping[str, str]) -> str | None:
    if "/" in name:
        return os.path.normpath(directory / name)
    return shutil.which(name, path=environ.get("PATH", os.defpath))


def _is_python(path: str) -> bool:
    return os.path.basename(path).startswith(("python", "pypy"))


def _first_line(path: str) -> list[str]:
    try:
        with open(path, "rb") as stream:
            line = stream.readline(512)
    except OSError:
        return []
    return line[2:].decode("utf-8", "replace").split() if line.startswith(b"#!") else []
