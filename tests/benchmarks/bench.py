"""One benchmark: who takes part, how often, how much, and where."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contestant import Unavailable, find
from tests.benchmarks.process import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.benchmarks.figures import Table


@dataclass(frozen=True)
class Bench:
    """Passed to every measure."""

    keys: Sequence[str]
    """Contestants, in the order of the tables."""
    rounds: int
    scale: float
    """1 for the published sizes; a smoke test takes a hundredth."""
    directory: Path
    """Where the contestants write; emptied as it goes."""
    say: Callable[[str], None]

    def size(self, full: int, *, least: int = 1) -> int:
        """``full`` at this benchmark's scale."""
        return max(least, round(full * self.scale))

    def interleaved(
        self, table: Table, leg: Callable[[str, Path], dict[str, float]], *, rounds: int | None = None
    ) -> None:
        """Fill ``table``: in each round one leg of every contestant, so that a slow minute hits all of them.

        ``leg`` gets the contestant's key and an empty directory. A contestant that fails once has no figures.
        """
        for number in range(rounds or self.rounds):
            for key in self._able(table, number):
                home = self.fresh(f"{table.measure}-{key}")
                self.say(f"{table.measure} · {key} · round {number + 1}")
                try:
                    table.add(key, leg(key, home))
                except Unavailable as error:
                    table.samples.pop(key, None)
                    table.reasons[key] = str(error)
                self.remove(home)

    def catalogue(self, key: str, runs: int) -> Path:
        """A directory that holds so many finished runs.

        Writing them takes a while, so it is done once, and the measures that read them share it.
        """
        full = self.directory / f"catalogue-{key}"
        if not full.exists():
            partial = self.fresh(f"partial-{key}")
            self.run("runs:write", key, partial, runs=runs)
            partial.rename(full)
        return full

    def run(self, function: str, key: str, home: Path, **arguments: Any) -> Any:
        """``process.call``, on a quiet disk: what one contestant leaves to be written is not another one's wait."""
        if self.scale >= 1:
            os.sync()
        return call(function, key, home, **arguments)

    def fresh(self, name: str | Path) -> Path:
        """An empty directory of that name, below this benchmark's."""
        home = self.directory / name
        self.remove(home)
        home.mkdir(parents=True)
        return home

    def remove(self, home: Path) -> None:
        """Forget what a contestant wrote."""
        for place in (home, home.with_name(home.name + "-user")):
            shutil.rmtree(place, ignore_errors=True)

    def _able(self, table: Table, number: int) -> Iterator[str]:
        for key in self.keys:
            contestant = find(key)
            if reason := contestant.cannot.get(table.measure):
                table.reasons[key] = reason
            elif key not in table.reasons and (contestant.rounds is None or number < contestant.rounds):
                yield key
