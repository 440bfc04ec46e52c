"""What the ranks tell each other behind training, where no collective is possible: by files that all of them see."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from ledger.errors import CheckpointUnavailable, UsageError
from ledger_trainer import ranks
from ledger_trainer.fingerprint import Digests

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PATIENCE_S: Final = 600.0
"""How long nothing may happen to a checkpoint's files before a rank that has said nothing is given up."""
_POLL_S: Final = 0.01
_LONGEST_POLL_S: Final = 0.5


@dataclass(frozen=True)
class Part:
    """How one rank's part of what belongs to a step came out."""

    failure: str = ""
    """Why its files were not written."""
    digests: Digests | None = None
    """None where nobody asked, or where it failed."""


def require_shared(scratch: Path, rank: int, hosts: Sequence[str]) -> None:
    """Fail before the first step where a rank does not see the files of rank 0; a collective."""
    sign = scratch / "shared"
    if rank == 0:
        scratch.mkdir(parents=True, exist_ok=True)
        sign.touch()
    ranks.agree(0)
    (blind,) = ranks.agree(0 if sign.exists() else rank + 1)
    if rank == 0:
        sign.unlink()
    if blind:
        raise UsageError(
            f"rank {blind - 1} on {hosts[blind - 1]} does not see {scratch} of {hosts[0]}, where checkpoints are put "
            "together",
            mend="let LEDGER_SCRATCH name a directory that all hosts share",
        )


class Parts:
    """The parts of all ranks for one step, as files beside the checkpoint's directory.

    Each rank calls ``tell`` once; then rank 0 calls ``collect``.
    """

    def __init__(self, directory: Path, hosts: Sequence[str], *, patience: float = PATIENCE_S) -> None:
        self._files = directory.with_name(f"{directory.name}.ranks")
        self._content = directory
        self._hosts = hosts
        self._patience = patience

    def tell(self, rank: int, part: Part) -> None:
        """Say that this rank is done; seen by others whole or not at all."""
        self._files.mkdir(parents=True, exist_ok=True)
        unfinished = self._files / f"{rank}.part"
        unfinished.write_text(json.dumps(asdict(part)))
        os.replace(unfinished, self._files / f"{rank}.json")

    def collect(self, own: Part) -> list[Part]:
        """The parts of all ranks by rank, once all are there; that of rank 0 is ``own``.

        Raises ``CheckpointUnavailable`` naming a rank that neither tells anything nor writes any more.
        """
        missing = {str(rank) for rank in range(1, len(self._hosts))}
        pause, seen, changed = _POLL_S, self._look(), time.monotonic()
        while missing:
            # Listed and not asked for one by one: a network file system may remember that a file was not there.
            missing -= {name.removesuffix(".json") for name in _names(self._files)}
            if not missing:
                break
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_POLL_S)
            if (now := self._look()) != seen:
                seen, changed = now, time.monotonic()
            elif time.monotonic() - changed > self._patience:
                rank = min(map(int, missing))
                raise CheckpointUnavailable(
                    f"rank {rank} on {self._hosts[rank]} has said nothing of its part for {self._patience:g} s"
                )
        parts = [own, *(self._read(rank) for rank in range(1, len(self._hosts)))]
        shutil.rmtree(self._files, ignore_errors=True)
        return parts

    def _read(self, rank: int) -> Part:
        told = json.loads((self._files / f"{rank}.json").read_text())
        return Part(told["failure"], Digests(**told["digests"]) if told["digests"] else None)

    def _look(self) -> list[tuple[str, int, int]]:
        """What there is of the checkpoint's files: it changes for as long as anybody writes."""
        found = []
        for place in (self._content, self._files):
            for folder, _, names in os.walk(place):
                for name in names:
                    path = os.path.join(folder, name)
                    try:
                        status = os.stat(path)
                    except FileNotFoundError:  # renamed since
                        continue
                    found.append((path, status.st_size, status.st_mtime_ns))
        return sorted(found)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
