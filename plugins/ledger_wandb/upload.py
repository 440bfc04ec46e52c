"""Giving a W&B server what it lacks of a run: each file once, and of it no row that it has already."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from ledger.errors import Conflict
from ledger_wandb import client
from ledger_wandb.file import frames, hold, reachable, synced, whole, write_new
from ledger_wandb.frames import START
from ledger_wandb.records import FIRST, Place, ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ledger_wandb.records import Held


def upload(files: Sequence[Path], held: Held, base_url: str) -> None:
    """Upload what W&B has not taken yet, and mark it as W&B does.

    W&B appends what it is given. So the server is asked first how far it has got: an upload that was cut off has left
    some of its rows there.
    """
    waiting = [path for path in files if not synced(path).exists()]
    if not waiting:
        return
    last = _last_step(base_url, Place(held.run.run_id, held.run.entity, held.run.project), held.mark["first"])
    for path in waiting:
        folder = path.parent.parent / f".upload-{held.run.run_id}"
        with reachable(folder):
            shutil.rmtree(folder, ignore_errors=True)  # of an upload that was killed
            part = folder / path.parent.name / path.name
            write_new(part, frames(_behind(path, last), len(START)))
            client.sync(part, base_url)
            synced(path).touch()
            shutil.rmtree(folder)


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
