"""A virtual environment of a stranger's, in which everything that these tests run with is there already."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from typing import TYPE_CHECKING

from tests.e2e.desk import Desk

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 800


class Venv:
    """An environment of its own: what is installed into it is nowhere else."""

    def __init__(self, home: Path) -> None:
        self.home = home
        venv.create(home, symlinks=True)
        here = sysconfig.get_path("purelib")
        site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (site / "shared.pth").write_text(f"import site; site.addsitedir({here!r})\n")

    def pip(self, *words: str) -> None:
        self.python("-m", "pip", "--quiet", "--disable-pip-version-check", *words)

    def python(self, *words: str, cwd: Path | None = None) -> str:
        argv = [str(self.home / "bin/python"), *words]
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=self._environ(dict(os.environ)),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def desk(self, home: Path) -> Desk:
        """A directory in which `ledger` and `python` are those of this environment."""
        home.mkdir(parents=True, exist_ok=True)
        desk = Desk(home)
        desk.environ.update(self._environ(desk.environ))
        (self.home / "bin/ledger").write_text(f'#!/bin/sh\nexec {self.home}/bin/python -m ledger "$@"\n')
        (self.home / "bin/ledger").chmod(0o755)
        return desk

    def _environ(self, environ: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in environ.items() if not name.startswith(("LEDGER_", "PYTEST_"))}
        return kept | {"PATH": f"{self.home / 'bin'}{os.pathsep}{environ['PATH']}"}
