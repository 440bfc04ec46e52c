"""What a Python interpreter knows of itself. Standard library only: other interpreters run this file as a
script."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import site
import sys
import sysconfig
from importlib.metadata import distributions
from typing import Any
from urllib.parse import unquote, urlsplit


def look(pythonpath: str, extra: list[str]) -> dict[str, Any]:
    """``python``, ``packages`` by normalised name, ``imports``: directories that hold importable source.

    ``pythonpath`` is that variable of the command that is looked at, ``extra`` further directories.
    """
    search = [p for p in pythonpath.split(os.pathsep) if p] + extra + sys.path[1:] + _user_site()
    search = list(dict.fromkeys(os.path.abspath(p) for p in search))
    packages: dict[str, str] = {}
    imports = search + [d for p in search for d in _path_lines(p)]
    for found in distributions(path=search):
        name = found.metadata["Name"]
        if name:
            packages.setdefault(re.sub(r"[-_.]+", "-", name).lower(), found.version or "")
        imports += _edited(found)
    return {"python": _python(), "packages": packages, "imports": _sources(imports)}


def _python() -> dict[str, str]:
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "compiler": platform.python_compiler(),
        "executable": sys.executable,
        "prefix": sys.prefix,
    }


def _user_site() -> list[str]:
    """The user's own packages, which ``-I`` hides from this script but which the command will see."""
    if sys.prefix != sys.base_prefix or os.environ.get("PYTHONNOUSERSITE"):
        return []
    return [site.getusersitepackages()]


def _path_lines(directory: str) -> list[str]:
    """Directories that ``.pth`` files add, and those that setuptools' import finders map to."""
    found = []
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    for name in names:
        path = os.path.join(directory, name)
        if name.endswith(".pth"):
            lines = _read(path).splitlines()
            found += [
                os.path.join(directory, x.strip()) for x in lines if x.strip() and not x.startswith(("import", "#"))
            ]
        elif name.startswith("__editable__") and name.endswith("_finder.py"):
            found += _mapped(_read(path))
    return found


def _mapped(finder: str) -> list[str]:
    match = re.search(r"^MAPPING[^=]*=\s*(\{.*?\})\s*$", finder, re.MULTILINE | re.DOTALL)
    try:
        return [os.path.dirname(target) for target in ast.literal_eval(match[1]).values()] if match else []
    except (ValueError, SyntaxError, AttributeError):
        return []


def _edited(found: Any) -> list[str]:
    """Where the source of an editable installation may be."""
    try:
        told = json.loads(found.read_text("direct_url.json") or "{}")
    except ValueError:
        return []
    if not (told.get("dir_info") or {}).get("editable"):
        return []
    project = unquote(urlsplit(told.get("url", "")).path)
    source = os.path.join(project, "src")
    return [source if os.path.isdir(source) else project]


def _sources(directories: list[str]) -> list[str]:
    """Those that exist and are no part of the interpreter's own installation."""
    own = {os.path.realpath(p) for p in sysconfig.get_paths().values()} - {os.path.realpath(sys.prefix)}
    real = dict.fromkeys(os.path.realpath(d) for d in directories if d)
    return [d for d in real if os.path.isdir(d) and not any((d + os.sep).startswith(o + os.sep) for o in own)]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(os.environ.get("PYTHONPATH", ""), sys.argv[1:])))
