"""Many writers of one ledger at the same time, in processes, threads and forks."""

from __future__ import annotations

import time

import pytest

from tests.faults.place import Place, ended, kill


@pytest.mark.seeds(sample=1, all=10)
def test_processes_that_write_one_ledger_without_a_pause(place: Place, seed: int) -> None:
    victims = [place.start(act) for act in ("append", "drain", "append", "checkpoint")]
    time.sleep(1 + seed / 10)
    for victim in victims:
        kill(victim)
    place.must_be_whole(in_flight=2 * 50 + 2 * 2)


@pytest.mark.seeds(sample=1, all=20)
def test_children_forked_while_a_thread_logs(place: Place, seed: int) -> None:
    ended(place.start("forking", 2, seed))
    place.must_be_whole(in_flight=0)


def test_two_hundred_writers(place: Place) -> None:
    """In four processes: it is the writers that are many, each with a journal, a thread that drains it, and a run."""
    for victim in [place.start("crowd", 50, 2) for _ in range(4)]:
        ended(victim)
    found = place.must_be_whole(in_flight=0)
    assert len({stream for stream, _ in found}) == 200


def test_two_hundred_writers_on_postgresql(pg_url: str, place: Place) -> None:
    place.environ["LEDGER_URL"] = pg_url
    test_two_hundred_writers(place)
