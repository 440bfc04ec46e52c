"""The batches of a training, for one rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.errors import InvalidRecipe
from ledger_trainer import sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ledger_trainer.mesh import Mesh
    from ledger_trainer.task import Batch, Task


@dataclass(frozen=True)
class Feed:
    """Batches of ``task``; every one is a function of the seed, the step, the rank and the mesh.

    Ranks of one tensor or pipeline group read the same samples.
    """

    task: Task
    seed: int
    size: int
    """Samples of a step over all ranks."""
    accumulation: int
    rank: int
    mesh: Mesh

    def __post_init__(self) -> None:
        if not len(self.task.samples("train")):
            raise InvalidRecipe("the data hold no sample to train on", mend="give more data, or smaller samples")

    def samples(self, step: int) -> list[list[int]]:
        """Identifiers of this rank's training samples for ``step``, one list for each micro-batch."""
        known = self.task.samples("train")
        places = sampling.step_places(self.seed, step, self.size, len(known))
        mine = sampling.share(
            places, share=self.mesh.share(self.rank), shares=self.mesh.shares, accumulation=self.accumulation
        )
        return [[int(known[int(place)]) for place in micro] for micro in mine]

    def train(self, step: int) -> list[Batch]:
        """This rank's micro-batches for ``step``."""
        return [self.task.batch(samples) for samples in self.samples(step)]

    def validation(self, batches: int) -> Iterator[Batch]:
        """This rank's share of the first ``batches`` batches of validation samples, or of all there are.

        A set that is smaller than one batch is one smaller batch.
        """
        known: Sequence[int] = self.task.samples("validation")
        size = min(self.size, len(known)) // self.mesh.shares
        if not size:
            return
        whole = size * self.mesh.shares
        count = min(batches, len(known) // whole)
        for start in range(self.mesh.share(self.rank) * size, count * whole, whole):
            yield self.task.batch([int(sample) for sample in known[start : start + size]])
