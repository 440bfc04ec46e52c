"""The mirror: a run of Ledger's is a run of MLflow's, found again by a tag.

The tag ``ledger.position`` says up to which event of the log the run has been brought, and is moved last: what comes
again is left out. What was begun and not finished before that is sent again, and MLflow keeps one of what is equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.events import DataCommitted
from ledger.hooks.pages import STATUS, Page, Point, page_of, whole_page
from ledger_mlflow import rules
from ledger_mlflow.entries import TAG, Entries, adaptations
from ledger_mlflow.runs import POSITION, Runs
from ledger_mlflow.shown import OWN, STATUSES, last_end, page_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlflow.entities import Run

    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation, Scalar
    from ledger_mlflow.place import Place


@dataclass
class _Target:
    """A run of MLflow's that is being written to."""

    id: str
    position: int
    """Of the last event that it has."""


class MlflowMirror:
    """Runs in one experiment of an MLflow server."""

    name = "mlflow"

    def __init__(self, place: Place) -> None:
        self.target = f"{place.address} experiment {place.experiment}"
        self._runs = Runs(place)
        self._targets: dict[str, _Target] = {}

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        """By the rules of ``ledger_mlflow.rules``."""
        return rules.adapt(page)

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """Bring what MLflow does not have yet."""
        if not batch:
            return
        run_id = batch[0].stream.removeprefix("run-")
        # Taken out, and put back if all goes well: else it is looked up again.
        target = self._targets.pop(run_id, None) or self._opened(run_id, batch[0])
        if batch[0].position > target.position + 1:
            raise self._runs.left_behind(run_id, target.position)
        fresh = [recorded for recorded in batch if recorded.position > target.position]
        if fresh:
            self._write(target, fresh)
        self._targets[run_id] = target

    def shows(self, run_id: str) -> Page | None:
        """Everything that MLflow has of the run, page by page."""
        found = self._runs.find(run_id)
        if found is not None:
            return page_in(found, self._runs.original_of(found), self._points(found))
        if self._runs.is_deleted(run_id):
            raise self._runs.missing(run_id)
        return None

    def noted(self, run_id: str) -> Sequence[Adaptation]:
        """See ``Noting.noted``: parameters that were set again, and what this server refuses."""
        found = self._runs.find(run_id)
        return adaptations(found.data.tags) if found else ()

    def close(self) -> None:
        """Nothing waits: a batch that was delivered is there."""
        self._targets.clear()

    # --- writing ---------------------------------------------------------------------------------------------

    def _opened(self, run_id: str, first: Recorded) -> _Target:
        run = self._runs.found_or_made(run_id, first)
        target = _Target(run.info.run_id, int(run.data.tags[POSITION]))
        if target.position < 0:
            self._runs.join_replays(run)
        return target

    def _write(self, target: _Target, fresh: Sequence[Recorded]) -> None:
        page, _ = self.adapt(whole_page(map(page_of, fresh)))
        entries = Entries(self._runs.server, target.id)
        entries.config(page.config)
        entries.points(page.points)
        entries.tags(_tags(page))
        entries.datasets(each.event for each in fresh if isinstance(each.event, DataCommitted))
        self._set_status(target, page.fields)
        entries.tags({POSITION: str(fresh[-1].position)})
        target.position = fresh[-1].position

    def _set_status(self, target: _Target, fields: Mapping[str, Scalar]) -> None:
        if STATUS not in fields:
            return
        server, status, ended = self._runs.server, STATUSES[str(fields[STATUS])], last_end(fields)
        if ended is None:
            server.call("the status", server.client.update_run, target.id, status)
        else:  # also of a run that goes on: MLflow keeps the end of the attempt before
            end = rules.milliseconds(fields[ended])
            server.call("the status", server.client.set_terminated, target.id, status, end)

    # --- reading ---------------------------------------------------------------------------------------------

    def _points(self, found: Run) -> Iterator[Point]:
        server = self._runs.server
        for metric in found.data.metrics:
            what = f"the metric {metric}"
            for each in server.call(what, server.client.get_metric_history, found.info.run_id, metric):
                yield Point(metric, each.step, each.timestamp / 1000, each.value + 0.0, 1)


def _tags(page: Page) -> dict[str, str]:
    fields = {key: str(value) for key, value in page.fields.items() if key != STATUS}
    own = {OWN[key]: value for key, value in fields.items() if key in OWN}
    return fields | own | {TAG + rules.name(tag): tag for tag in page.tags}
