"""Where the figures come from: machine, system, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.benchmarks.contestant import Unavailable, find

if TYPE_CHECKING:
    from collections.abc import Sequence


def describe(keys: Sequence[str], directory: Path) -> dict[str, str]:
    """What a reader must know to judge the figures, by name; ``directory`` is where the contestants write."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "disk": _file_system(directory),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "versions": ", ".join(_versions(keys)),
        "commit": _commit(),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """The type of the file system: a benchmark on a tmpfs says nothing about durability."""
    mounts = [part for part in psutil.disk_partitions(all=True) if directory.resolve().is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def _versions(keys: Sequence[str]) -> list[str]:
    found = {}
    for key in keys:
        contestant = find(key)
        with suppress(Unavailable):
            if version := contestant.version:
                found[str(contestant.distribution)] = version
    return [f"{name} {version}" for name, version in found.items()]


def _commit() -> str:
    """The source that was measured; ``+`` where it was not committed as it is."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
