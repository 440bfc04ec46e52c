"""What MLflow shows of a run, as a page.

A run's name, its times, its data and some more stand both in a tag of Ledger's and in a place of MLflow's own. Where
the two are not the same, one of them is not what the log says, and the page has both.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from ledger.hooks.pages import STATUS, Page, Point
from ledger_mlflow import rules
from ledger_mlflow.entries import CONFIG, TAG, beginning, refused_datasets, refused_points, with_refused
from ledger_mlflow.runs import PARENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlflow.entities import Run, RunInfo

STATUSES: Final = {"running": "RUNNING", "completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_LEDGERS: Final = {shown: status for status, shown in STATUSES.items()}
OWN: Final = {
    "run/user": "mlflow.user",
    "code/entry point": "mlflow.source.name",
    "code/commit": "mlflow.source.git.commit",
    "code/branch": "mlflow.source.git.branch",
    "code/repository": "mlflow.source.git.repoURL",
}
"""Fields that MLflow's pages have a place for, under its own names of tags."""
_NAME: Final = "run/name"
_STARTED: Final = "run/started"
_REPLAY_OF: Final = "run/replay of"
_ENDED: Final = re.compile(r"attempt/(\d+)/ended")
_DATA: Final = re.compile(r"data/.+/digest(\.[0-9a-f]{8})?")
"""Some names have a part of their own digest behind them: see ``rules.name``."""
_NOTHING: Final = "nothing"


def page_in(found: Run, original: Run | None, points: Iterable[Point]) -> Page:
    """The page of a run with these points; ``original`` is what it is a replay of, where MLflow has that."""
    tags = with_refused(found.data.tags)
    fields = {key: value for key, value in tags.items() if not key.startswith(("mlflow.", "ledger.", TAG))}
    status = {STATUS: _LEDGERS.get(found.info.status, found.info.status)}
    own = _own_tags(tags) | _info(fields, found.info) | _parent(tags, original)
    own = {key: shown for key, shown in own.items() if key in fields} | _inputs(fields, found)
    return Page(
        config=found.data.params | _under(CONFIG, tags),
        fields={**fields, **status, **_with_own(fields, own)},
        tags=tuple(_under(TAG, tags).values()),
        points=(*points, *refused_points(tags)),
    )


def last_end(fields: Iterable[str]) -> str | None:
    """The field with the end of the last attempt that has ended; None where none has."""
    ends = {int(found[1]): key for key in fields if (found := _ENDED.fullmatch(key))}
    return ends[max(ends)] if ends else None


def _with_own(fields: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    both = "{} in MLflow's own place, {} in the tag"
    return {
        key: both.format(shown, fields[key]) if key in fields else shown
        for key, shown in own.items()
        if fields.get(key) != shown
    }


def _own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: tags.get(place, _NOTHING) for key, place in OWN.items()}


def _parent(tags: Mapping[str, str], original: Run | None) -> dict[str, str]:
    """What the run lies under, where that is not the original."""
    parent = tags.get(PARENT, _NOTHING)
    return {} if original is None or parent == original.info.run_id else {_REPLAY_OF: parent}


def _info(fields: Mapping[str, str], info: RunInfo) -> dict[str, str]:
    ended = last_end(fields)
    times = {_STARTED: info.start_time} | ({ended: info.end_time} if ended else {})
    others = {key: shown for key, shown in times.items() if not _is_at(fields.get(key), shown)}
    told = {key: _NOTHING if shown is None else str(shown / 1000) for key, shown in others.items()}
    return {_NAME: info.run_name, **told}


def _is_at(time: str | None, milliseconds: int | None) -> bool:
    try:
        return time is not None and rules.milliseconds(time) == milliseconds
    except (ValueError, OverflowError):  # somebody has written something else into the tag
        return False


def _inputs(fields: Mapping[str, str], found: Run) -> dict[str, str]:
    """Digests of data that are not those of the run's inputs; MLflow has the beginning of a digest."""
    inputs: defaultdict[str, list[str]] = defaultdict(list)
    given = found.inputs.dataset_inputs if found.inputs else ()
    names = ((each.dataset.name, each.dataset.digest) for each in given)
    for name, digest in (*names, *refused_datasets(found.data.tags)):
        inputs[rules.name(f"data/{name}/digest")].append(digest)
    due = {key: beginning(digest) for key, digest in fields.items() if _DATA.fullmatch(key)}
    others = {key: digests[-1] for key, digests in inputs.items() if due.get(key) not in digests}
    return dict.fromkeys(due.keys() - inputs.keys(), _NOTHING) | others


def _under(prefix: str, tags: Mapping[str, str]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)}
