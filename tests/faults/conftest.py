"""How much of the fault tests runs: a sample, or all of it with ``--faults=all``, as `make faults` does.

A test marked ``seeds(sample=…, all=…)`` runs once for each of so many seeds; the seed is part of its name. A seed fixes
every choice that a test makes, and not what the operating system makes of it.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.place import Place


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption(
        "--faults", choices=("sample", "all"), default="sample", help="how many seeds each fault is tried with"
    )
    group.addoption("--first-seed", type=int, default=0, help="to go on with others, or to repeat one that failed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "seeds(sample, all): runs once for each of so many seeds")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if marker := metafunc.definition.get_closest_marker("seeds"):
        first = metafunc.config.getoption("first_seed", 0)
        metafunc.parametrize("seed", range(first, first + marker.kwargs[metafunc.config.getoption("faults", "sample")]))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The choices of this test."""
    return random.Random(f"{request.node.originalname} {request.getfixturevalue('seed')}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A user's empty directory, whose ledger is in it."""
    return Place(tmp_path / "home")
