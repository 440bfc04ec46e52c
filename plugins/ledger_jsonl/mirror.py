"""One file for each run, one line for each value, field, tag and point. Nothing is adapted: JSON lines hold it all.

The first line says whose file it is. Each of the others says which event it came from and which of that event's lines
it is, so that the file itself tells how far it got: a line that a crash has torn is cut off, and what the end of the
file has is not written again.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any, Final

from ledger.codec import canonical_json
from ledger.errors import Conflict
from ledger.files import sync_directory
from ledger.hooks.folders import not_ours, reachable
from ledger.hooks.pages import Page, Point, page_of
from ledger_jsonl.tail import whole_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation, Scalar

_NOTHING_YET: Final = (-1, 0)
"""Place before the first line: the position of an event, and how many of its lines are written."""


class JsonLines:
    """A directory with the file ``<UUID>.jsonl`` for each run. Implements ``Mirror``."""

    name = "jsonl"

    def __init__(self, directory: Path) -> None:
        self.target = os.path.abspath(directory)
        self._directory = directory

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """See ``Mirror.deliver``. On disk, not only written, when it returns."""
        run = batch[0].stream.removeprefix("run-")
        path = self._path(run)
        with reachable(path, self.name):
            self._directory.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            with path.open("a+b") as file:
                _append(file, path, run, batch)
                os.fsync(file.fileno())
            if new:
                sync_directory(self._directory)

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        """See ``Mirror.adapt``: everything is shown as it is."""
        return page, ()

    def shows(self, run_id: str) -> Page | None:
        """See ``Mirror.shows``."""
        path = self._path(run_id)
        with reachable(path, self.name):
            if not self._directory.exists():
                return None
            os.listdir(self._directory)  # a directory that cannot be read is no directory without that run
            if not path.exists():
                return None
            lines = path.read_bytes().split(b"\n")[:-1]  # after the last end of a line nothing counts
        if not lines or lines[0] != _header(run_id):
            raise not_ours(path, "jsonl")
        try:
            return _page(map(json.loads, lines[1:]))
        except (ValueError, TypeError, KeyError) as error:
            raise not_ours(path, "jsonl") from error

    def close(self) -> None:
        """Nothing is kept open."""

    def _path(self, run: str) -> Path:
        if not run.replace("-", "").isalnum():
            raise Conflict(f"{run!r} is no UUID of a run, and so no name of a file", mend="verify it: `ledger verify`")
        return self._directory / f"{run}.jsonl"


def _append(file: BinaryIO, path: Path, run: str, batch: Sequence[Recorded]) -> None:
    header = _header(run)
    end, last = whole_end(file)
    file.seek(0)
    if not (header + b"\n").startswith(file.read(len(header) + 1)):
        raise not_ours(path, "jsonl")
    if end == 0 and batch[0].position > 0:
        raise Conflict(
            f"{path} is not there, though the beginning of its run was delivered",
            mend="somebody has removed it: `ledger mirror RUN --to jsonl --again` writes all of it anew",
        )
    position, written = _NOTHING_YET if last in (b"", header) else _place(last, path)
    lines = [header] if end == 0 else []
    for recorded in batch:
        if recorded.position >= position:
            lines += _lines(recorded)[written if recorded.position == position else 0 :]
    file.truncate(end)
    file.write(b"".join(line + b"\n" for line in lines))
    file.flush()


def _place(last: bytes, path: Path) -> tuple[int, int]:
    try:
        position, number = json.loads(last)["event"]
        return int(position), int(number) + 1
    except (ValueError, TypeError, KeyError) as error:
        raise not_ours(path, "jsonl") from error


def _lines(recorded: Recorded) -> list[bytes]:
    """What one event adds, each line with the place at which it stands."""
    page = page_of(recorded)
    told: list[dict[str, Any]] = [{"config": key} | _value(value) for key, value in page.config.items()]
    told += [{"field": key} | _value(value) for key, value in page.fields.items()]
    told += [{"tag": tag} for tag in page.tags]
    told += [
        {"metric": point.metric, "attempt": point.attempt, "time": point.time}
        | {"step": _number(point.step), "value": _number(point.value)}
        for point in page.points
    ]
    return [canonical_json(line | {"event": [recorded.position, number]}) for number, line in enumerate(told)]


def _page(lines: Iterable[Mapping[str, Any]]) -> Page:
    config: dict[str, Scalar] = {}
    fields: dict[str, Scalar] = {}
    tags: dict[str, None] = {}
    points: list[Point] = []
    for line in lines:
        if "config" in line:
            config[line["config"]] = _scalar(line)
        elif "field" in line:
            fields[line["field"]] = _scalar(line)
        elif "tag" in line:
            tags[line["tag"]] = None
        else:
            step, value = _read_number(line["step"]), float(line["value"])
            points.append(Point(line["metric"], step, line["time"], value, line["attempt"]))
    return Page(config, fields, tuple(tags), tuple(points))


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinities: as everywhere in Ledger, they are text."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _read_number(value: float | str) -> float:
    return float(value) if isinstance(value, str) else value


def _value(value: Scalar) -> dict[str, Any]:
    """A number that JSON lacks goes under another key: a text may say NaN, too."""
    infinite = isinstance(value, float) and not math.isfinite(value)
    return {"number": _number(value)} if infinite else {"value": value}  # type: ignore[arg-type]


def _scalar(line: Mapping[str, Any]) -> Scalar:
    return float(line["number"]) if "number" in line else line["value"]


def _header(run: str) -> bytes:
    return canonical_json({"format": 1, "run": run, "written by": "training-ledger"})
