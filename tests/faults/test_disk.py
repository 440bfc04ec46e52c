"""A full disk: what does not fit is refused with a reason, nothing is kept by halves, and with room it goes on."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.place import Place, ended


@pytest.mark.seeds(sample=1, all=20)
def test_files_that_may_not_grow(place: Place, seed: int) -> None:
    """A limit on the size of files: the full disk that anybody can have."""
    refused = ended(place.start("limited", 3, seed)).splitlines()
    place.must_be_whole(in_flight=len(refused))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB, where this user may mount one."""
    home = tmp_path / "small"
    home.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(home)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here; test_files_that_may_not_grow is run everywhere")
    yield home
    subprocess.run(["umount", "--lazy", home], check=True)


@pytest.mark.seeds(sample=1, all=20)
def test_a_small_disk(small_disk: Path, seed: int, chance: random.Random) -> None:
    place = Place(small_disk)
    victim = place.start("scarce", 4)
    ballast = small_disk / "ballast"
    for _ in range(3):
        time.sleep(chance.uniform(0, 0.5))
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        time.sleep(chance.uniform(0, 0.5))
        ballast.unlink()
    refused = ended(victim).splitlines()
    place.must_be_whole(in_flight=len(refused))
