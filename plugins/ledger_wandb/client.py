"""W&B's own programs, each in a process of its own that ends in bounded time and leaves nothing running."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psutil

from ledger.errors import PluginUnavailable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ledger_wandb.records import Place

_QUIET: Final = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "false", "NO_COLOR": "1"}
_KEY: Final = "WANDB_API_KEY"
_READ_S: Final = 600.0
"""W&B's tool reads some 100,000 points a second."""
_UPLOAD_S: Final = 600.0
_ASK_S: Final = 60.0
_NO_SUCH_RUN: Final = 3
_TRACEBACK: Final = "Traceback (most recent call last):"
_LAST_WORDS: Final = 300
"""Characters of what a program said that a message has."""


def ask_for_client() -> None:
    """Raise ``PluginUnavailable`` where W&B's client is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise PluginUnavailable("the wandb client is not installed", mend="pip install 'training-ledger[wandb]'")


def inspect(path: Path) -> list[dict[str, Any]]:
    """The records of a ``.wandb`` file, as W&B's own tool reads them."""
    ask_for_client()
    code, out, said = _run(("wandb", "leet", "inspect", "--json", str(path)), "", _READ_S)
    if code:
        raise Unavailable(
            f"W&B cannot read {path}: {said}", mend="`ledger mirror RUN --to wandb` mends a file that was cut off"
        )
    return _lines(out)


def server_has(base_url: str, place: Place, *, history: bool) -> list[dict[str, Any]] | None:
    """What the server has of a run, as ``inspect`` tells it; without its history the last step. None: no such run."""
    path = "/".join(filter(None, (place.entity, place.project, place.run)))
    words = ("ledger_wandb.ask", path, *(("history",) if history else ()))
    code, out, said = _run(words, base_url, _READ_S if history else _ASK_S)
    if code == _NO_SUCH_RUN:
        return None
    if code:
        raise _refused(base_url, said)
    return _lines(out)


def sync(path: Path, base_url: str, place: Place) -> None:
    """Have W&B upload a file to that place; it is done when W&B has left its mark beside it."""
    entity = (f"--entity={place.entity}",) if place.entity else ()
    words = ("wandb", "sync", *entity, f"--project={place.project}", str(path))
    _, _, said = _run(words, base_url, _UPLOAD_S)
    if not path.with_name(f"{path.name}.synced").exists():
        raise _refused(base_url, said)


def _run(words: Sequence[str], base_url: str, seconds: float) -> tuple[int, str, str]:
    """Exit code, output and last words of one of W&B's modules. Raises ``Unavailable`` where it takes longer."""
    endpoint = {"WANDB_BASE_URL": base_url} if base_url else {}
    ours, theirs = os.pipe()
    with (
        tempfile.TemporaryDirectory(prefix="ledger-wandb-") as folder,  # W&B's logs would be left where the user is
        subprocess.Popen(
            (sys.executable, "-P", "-m", "ledger_wandb.program", *words),
            stdin=ours,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | _QUIET | endpoint | {"WANDB_DIR": folder},
            text=True,
        ) as process,
    ):
        try:
            out, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            raise _refused(base_url, f"no answer within {seconds:.0f} s") from None
        finally:
            os.close(ours)
            os.close(theirs)
    return process.returncode, out, _last_words(said)


def _end(process: subprocess.Popen[str]) -> None:
    """W&B's program and the service that it has started in a session of its own."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=5)


def _lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def _last_words(said: str) -> str:
    """The end of what a program said; where that is a traceback, what was raised."""
    key = os.environ.get(_KEY)
    words = said.replace(key, f"${_KEY}") if key else said
    lines = [line for line in words.rpartition(_TRACEBACK)[2].splitlines() if not line.startswith(" ")]
    return " ".join(" ".join(lines).split())[-_LAST_WORDS:]


def _refused(base_url: str, said: str) -> Unavailable:
    return Unavailable(
        f"W&B at {base_url} has not taken the run: {said}",
        mend=f"check {_KEY} (or `wandb login`) and [plugin.wandb] base_url",
    )
