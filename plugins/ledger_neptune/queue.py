"""The queue of one run's operations, as Neptune's client keeps it for ``neptune sync``, made whole and carried on."""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import Conflict
from ledger.files import appearing, sync_directory
from ledger.hooks.folders import not_ours, reachable
from ledger_neptune.operations import Held, delivery, is_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ledger.codec import Recorded

_FILE: Final = "data-1.log"
"""All of it: Neptune's client would begin another after 64 MB, and a cut-off delivery could lie in two."""
_PUT: Final = "last_put_version"


def folder_of_run(directory: Path, run: str) -> Path:
    """The folder of the run with this UUID, where ``neptune sync --path`` looks."""
    if not run.replace("-", "").isalnum():
        raise Conflict(f"{run!r} is no UUID of a run, and so no name of a file", mend="verify it: `ledger verify`")
    return directory / ".neptune" / "offline" / f"run__{run}"


def carry_on(folder: Path, run: str, batch: Sequence[Recorded], held: Held) -> None:
    """Bring to the queue what it lacks of ``batch``; on disk, not only written, when it returns. Renews ``held``."""
    fresh = _fresh(folder, held, batch)
    if not fresh:
        return
    made = delivery(held, fresh)
    with reachable(folder, "neptune"):
        if held.end:
            _put(folder, held, made)
        else:
            with appearing(folder) as new:
                new.mkdir()
                _describe(new, run)
                _put(new, held, made)
                sync_directory(new)
            sync_directory(folder.parent)
        held.end = (folder / _FILE).stat().st_size
    held.version += len(made)
    for operation in made:
        held.take(operation)


def hold(folder: Path) -> Held:
    """What the whole deliveries in a queue hold. Raises ``Conflict`` where it is not Ledger's."""
    held = Held()
    with reachable(folder, "neptune"):
        if not _is_there(folder):
            return held
        try:
            for end, made in _whole(folder, 0):
                for operation in made:
                    held.take(operation)
                held.end, held.version = end, held.version + len(made)
        except (ValueError, FileNotFoundError) as error:
            raise not_ours(folder, "neptune") from error
    if not held.end:  # a queue of ours appears with its first delivery
        raise not_ours(folder, "neptune")
    return held


def deliveries(folder: Path, start: int) -> Iterator[tuple[int, list[Any]]]:
    """The whole deliveries of a queue behind its byte ``start``, each with the byte behind it."""
    with reachable(folder, "neptune"):
        yield from _whole(folder, start)


def _is_there(folder: Path) -> bool:
    """A directory that cannot be read is no directory without that folder."""
    for parent in reversed(folder.parents[:3]):
        if not parent.exists():
            return False
        os.listdir(parent)
    return folder.exists()


def operations(folder: Path) -> Iterator[Any]:
    """All operations, read by Neptune's own queue."""
    with reachable(folder, "neptune"), closing(_queue(folder)) as queue:
        while found := queue.get():
            yield found.obj


def _whole(folder: Path, start: int) -> Iterator[tuple[int, list[Any]]]:
    with (folder / _FILE).open("rb") as file:
        file.seek(start)
        end, made = start, []
        for size, operation in _read(file):
            end += size
            made.append(operation)
            if is_whole(operation):
                yield end, made
                made = []


def _read(lines: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Of each line its length and the operation, up to the first that a crash has torn."""
    from neptune.internal.operation import Operation

    for line in lines:
        if not line.endswith(b"\n"):
            return
        try:
            operation = Operation.from_dict(json.loads(line)["obj"])
        except (ValueError, KeyError, TypeError):
            return
        yield len(line), operation


def _put(folder: Path, held: Held, made: Sequence[Any]) -> None:
    """Append by Neptune's own queue, behind the last whole delivery."""
    with (folder / _FILE).open("ab") as file:
        file.truncate(held.end)
    (folder / _PUT).write_text(str(held.version))
    with closing(_queue(folder)) as queue:
        for operation in made:
            queue.put(operation)
        queue.flush()
    for name in (_FILE, _PUT):
        sync_directory(folder / name)


def _queue(folder: Path) -> Any:
    from neptune.core.components.queue.disk_queue import DiskQueue
    from neptune.internal.operation import Operation

    return DiskQueue(folder, _to_dict, Operation.from_dict, threading.RLock(), max_file_size=sys.maxsize)


def _to_dict(operation: Any) -> dict[str, Any]:
    return operation.to_dict()  # type: ignore[no-any-return]


def _describe(folder: Path, run: str) -> None:
    """What Neptune's client writes beside the queue: versions and the system, nothing of the token."""
    from neptune.core.components.metadata_file import MetadataFile
    from neptune.internal.container_type import ContainerType
    from neptune.internal.id_formats import UniqueId
    from neptune.internal.operation_processors.utils import common_metadata

    MetadataFile(folder, common_metadata("offline", UniqueId(run), ContainerType.RUN)).close()


def _fresh(folder: Path, held: Held, batch: Sequence[Recorded]) -> Sequence[Recorded]:
    """The events of the batch that the queue lacks. Raises ``Conflict`` where they are not those that come next."""
    mark = held.mark
    events = mark.get("events", 0)
    known = {0: mark.get("first"), events - 1: mark.get("last")}
    if any(known.get(each.position, each.digest) != each.digest for each in batch if each.position < events):
        raise not_ours(folder, "neptune")
    fresh = [each for each in batch if each.position >= events]
    if fresh and fresh[0].position > events:
        raise Conflict(
            f"{folder} has {events} events of a run of which {fresh[0].position} were delivered",
            mend="`neptune sync` or somebody else has taken it: `ledger mirror RUN --to neptune --again` writes all of "
            "the run anew; `neptune sync` then makes another one of it, and an endpoint is sent only what it lacks",
        )
    if fresh and events and fresh[0].previous_digest != mark["last"]:
        raise not_ours(folder, "neptune")
    return fresh
