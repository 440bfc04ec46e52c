"""The database server is killed and comes back under load: training goes on, and everything is there once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres
from tests.faults.place import Place, ended, kill


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A server of our own: the one that other tests share is left running."""
    yield from postgres.servers()


@pytest.fixture
def team(server: postgres.Server, tmp_path: Path) -> Iterator[Place]:
    """A user's directory whose ledger is in PostgreSQL."""
    for url in postgres.databases(server):
        yield Place(tmp_path / "home", url)


def outage(server: postgres.Server, chance: random.Random) -> None:
    """End the server at some moment, in one way or the other, and start it again a while later."""
    time.sleep(chance.uniform(0, 0.7))
    chance.choice([server.kill, server.stop])()
    time.sleep(chance.uniform(0, 1.0))
    server.start()


@pytest.mark.seeds(sample=1, all=20)
def test_training_goes_on_without_the_database(
    server: postgres.Server, team: Place, seed: int, chance: random.Random
) -> None:
    victims = [team.start("steady", 5), team.start("steady", 5)]
    for _ in range(3):
        outage(server, chance)
    for victim in victims:
        ended(victim)
    team.must_be_whole(in_flight=0)


@pytest.mark.seeds(sample=1, all=10)
def test_killed_while_the_database_is_away(
    server: postgres.Server, team: Place, seed: int, chance: random.Random
) -> None:
    victim = team.start("steady", 60)
    time.sleep(chance.uniform(0, 0.7))
    server.kill()
    time.sleep(chance.uniform(0, 0.7))
    kill(victim)
    server.start()
    team.must_be_whole()


@pytest.mark.seeds(sample=1, all=20)
@pytest.mark.parametrize("act", ["drain", "append"])
def test_killed_by_the_clock(team: Place, act: str, seed: int, chance: random.Random) -> None:
    victim = team.start(act)
    time.sleep(chance.uniform(0, 0.6))
    kill(victim)
    team.must_be_whole(in_flight=50 if act == "append" else 2)
