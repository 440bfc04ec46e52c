"""Which files a data set or an artifact holds, by what they contain: from manifests that lie beside the log."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import orjson

from ledger.errors import IntegrityError, ObjectNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ledger.objects import ObjectStore

    Progress = Callable[[str, int, int], None]
    """Told what is counted, how many are done, and how many there are."""

_THREADS: Final = 8
"""Manifests at a time: hashing lets go of the interpreter, and a remote place answers late."""
_REMEMBERED: Final = 4
_WHOLE: Final = 64
"""Characters of a digest that is not shortened."""


class Contents:
    """Reads manifests by their digest.

    What cannot be read is said in ``gaps`` and taken to hold nothing but itself.
    """

    def __init__(self, objects: ObjectStore, progress: Progress) -> None:
        self._objects = objects
        self._progress = progress
        self.gaps: dict[str, str] = {}
        """What could not be read, and why, by digest."""
        self._latest: dict[str, frozenset[str]] = {}
        self._paths: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}

    def of(self, manifest: str, what: str) -> frozenset[str]:
        """Digests that the manifest names, and its own; ``what`` is what to call it.

        The few latest are remembered: the runs of a project read the same data.
        """
        if manifest not in self._latest:
            if len(self._latest) >= _REMEMBERED:
                del self._latest[next(iter(self._latest))]
            self._latest[manifest] = self._read(manifest, what)
        return self._latest[manifest]

    def each(self, manifests: Mapping[str, str], counted: str) -> Iterator[tuple[str, frozenset[str]]]:
        """Each of these manifests, given with what to call it, and the digests of ``of``.

        No more than a few are in memory at a time: a data set may have a million files.
        """
        waiting = list(manifests.items())
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(waiting), _THREADS):
                some = waiting[start : start + _THREADS]
                names = pool.map(self._read, *zip(*some, strict=True))
                yield from zip((digest for digest, _ in some), names, strict=True)
                self._progress(counted, start + len(some), len(waiting))

    def paths(self, manifest: str, digests: frozenset[str]) -> tuple[str, ...]:
        """Where in the manifest, which ``of`` has read, the files with these digests are; empty files are none.

        Remembered: many runs read the same data.
        """
        asked = (manifest, digests - {manifest})
        if asked not in self._paths:
            self._paths[asked] = self._find(*asked)
        return self._paths[asked]

    def _find(self, manifest: str, digests: frozenset[str]) -> tuple[str, ...]:
        if not digests:
            return ()
        # Not as a Manifest: no path is used but to be shown, and to check a million of them takes a minute.
        rows = orjson.loads(self._objects.get_bytes(manifest))
        return tuple(row["path"] for row in rows if row["digest"] in digests and row["bytes"])

    def _read(self, manifest: str, what: str) -> frozenset[str]:
        try:
            return self._objects.named_by(manifest) | {manifest}
        except (ObjectNotFound, IntegrityError) as error:
            self.gaps[manifest] = f"which files {what} holds is not known: {error}"
            return frozenset((manifest,))


def beginning(names: frozenset[str], digests: list[str]) -> frozenset[str]:
    """Those of ``names`` that are, or begin with, one of ``digests``."""
    whole = names & frozenset(digests)
    short = tuple(digest for digest in digests if len(digest) < _WHOLE)
    return whole | {name for name in names if name.startswith(short)} if short else whole
