"""What W&B shows of a run, from its files or from its server, as a page."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from ledger.hooks.folders import not_ours
from ledger.hooks.pages import Page, Point
from ledger_wandb import client
from ledger_wandb.limits import OURS
from ledger_wandb.records import ATTEMPT, FIRST, MARK, STEP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ledger.hooks.pages import Scalar
    from ledger_wandb.records import Place


def in_files(files: Sequence[Path]) -> Page:
    """The page in a run's files, as W&B's own tool reads them."""
    return _page(chain.from_iterable(_inspected(path) for path in files))


def on_server(base_url: str, place: Place) -> Page | None:
    """The page on the server, as W&B's public API reads it; None where it has no such run."""
    found = client.server_has(base_url, place, history=True)
    return None if found is None else _page(found)


def _inspected(path: Path) -> list[dict[str, Any]]:
    found = client.inspect(path)
    if not any(MARK in record["summary"]["update"] for record in found if record["type"] == "summary"):
        raise not_ours(path.parent, "wandb")
    return found


def _page(records: Iterable[Mapping[str, Any]]) -> Page:
    config: dict[str, Scalar] = {}
    summary: dict[str, Any] = {}
    points: list[Point] = []
    tags: list[str] = []
    for record in records:
        match record["type"]:
            case "run":
                tags = record["run"].get("tags", [])
                config |= record["run"]["config"]["update"]
            case "config":
                config |= record["config"]["update"]
            case "summary":
                summary |= record["summary"]["update"]
            case "history":
                points += _points(record["history"]["item"])
    config.pop(FIRST, None)
    return Page(config, _fields(summary), tuple(tags), tuple(points))


def _fields(summary: Mapping[str, Any]) -> dict[str, Scalar]:
    own = (STEP, ATTEMPT, MARK)
    return {key.removeprefix(OURS): value for key, value in summary.items() if key.startswith(OURS) and key not in own}


def _points(row: Mapping[str, Any]) -> Iterator[Point]:
    """The points in a row of the history; what is not finite W&B shows as text."""
    for key, value in row.items():
        if not key.startswith(("_", OURS)):
            yield Point(key, row[STEP], row["_timestamp"], float(value), int(row[ATTEMPT]))
