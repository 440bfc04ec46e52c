"""The mirror: one directory for each run with what it is, and in it one for each attempt with what it measured."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ledger.errors import Conflict, PluginUnavailable
from ledger.events import ConfigResolved, RunStarted
from ledger.files import appearing, sync_directory
from ledger.hooks.folders import reachable
from ledger.hooks.pages import Page, flat, moment, page_of
from ledger_tensorboard import records, rules
from ledger_tensorboard.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto.event_pb2 import Event

    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation, Point

_OWNER: Final = "ledger.run"
"""File with the UUID of the run whose directory this is."""
_ATTEMPT: Final = "attempt-"


class TensorBoardMirror:
    """A directory for ``tensorboard --logdir``."""

    name = "tensorboard"

    def __init__(self, directory: Path) -> None:
        self.target = os.path.abspath(directory)
        self._directory = directory
        self._folders: dict[Path, Folder] = {}

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        """By the rules of ``ledger_tensorboard.rules``."""
        return rules.adapt(page)

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """Bring what the event files do not have yet; on disk when it returns."""
        if not batch:
            return
        run_id = batch[0].stream.removeprefix("run-")
        try:
            with self._reachable():
                home = self._found_or_made(run_id, batch[0])
                self._require_all_before(home, batch[0])
                for attempt, points in _points(batch).items():
                    self._write(home / f"{_ATTEMPT}{attempt}", batch, points)
                self._write(home, batch, _described(batch, run_id))
        except BaseException:
            self.close()  # a file that ends in half a record must not be written on
            raise

    def shows(self, run_id: str) -> Page | None:
        """What TensorBoard's own reader finds, nothing thinned out."""
        with self._reachable():
            home = self._home(run_id)
            if home is None:
                return None
            page = records.page_in(_read(home))
            points: list[Point] = []
            for attempt in sorted(int(path.name.removeprefix(_ATTEMPT)) for path in home.glob(f"{_ATTEMPT}*")):
                points += records.points_in(_read(home / f"{_ATTEMPT}{attempt}"), attempt)
        return Page(page.config, page.fields, page.tags, tuple(points))

    def close(self) -> None:
        """Let go of the files."""
        for folder in self._folders.values():
            folder.close()
        self._folders.clear()

    def _write(self, path: Path, batch: Sequence[Recorded], events: Iterable[tuple[int, Event]]) -> None:
        """Bring one directory up to the end of the batch with those events that come from later than it has got."""
        folder = self._folder(path)
        if folder.position < batch[-1].position:
            folder.write((event for position, event in events if position > folder.position), batch[-1].position)

    def _require_all_before(self, home: Path, first: Recorded) -> None:
        position = self._folder(home).position
        if first.position > position + 1:
            raise Conflict(
                f"{home} has its run up to event {position} only, and was given more",
                mend="somebody has put back an older one, it seems: "
                "`ledger mirror RUN --to tensorboard --again` brings what is missing",
            )

    def _folder(self, path: Path) -> Folder:
        if path not in self._folders:
            self._folders[path] = Folder(path)
        return self._folders[path]

    def _found_or_made(self, run_id: str, first: Recorded) -> Path:
        home = self._home(run_id)
        if home is not None:
            return home
        if not isinstance(first.event, RunStarted):
            raise Conflict(
                f"{self._directory} no longer has the run {run_id}",
                mend=f"make it anew: `ledger mirror {run_id} --to tensorboard --again`",
            )
        home = self._directory / f"{_UNSAFE.sub('_', first.event.name)}-{_short(run_id)}"
        with appearing(home) as made:
            made.mkdir()
            (made / _OWNER).write_text(run_id)
        sync_directory(self._directory)
        return home

    def _home(self, run_id: str) -> Path | None:
        """The directory of a run. Raises ``Conflict`` where somebody else's has its name."""
        if not self._directory.exists():
            return None
        names = [name for name in os.listdir(self._directory) if name.endswith(f"-{_short(run_id)}")]
        for home in (self._directory / name for name in names):
            owner = home / _OWNER
            if not owner.exists() or owner.read_text() != run_id:
                raise Conflict(
                    f"{home} is not the directory of the run {run_id}", mend=f"move it away: mv {home} ELSEWHERE"
                )
            return home
        return None

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            with reachable(self._directory, self.name):
                yield
        except ModuleNotFoundError as error:
            raise PluginUnavailable(
                f"the mirror tensorboard needs a package that is not installed: {error.name}",
                mend="pip install 'training-ledger[tensorboard]'",
            ) from error


_UNSAFE: Final = re.compile(r"[^\w.-]")


def _short(run_id: str) -> str:
    """The part of a UUIDv7 that is random: two runs of one minute have the same beginning."""
    return _UNSAFE.sub("_", run_id[-12:])


def _points(batch: Sequence[Recorded]) -> dict[int, list[tuple[int, Event]]]:
    """Records of metrics, each with the position of its event, by attempt."""
    found: defaultdict[int, list[tuple[int, Event]]] = defaultdict(list)
    for recorded in batch:
        points = rules.adapt(page_of(recorded))[0].points
        for attempt in dict.fromkeys(point.attempt for point in points):
            of_attempt = (point for point in points if point.attempt == attempt)
            found[attempt] += [(recorded.position, event) for event in records.scalars(of_attempt)]
    return found


def _described(batch: Sequence[Recorded], run_id: str) -> Iterator[tuple[int, Event]]:
    """Records of all else, each with the position of its event."""
    for recorded in batch:
        page, time = rules.adapt(page_of(recorded))[0], moment(recorded.recorded_at)
        for event in records.texts(page, recorded.position, time):
            yield recorded.position, event
        if isinstance(recorded.event, ConfigResolved):
            for event in records.hparams(flat(recorded.event.config), run_id, time):
                yield recorded.position, event


def _read(path: Path) -> EventAccumulator:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator

    accumulator = EventAccumulator(str(path), size_guidance={SCALARS: 0, TENSORS: 0})
    accumulator.Reload()
    return accumulator
