"""From a model back to what produced it: which run wrote the checkpoint that has this digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.errors import LedgerError
from ledger.events import CheckpointWritten
from ledger.store.base import run_id

if TYPE_CHECKING:
    from ledger.codec import Recorded
    from ledger.store.projections.query import WrittenCheckpoint


@dataclass(frozen=True)
class Origin:
    """A run that produced what was asked about."""

    run_id: str
    run: str
    checkpoint: CheckpointWritten | None = None
    file: str | None = None
    """The file of the checkpoint that matched, where a single file was asked about."""


def origin(match: WrittenCheckpoint, recorded: Recorded) -> Origin:
    """What the store found by a digest, with the fact it stands for."""
    if not isinstance(recorded.event, CheckpointWritten):
        raise LedgerError(
            f"event {match.position} is no checkpoint: the projections do not go with the log",
            mend="`ledger db rebuild` folds them again",
        )
    return Origin(run_id(match.stream), match.run, recorded.event, match.file)
