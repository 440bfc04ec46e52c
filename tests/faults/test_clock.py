"""A clock that goes backwards and jumps: nothing in the log depends on it being right."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.faults.place import Place, ended, kill


@pytest.mark.seeds(sample=1, all=10)
def test_order_is_kept_whatever_the_clock_says(place: Place, seed: int) -> None:
    ended(place.start("clockless", 1.5, seed))
    place.must_be_whole(in_flight=0)
    with place.book() as book:
        state = book.run("latest")
        assert state.status == "completed"
        steps = state.series("loss").step
        assert list(steps) == list(range(len(steps)))
        times = [recorded.recorded_at for recorded in book.store.read_all()]
        assert all(one <= other for one, other in pairwise(times))


@pytest.mark.seeds(sample=1, all=10)
def test_a_dead_writer_is_known_to_be_dead(place: Place, seed: int) -> None:
    victim = place.start("clockless", 60, seed)
    kill(victim)
    with place.book() as book:
        assert book.run("latest").status == "interrupted"
    place.must_be_whole()
