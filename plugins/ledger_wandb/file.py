"""One run's ``.wandb`` files: read up to the last whole delivery, and carried on from there."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ledger.errors import Conflict
from ledger.files import appearing, sync_directory
from ledger.hooks.folders import not_ours, reachable
from ledger.hooks.pages import moment
from ledger_wandb.frames import START, framed, records
from ledger_wandb.records import Held, delivery, ending, is_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ledger.codec import Recorded
    from ledger_wandb.records import Place


def find(directory: Path, run: str) -> list[Path]:
    """The files of the run with this UUID below ``directory``, where W&B would have them, in their order."""
    if not run.replace("-", "").isalnum():
        raise Conflict(f"{run!r} is no UUID of a run, and so no name of a file", mend="verify it: `ledger verify`")
    with reachable(directory, "wandb"):
        if not directory.exists():
            return []
        folders = sorted(name for name in os.listdir(directory) if "run-" in name and name.endswith(f"-{run}"))
    return [directory / folder / f"run-{run}.wandb" for folder in folders]


def carry_on(directory: Path, place: Place, batch: Sequence[Recorded], held: Held | None) -> tuple[list[Path], Held]:
    """Bring to the run's files what they lack of ``batch``; on disk, not only written, when it returns.

    Takes what they hold, where it is known, and changes it to what they hold then. What W&B has been given stays as
    it is, for it would add the same rows again: behind it a new file begins.
    """
    files = find(directory, place.run)
    if held is None or held.parts != len(files):
        held = hold(files)
    fresh = _fresh(files[-1] if files else directory, held, batch)
    if not fresh:
        return files, held
    if files and synced(files[-1]).exists():
        held.end = 0
    if not held.end:
        files.append(directory / _folder(held, fresh[0], place.run) / f"run-{place.run}.wandb")
    made = delivery(held, fresh, place)
    start, offset = held.end, held.end or len(START)
    content = frames(made, offset)
    for record in made:
        held.take(record)
    held.parts, held.end = len(files), offset + len(content)
    if held.mark["exit"] is not None:
        content += frames([ending(held.mark["exit"])], held.end)
    with reachable(files[-1], "wandb"):
        if start:
            _append(files[-1], start, content)
        else:
            write_new(files[-1], content)
    return files, held


def synced(path: Path) -> Path:
    """The file with which W&B says that it has all of another; Ledger writes into it which W&B that is."""
    return path.with_name(f"{path.name}.synced")


def hold(files: Sequence[Path]) -> Held:
    """What the whole deliveries in a run's files hold; the last has all but the history of those before it.

    Raises ``Conflict`` where it is not Ledger's.
    """
    held = Held(parts=len(files))
    for end, record in whole(files[-1]) if files else ():
        held.take(record)
        held.end = end
    if files and not held.end:  # a file of ours appears with its first delivery
        raise not_ours(files[-1].parent, "wandb")
    return held


def whole(path: Path) -> Iterator[tuple[int, Any]]:
    """The records of the whole deliveries in a file, each with the offset behind it."""
    from wandb.proto.wandb_internal_pb2 import Record

    waiting = []
    try:
        with reachable(path, "wandb"), path.open("rb") as file:
            for end, content in records(file):
                record = Record.FromString(content)
                waiting.append((end, record))
                if is_whole(record):
                    yield from waiting
                    waiting = []
    except ValueError as error:
        raise not_ours(path.parent, "wandb") from error


def write_new(path: Path, content: bytes) -> None:
    """A file of these frames, which appears with its folder, whole and on disk."""
    with appearing(path.parent) as folder:
        folder.mkdir()
        (folder / path.name).write_bytes(START + content)
        for name in (folder / path.name, folder):
            sync_directory(name)
    sync_directory(path.parent.parent)


def frames(made: Iterable[Any], offset: int) -> bytes:
    """These records as they stand in a file from ``offset`` on."""
    out = bytearray()
    for record in made:
        out += framed(record.SerializeToString(), offset + len(out))
    return bytes(out)


def _fresh(path: Path, held: Held, batch: Sequence[Recorded]) -> Sequence[Recorded]:
    """The events of the batch that the files lack. Raises ``Conflict`` where they are not those that come next."""
    mark = held.mark
    events = mark.get("events", 0)
    known = {0: mark.get("first"), events - 1: mark.get("last")}
    fresh = [each for each in batch if each.position >= events]
    if any(known.get(each.position, each.digest) != each.digest for each in batch if each.position < events):
        raise not_ours(path.parent, "wandb")
    if fresh and fresh[0].position > events:
        raise Conflict(
            f"{path} has {events} events of a run of which {fresh[0].position} were delivered",
            mend="somebody has removed a file or put back an older one: `ledger mirror RUN --to wandb --again` writes "
            'all of it anew; where W&B has the run already, with mode = "online", which sends only what it lacks',
        )
    if fresh and events and fresh[0].previous_digest != mark["last"]:
        raise not_ours(path.parent, "wandb")
    return fresh


def _folder(held: Held, first: Recorded, run: str) -> str:
    """As W&B names the folder of an offline run: by the second in which it began, and its id."""
    start = datetime.fromtimestamp(held.mark.get("start", moment(first.recorded_at)), UTC)
    part = f"part{held.parts + 1:06}-" if held.parts else ""
    return f"offline-run-{start:%Y%m%d_%H%M%S}-{part}{run}"


def _append(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.truncate(start)
        file.seek(start)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
