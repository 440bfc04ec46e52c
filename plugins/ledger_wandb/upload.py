"""Giving a W&B server what it lacks of a run: each file once, and of it no row that it has already."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from ledger.errors import Conflict
from ledger.hooks.folders import reachable
from ledger_wandb import client
from ledger_wandb.file import frames, hold, synced, whole, write_new
from ledger_wandb.frames import START
from ledger_wandb.records import FIRST, ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ledger_wandb.records import Place


def upload(files: Sequence[Path], first: str, base_url: str, place: Place) -> None:
    """Upload to that place what it has not taken yet, and mark it as W&B does; ``first``: the first event's digest.

    W&B appends what it is given. So the server is asked first how far it has got: an upload that was cut off has left
    some of its rows there. A mark that is not of this place says nothing of what it has, and the server is asked, too.
    """
    target = f"{base_url} {place.entity}/{place.project}"
    waiting = [path for path in files if not _has_taken(target, path)]
    if not waiting:
        return
    last = _last_step(base_url, place, first)
    for path in waiting:
        folder = path.parent.parent / f".upload-{place.run}"
        with reachable(folder, "wandb"):
            shutil.rmtree(folder, ignore_errors=True)  # of an upload that was killed
            part = folder / path.parent.name / path.name
            write_new(part, frames(_behind(path, last), len(START)))
            client.sync(part, base_url, place)
            synced(path).write_text(target, encoding="utf-8")
            shutil.rmtree(folder)


def _has_taken(target: str, path: Path) -> bool:
    mark = synced(path)
    with reachable(mark, "wandb"):
        return mark.exists() and mark.read_bytes() == target.encode()


def _last_step(base_url: str, place: Place, first: str) -> int:
    """The number of the last row that the server has. Raises ``Conflict`` where it has another run under this id."""
    found = client.server_has(base_url, place, history=False)
    if found is None:
        return -1
    if found[0]["run"]["config"]["update"].get(FIRST) != first:
        raise Conflict(
            f"W&B at {base_url} has another run under the id {place.run} in the project {place.project}",
            mend="set another [plugin.wandb] project, or delete that run there for good",
        )
    return int(found[-1]["history"]["step"]["num"])


def _behind(path: Path, step: int) -> Iterator[Any]:
    """The records of a file without the rows up to ``step``, and with an end: else W&B would show the run as failed."""
    for _, record in whole(path):
        if record.WhichOneof("record_type") != "history" or record.history.step.num > step:
            yield record
    yield ending(hold([path]).mark["exit"] or 0)
