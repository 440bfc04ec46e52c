from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_trainer.feed import Feed
from ledger_trainer.mesh import Mesh

SIZES = st.integers(1, 3)
MESHES = st.builds(Mesh, pipeline=SIZES, data=SIZES, shard=SIZES, tensor=SIZES)


class Numbers:
    """A task whose samples are numbers."""

    def samples(self, split: str) -> range:
        return range(1000) if split == "train" else range(1000, 1200)

    def batch(self, samples: list[int]) -> list[int]:
        return samples


@settings(deadline=None, max_examples=30)
@given(MESHES)
def test_ranks_and_coordinates_are_one_to_one_and_row_major(mesh: Mesh) -> None:
    places = [mesh.coordinates(rank) for rank in range(mesh.processes)]
    assert places == sorted(places, key=lambda place: [place[name] for name in mesh.sizes])
    assert len({tuple(place.values()) for place in places}) == mesh.processes == math.prod(mesh.sizes.values())
    assert all(0 <= place[name] < size for place in places for name, size in mesh.sizes.items())


def test_the_dimensions_from_outer_to_inner() -> None:
    assert list(Mesh().sizes) == ["pipeline", "data", "shard", "tensor"]
    mesh = Mesh(pipeline=2, data=2, tensor=2)
    assert mesh.coordinates(5) == {"pipeline": 1, "data": 0, "shard": 0, "tensor": 1}


@settings(deadline=None, max_examples=30)
@given(MESHES, st.integers(1, 3), st.integers(1, 3), st.integers(1, 50))
def test_the_shares_are_the_whole_batch_once_and_groups_read_the_same(
    mesh: Mesh, accumulation: int, micro: int, step: int
) -> None:
    size = mesh.shares * accumulation * micro
    feeds = [Feed(Numbers(), 7, size, accumulation, rank, mesh) for rank in range(mesh.processes)]  # type: ignore[arg-type]
    shares: dict[int, list[list[int]]] = {}
    for rank, feed in enumerate(feeds):
        mine = feed.samples(step)
        assert [len(samples) for samples in mine] == [micro] * accumulation
        assert shares.setdefault(mesh.share(rank), mine) == mine
    assert len(shares) == mesh.shares
    alone = Feed(Numbers(), 7, size, 1, 0, Mesh()).samples(step)  # type: ignore[arg-type]
    assert sorted(n for share in shares.values() for samples in share for n in samples) == sorted(alone[0])


@settings(deadline=None, max_examples=30)
@given(MESHES, st.integers(1, 3), st.integers(1, 5))
def test_validation_is_shared_out_without_overlap(mesh: Mesh, micro: int, batches: int) -> None:
    size = mesh.shares * micro
    seen: dict[int, list[int]] = {}
    for rank in range(mesh.processes):
        feed = Feed(Numbers(), 7, size, 1, rank, mesh)  # type: ignore[arg-type]
        read = [sample for batch in feed.validation(batches) for sample in batch]
        assert seen.setdefault(mesh.share(rank), read) == read
    together = sorted(sample for read in seen.values() for sample in read)
    assert together == list(range(1000, 1000 + size * min(batches, 200 // size)))


@pytest.mark.parametrize("rank", range(4))
def test_who_splits_layers_or_stages_reads_the_same_samples(rank: int) -> None:
    assert Mesh(tensor=2, pipeline=2).share(rank) == 0
    assert Mesh(data=2, shard=2).share(rank) == rank
    assert Mesh(data=2, tensor=2).share(rank) == rank // 2
