"""Tags in lakeFS that say which run read a commit: asked for by ``tag_runs = true``, and never in a run's way."""

from __future__ import annotations

import re
import threading
import warnings
from typing import TYPE_CHECKING, Final

from ledger.errors import LedgerError
from ledger.events import DataCommitted
from ledger_lakefs.lake import Lake
from ledger_lakefs.uris import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.codec import Recorded

_STREAM: Final = "run-"


def tag_commits(recorded: Sequence[Recorded]) -> None:
    """Tag, from behind, the commits that these facts name; a failure is a warning."""
    wanted = [
        (each.stream.removeprefix(_STREAM), each.event)
        for each in recorded
        if isinstance(each.event, DataCommitted) and each.event.provider == "lakefs"
    ]
    if wanted:
        # Not a daemon: a short run waits at its end for the server's answer, which comes within the client's timeouts.
        threading.Thread(target=_tag, args=(wanted,), name="ledger-lakefs-tags").start()


def _tag(wanted: list[tuple[str, DataCommitted]]) -> None:
    for run, commit in wanted:
        try:
            _tag_one(Lake.found(), run, commit)
        except LedgerError as error:
            warnings.warn(f"run {run} is not tagged in lakeFS: {error}", RuntimeWarning, stacklevel=1)


def _tag_one(lake: Lake, run: str, commit: DataCommitted) -> None:
    place = Place.parse(commit.path)
    tag = f"ledger-{run}"
    # A run may read several commits of a repository: the first data set gets the plain tag.
    if not lake.tag(place.repository, tag, place.commit):
        lake.tag(place.repository, f"{tag}-{re.sub(r'[^A-Za-z0-9_-]', '_', commit.name)}", place.commit)
