"""How the processes of a training are laid out: pure arithmetic, without torch.

Ranks are numbered row-major over the dimensions, the first being outermost, so that the processes of one tensor
group, which talk most, have neighbouring ranks.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Mesh:
    """Sizes of the dimensions, outermost first."""

    pipeline: int = 1
    """Stages that the layers are dealt out to."""
    data: int = 1
    """Replicas of the parameters, each with samples of its own."""
    shard: int = 1
    """Processes among which one replica is split; each has samples of its own as well."""
    tensor: int = 1
    """Processes that compute the same layers on the same samples, a part of each layer apiece."""

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each dimension by name, outermost first."""
        return asdict(self)

    @property
    def processes(self) -> int:
        """How many there are in all."""
        return math.prod(self.sizes.values())

    @property
    def shares(self) -> int:
        """Parts that the samples of a step are dealt out in."""
        return self.data * self.shard

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where ``rank`` is in each dimension."""
        place = {}
        for name, size in reversed(self.sizes.items()):
            rank, place[name] = divmod(rank, size)
        return {name: place[name] for name in self.sizes}

    def share(self, rank: int) -> int:
        """Which part of the samples ``rank`` reads: the same one in all of a tensor or pipeline group."""
        place = self.coordinates(rank)
        return place["data"] * self.shard + place["shard"]
