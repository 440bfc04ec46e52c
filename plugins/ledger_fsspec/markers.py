"""Who is writing and who is sweeping, on whatever hosts, without a lock.

A writer puts a mark and then looks for those of sweepers; a sweeper puts a mark and then looks for those of
writers (Dekker's rule of two flags). Local file systems, S3, Google Cloud Storage and Azure all list what was
written before, so of a writer and a sweeper at the same time one at least sees the other: then the writer
waits, or the sweeper leaves things as they are.

Each mark has a name of its own, which begins with the time: removing a stale one never hits a fresh one. Whoever
puts a mark gives up long before others stop to believe it, so that clocks may differ by the rest. A mark says
which process put it: where that can be seen to have died, nobody waits for the mark to grow old.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import orjson

from ledger.errors import Conflict, Unavailable
from ledger.processes import lives, start_of
from ledger_fsspec.shelves import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger_fsspec.shelves import Shelf

WRITING: Final = "pending"
SWEEPING: Final = "sweeping"
WRITER_HOURS: Final = 12
"""After which a writer gives up what it wrote."""
WRITER_STALE_HOURS: Final = 24
"""After which its mark counts for nothing."""
SWEEPER_MINUTES: Final = 5
SWEEPER_STALE_MINUTES: Final = 15
_POLL: Final = 0.25
_OURS: Final = re.compile(rf"({WRITING}|{SWEEPING}|{TEMPORARY})/[0-9]+-[0-9a-f]+")
"""Names of marks and of half-written files: whatever else lies there belongs to somebody else."""


class Markers:
    """Marks on one shelf. ``clock`` gives Unix seconds."""

    def __init__(self, shelf: Shelf, clock: Callable[[], float] = time.time) -> None:
        self._shelf = shelf
        self._clock = clock

    @contextmanager
    def writing(self) -> Iterator[Callable[[], None]]:
        """While this lasts, nothing that a checkpoint of the caller's may refer to is swept.

        What it gives is to be called right before the checkpoint is published: it raises ``Unavailable`` where that
        took too long to be safe.
        """
        began, marked = time.monotonic(), self._clock()

        def in_time() -> None:
            # Of the two clocks only the one that others go by runs on while this machine is suspended.
            if max(time.monotonic() - began, self._clock() - marked) > WRITER_HOURS * 3600:
                raise Unavailable(
                    f"writing the checkpoint took more than {WRITER_HOURS} hours",
                    mend="write it again: what has arrived is not sent a second time",
                )

        with self._mark(WRITING):
            while self._fresh(SWEEPING, SWEEPER_STALE_MINUTES * 60):
                time.sleep(_POLL)
            yield in_time

    @contextmanager
    def sweeping(self, patience: float) -> Iterator[Callable[[], bool]]:
        """While this lasts no writer begins. Raises ``Conflict`` where one is still at work after ``patience`` seconds.

        What it gives tells whether there is time left: when there is none, stop.
        """
        began = time.monotonic()
        with self._mark(SWEEPING):
            self.refuse_writers(patience)
            yield lambda: time.monotonic() - began < SWEEPER_MINUTES * 60

    def refuse_writers(self, patience: float = 0) -> None:
        """Raises ``Conflict`` where one is still at work after ``patience`` seconds."""
        began = time.monotonic()
        while writers := self._fresh(WRITING, WRITER_STALE_HOURS * 3600):
            if time.monotonic() - began > patience:
                raise Conflict(
                    f"{len(writers)} checkpoints are being written to {self._shelf.uri} just now",
                    mend="try again when they are written; a writer that was killed counts for "
                    f"{WRITER_STALE_HOURS} hours",
                )
            time.sleep(_POLL)

    def stale(self) -> dict[str, int]:
        """Marks and half-written files that count for nothing any more, and their sizes."""
        ages = {WRITING: WRITER_STALE_HOURS * 3600, SWEEPING: SWEEPER_STALE_MINUTES * 60}
        ages[TEMPORARY] = ages[WRITING]
        return {
            path: size
            for folder, age in ages.items()
            for path, size in self._shelf.sizes(folder).items()
            if _OURS.fullmatch(path)
            and (not self._is_fresh(path, age) or (folder != TEMPORARY and self._is_orphan(path)))
        }

    @contextmanager
    def _mark(self, folder: str) -> Iterator[None]:
        path = f"{folder}/{int(self._clock())}-{uuid4().hex}"
        self._shelf.write(path, [orjson.dumps({"pid": os.getpid(), "started": start_of(os.getpid())})])
        try:
            yield
        finally:
            self._shelf.remove([path])

    def _fresh(self, folder: str, age: float) -> list[str]:
        return [path for path in self._shelf.sizes(folder) if self._is_fresh(path, age) and not self._is_orphan(path)]

    def _is_orphan(self, path: str) -> bool:
        """Whether the process that put this mark is known to have died, and what it had asked for is over, too."""
        if self._shelf.lag and self._is_fresh(path, self._shelf.lag):
            return False
        try:
            told = orjson.loads(self._shelf.read(path))
            return lives(int(told["pid"]), str(told["started"])) is False
        except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return False

    def _is_fresh(self, path: str, age: float) -> bool:
        made = path.rpartition("/")[2].partition("-")[0]
        return made.isdecimal() and self._clock() - int(made) < age
