from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_trainer.sampling import permute, positions, share, share_of, step_places, unpermute

SIZES = st.integers(1, 3000)


def places(seed: int, step: int, batch: int, total: int) -> list[int]:
    return [int(place) for place in step_places(seed, step, batch, total)]


@settings(deadline=None)  # a busy machine is not a defect
@given(SIZES, st.text())
def test_permute_is_a_permutation(size: int, key: str) -> None:
    assert sorted(permute(np.arange(size, dtype=np.uint64), size, key).tolist()) == list(range(size))


@settings(deadline=None)  # a busy machine is not a defect
@given(SIZES, st.text())
def test_unpermute_takes_back_what_permute_did(size: int, key: str) -> None:
    every = np.arange(size, dtype=np.uint64)
    assert unpermute(permute(every, size, key), size, key).tolist() == every.tolist()


@settings(deadline=None)  # a busy machine is not a defect
@given(st.integers(0, 9), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.data())
def test_a_sample_is_found_where_the_steps_read_it(
    seed: int, shares: int, accumulation: int, micro: int, total: int, data: st.DataObject
) -> None:
    batch, steps = shares * accumulation * micro, 12
    place = data.draw(st.integers(0, total - 1))
    read = [
        (step, one)
        for step in range(1, steps + 1)
        for one in range(shares)
        for found in share(
            step_places(seed, step, batch, total), share=one, shares=shares, accumulation=accumulation
        ).flat
        if found == place
    ]
    told = [
        (position // batch + 1, share_of(position, batch=batch, shares=shares, accumulation=accumulation))
        for position in positions(seed, place, steps, batch, total)
    ]
    assert sorted(told) == read


def test_a_sample_of_a_large_set_is_found_by_its_epochs() -> None:
    (place,) = places(3, 2_000_000, 1, 10**6)
    assert positions(3, place, 2_000_000, 1, 10**6)[-1] == 1_999_999


@settings(deadline=None)  # a busy machine is not a defect
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 200))
def test_steps_go_through_every_sample_once_an_epoch(seed: int, batch: int, total: int) -> None:
    steps = -(-2 * total // batch)
    read = [place for step in range(1, steps + 1) for place in places(seed, step, batch, total)]
    for epoch in (read[:total], read[total : 2 * total]):
        assert sorted(epoch) == list(range(total))


@settings(deadline=None)  # a busy machine is not a defect
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 99))
def test_ranks_share_a_step_and_its_samples_do_not_depend_on_their_number(
    world: int, accumulation: int, micro: int, step: int
) -> None:
    whole = step_places(7, step, world * accumulation * micro, 1000)
    shares = [share(whole, share=r, shares=world, accumulation=accumulation) for r in range(world)]
    assert all(s.shape == (accumulation, micro) for s in shares)
    assert sorted(np.concatenate(shares, axis=None).tolist()) == sorted(whole.tolist())


def test_seeds_and_epochs_differ() -> None:
    first = places(1, 1, 100, 100)
    assert first != places(2, 1, 100, 100)
    assert first != places(1, 2, 100, 100)
    assert first != sorted(first)


def test_the_order_is_the_same_for_ever() -> None:
    """Recorded runs are audited by it: these numbers must never change."""
    assert places(7, 1, 8, 58805) == [52197, 42282, 32654, 36729, 4201, 29665, 31795, 8112]
    assert places(7, 123_456, 4, 58805) == [216, 25312, 1428, 8700]


def test_a_large_set_costs_no_more_than_the_batch() -> None:
    found = places(0, 10**9, 64, 10**15)
    assert len(set(found)) == 64
    assert max(found) < 10**15


def test_places_are_spread_evenly() -> None:
    """A chi-square test of 10 000 first places over 100 cells; 99 degrees of freedom, p = 0.999 at 148.2."""
    first = np.array([places(seed, 1, 1, 100)[0] for seed in range(10_000)])
    observed = np.bincount(first, minlength=100)
    assert ((observed - 100) ** 2 / 100).sum() < 148.2
