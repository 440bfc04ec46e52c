"""One leg of a measure in a process of its own, so that no contestant finds anything warm, patched or running."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.contestant import Contestant, Unavailable, find

ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 600
"""A leg that takes longer is taken for hung."""


class Killed(Unavailable):
    """The process of a leg was killed."""


def call(function: str, key: str, home: Path, **arguments: Any) -> Any:
    """``function(contestant, home, **arguments)`` in a fresh interpreter that works in ``home``.

    ``function`` is ``measure:name`` below ``tests.benchmarks.measures``; arguments and result are JSON. Raises
    ``Killed`` where the process was killed, as a leg may do to itself, and ``Unavailable`` where it failed.
    """
    home.mkdir(parents=True, exist_ok=True)
    contestant = find(key)
    with tempfile.TemporaryDirectory() as aside:
        order, answer = Path(aside, "order.json"), Path(aside, "answer.json")
        order.write_text(json.dumps([function, key, str(home), arguments]))
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()", str(order), str(answer)]
        with Path(aside, "talk").open("w+") as talk:
            try:
                done = subprocess.run(
                    command,
                    cwd=home,
                    env=_environ(contestant, home),
                    stdin=subprocess.DEVNULL,
                    stdout=talk,
                    stderr=subprocess.STDOUT,
                    timeout=LIMIT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise Unavailable(f"it took more than {LIMIT_S} s") from None
            talk.seek(0)
            said = talk.read()
        if answer.exists():
            told = json.loads(answer.read_text())
            if "unavailable" in told:
                raise Unavailable(told["unavailable"])
            return told["result"]
    if done.returncode == -signal.SIGKILL:
        raise Killed("the process was killed")
    raise Unavailable(said.strip().rpartition("\n")[2] or f"exit code {done.returncode}")


def _environ(contestant: Contestant, home: Path) -> dict[str, str]:
    """This environment without the user's own ledger, and with a home directory that is not counted."""
    user = home.with_name(home.name + "-user")
    user.mkdir(exist_ok=True)
    # Without compiled modules at every start, a figure would be about Python's compiler.
    dropped = ("LEDGER_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ours = {
        "HOME": str(user),
        "PYTHONPATH": paths,
        "GIT_CEILING_DIRECTORIES": str(home.parent),  # or the tools that look at code would look at all of ours
        "OMP_NUM_THREADS": "1",
    }
    return kept | ours | dict(contestant.environ)


def serve() -> None:
    """In the fresh interpreter: do what ``sys.argv`` orders.

    It is called with -c, so that no script of ours is the program whose code a tool keeps.
    """
    order, answer = map(Path, sys.argv[1:])
    function, key, home, arguments = json.loads(order.read_text())
    module, _, name = function.partition(":")
    try:
        leg = getattr(importlib.import_module(f"tests.benchmarks.measures.{module}"), name)
        told = {"result": leg(find(key), Path(home), **arguments)}
    except Unavailable as error:
        told = {"unavailable": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a tool raises is the reason why it has no figure
        traceback.print_exc()
        told = {"unavailable": f"{type(error).__name__}: {error}".partition("\n")[0][:200]}
    answer.write_text(json.dumps(told))
