"""From a model back to what produced it: which run wrote the checkpoint that has this digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ledger.events import CheckpointWritten
    from ledger.read.catalogue import RunSummary


@dataclass(frozen=True)
class Origin:
    """A run that produced what was asked about."""

    run_id: str
    run: str
    checkpoint: CheckpointWritten | None = None
    file: str | None = None
    """The file of the checkpoint that matched, where a single file was asked about."""


def origins(runs: Iterable[RunSummary], digests: Collection[str]) -> list[Origin]:
    """Every checkpoint, whole or one of its files, with one of these digests, in the order of the runs.

    ``digests`` may be shortened to 8 characters or more. Originals come before replays, which write the same bytes.
    """
    return [
        Origin(run.id, run.name, checkpoint, file)
        for run in sorted(runs, key=lambda r: r.replay_of is not None)
        for checkpoint in run.checkpoints
        for file in _matches(checkpoint, digests)
    ]


def _matches(checkpoint: CheckpointWritten, digests: Collection[str]) -> Sequence[str | None]:
    if any(_same(checkpoint.digest, digest) for digest in digests):
        return [None]
    return [file.path for file in checkpoint.files if any(_same(file.digest, digest) for digest in digests)][:1]


def _same(digest: str, asked: str) -> bool:
    return len(asked) >= 8 and digest.startswith(asked.lower())
