"""One directory of event files, written so that a process that is killed leaves nothing to be written twice.

What one delivery brings ends with a record that TensorBoard passes over; it says up to which event of the log the
directory has been brought. Of what lies behind the last of these, nothing is written again. Each process writes a file
of its own: behind a record that was torn when the one before was killed, TensorBoard reads nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ledger.files import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

_NAME: Final = "events.out.tfevents."
_MARK: Final = re.compile(r"ledger: up to event (\d+)")


class Folder:
    """A directory that TensorBoard takes for a run."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self._path = path
        self._files = sorted(path.glob(f"{_NAME}*"))
        self.position, self._unfinished = _end(self._files)
        """Of the last event that it has whole, and the records behind that."""
        self._file: BinaryIO | None = None

    def write(self, events: Iterable[Event], position: int) -> None:
        """Bring the directory up to ``position`` with those of the events that it lacks; on disk when it returns."""
        from tensorboard.compat.proto.event_pb2 import Event, LogMessage

        writer = self._writer()
        for record in (event.SerializeToString() for event in events):
            if self._unfinished[record]:
                self._unfinished[record] -= 1
            else:
                writer.write(record)
        mark = Event(wall_time=time.time(), log_message=LogMessage(message=f"ledger: up to event {position}"))
        writer.write(mark.SerializeToString())
        self._flush()
        self.position = position
        self._unfinished.clear()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with suppress(OSError):  # what could not be written is not delivered, and comes again
                self._file.close()

    def _writer(self) -> RecordWriter:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is None:
            self._file = (self._path / self._next_name()).open("xb")
            sync_directory(self._path)
            # With this version TensorBoard keeps what a later, lower step would else push out.
            RecordWriter(self._file).write(
                Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()
            )
        return RecordWriter(self._file)

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _next_name(self) -> str:
        """Behind all that there are: TensorBoard reads them in the order of their names."""
        last = self._files[-1].name.removeprefix(_NAME).split(".")[0] if self._files else "0"
        return f"{_NAME}{max(int(time.time()), int(last) + 1):010d}.ledger"


def _end(files: list[Path]) -> tuple[int, Counter[bytes]]:
    """The position of the last mark, and the records behind it."""
    behind: Counter[bytes] = Counter()
    for file in reversed(files):
        position = -1
        records: Counter[bytes] = Counter()
        for record, marked in _records(file):
            if marked is None:
                records[record] += 1
            else:
                position, records = marked, Counter()
        behind += records
        if position >= 0:
            return position, behind
    return -1, behind


def _records(file: Path) -> Iterator[tuple[bytes, int | None]]:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    for record in RawEventFileLoader(str(file)).Load():
        said = _MARK.fullmatch(Event.FromString(record).log_message.message)
        yield record, int(said[1]) if said else None
