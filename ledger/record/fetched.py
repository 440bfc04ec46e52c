"""The checkpoint that an attempt goes on from, fetched to where its processes find it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.book import this_process
from ledger.errors import CheckpointUnavailable, LedgerError
from ledger.events import TrainingResumed

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.book import Book
    from ledger.events import CheckpointWritten, Process, World
    from ledger.read.state import RunState


_BEGUN: Final = "begun-"


class Fetched(NamedTuple):
    """Where an attempt goes on."""

    checkpoint: CheckpointWritten | None
    """None where it starts from the beginning."""
    place: Path
    """Where the checkpoint lies, verified."""
    skipped: tuple[str, ...]
    """Newer ones that were not whole, each with what was wrong."""

    def resumed(self, attempt: int, process: Process | None = None, world: World | None = None) -> TrainingResumed:
        """The first fact of ``attempt``, which goes on here; ``process`` ends it, by default this one."""
        checkpoint = self.checkpoint
        return TrainingResumed(
            attempt=attempt,
            step=checkpoint.step if checkpoint else None,
            checkpoint=checkpoint.digest if checkpoint else None,
            uri=checkpoint.uri if checkpoint else None,
            skipped=self.skipped,
            world=world,
            process=process or this_process(),
        )


def fetch_newest(book: Book, state: RunState, place: Path) -> Fetched:
    """Fetch the newest whole checkpoint of a run to ``place``, which must not exist."""
    place.parent.mkdir(parents=True, exist_ok=True)
    skipped: list[str] = []
    for checkpoint in reversed(state.checkpoints):
        try:
            book.checkpoints().read(checkpoint, place)
        except LedgerError as error:
            if not isinstance(error, CheckpointUnavailable) and error.exit_code != 1:
                raise
            skipped.append(f"{checkpoint.name}: {error}")
        else:
            return Fetched(checkpoint, place, tuple(skipped))
    return Fetched(None, place, tuple(skipped))


def place_of(book: Book, run: str, attempt: int, launched: int, process: Process) -> Path:
    """Where the checkpoint of ``attempt`` is fetched to, by the launch that ``process`` began as ``launched``."""
    return _folder(book, run, launched, process) / f"attempt-{attempt}"


def note_attempt(book: Book, run: str, attempt: int, launched: int, process: Process) -> None:
    """Tell the process that launched them that its processes have begun ``attempt``, when the log has that."""
    (_folder(book, run, launched, process) / f"{_BEGUN}{attempt}").touch()


def noted_attempt(book: Book, run: str, launched: int) -> int:
    """The newest attempt of a launch by this process; for when the log, which knows, is out of reach."""
    notes = _folder(book, run, launched, this_process()).glob(f"{_BEGUN}*")
    return max((int(note.name.removeprefix(_BEGUN)) for note in notes), default=launched)


def discard_fetched(book: Book, run: str, launched: int) -> None:
    """Remove what the attempts of a launch by this process have fetched."""
    shutil.rmtree(_folder(book, run, launched, this_process()), ignore_errors=True)


def _folder(book: Book, run: str, launched: int, process: Process) -> Path:
    # Several that try to resume a run at the same moment, on whatever host, must not touch each other's files.
    return book.settings.scratch / "resume" / f"{run}-{launched}-{process.host}-{process.pid}"
