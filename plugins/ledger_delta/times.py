"""When the versions of a table were made, as its log has it.

``DeltaTable.history`` is no help: it counts versions down from the one it was opened at, so the times are those of
other versions where a commit holds no ``commitInfo``, or where somebody has written meanwhile. And ``load_as_version``
goes by the times of the files, which are new where a table was copied.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import orjson

from ledger.errors import DataUnavailable

if TYPE_CHECKING:
    from ledger_delta.place import Place

_FOLDER: Final = "_delta_log"
_COMMIT: Final = re.compile(_FOLDER + r"/(\d{20})\.json")


def commits(place: Place) -> list[int]:
    """The versions of which the log still holds the commit, in order."""
    return sorted(int(found[1]) for name in place.sizes(_FOLDER) if (found := _COMMIT.fullmatch(name)))


def made(place: Place, version: int) -> datetime:
    """When a version was made: as its commit says, or else when that was written.

    Raises ``DataUnavailable`` where the log holds the commit no more.
    """
    name = f"{_FOLDER}/{version:020}.json"
    for line in place.read(name).splitlines():
        # Protocol, "Commit Provenance Information" and "In-Commit Timestamps".
        said = orjson.loads(line).get("commitInfo") or {}
        if at := said.get("inCommitTimestamp") or said.get("timestamp"):
            return datetime.fromtimestamp(at / 1000, UTC)
    return place.written(name)


def version_at(place: Place, root: str, at: datetime) -> int:
    """The newest version of that moment. Raises ``DataUnavailable`` where the log has none as old."""
    versions = commits(place)
    if not versions:
        raise DataUnavailable(
            f"the log of {root} tells no times", mend="name the version: @NUMBER, or none for the newest"
        )
    count = bisect_right(versions, at, key=lambda version: made(place, version))
    if not count:
        raise DataUnavailable(
            f"{root} has no version as old as {at.isoformat()}",
            mend=f"the oldest that its log still holds is {versions[0]}, of {made(place, versions[0]).isoformat()}",
        )
    return versions[count - 1]
