"""The mirror: a run of Ledger's is a run of MLflow's, found again by a tag.

The tag ``ledger.position`` says up to which event of the log the run has been brought. It is there from the beginning,
which tells Ledger's runs from others, and is moved last: what comes again is left out. What was begun and not finished
before that is sent again, and MLflow keeps one of what is equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import Conflict, Unavailable
from ledger.events import DataCommitted, RunStarted
from ledger.hooks.pages import STATUS, Page, Point, page_of, whole_page
from ledger_mlflow import rules
from ledger_mlflow.entries import CONFIG, TAG, Entries, adaptations, refused_points, with_refused
from ledger_mlflow.server import Refused, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlflow.entities import Run

    from ledger.codec import Recorded
    from ledger.hooks.pages import Adaptation, Scalar
    from ledger_mlflow.place import Place

RUN_ID: Final = "ledger.run_id"
POSITION: Final = "ledger.position"
_PARENT: Final = "mlflow.parentRunId"
_REPLAY_OF: Final = "ledger.replay_of"
_STATUSES: Final = {"running": "RUNNING", "completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_LEDGERS: Final = {shown: status for status, shown in _STATUSES.items()}
_OWN: Final = {
    "run/user": "mlflow.user",
    "code/entry point": "mlflow.source.name",
    "code/commit": "mlflow.source.git.commit",
    "code/branch": "mlflow.source.git.branch",
    "code/repository": "mlflow.source.git.repoURL",
}
"""Fields that MLflow's pages have a place for, under its own names of tags."""


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
        self._place = place
        self._server: Server | None = None
        self._experiment: str | None = None
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
        target = self._targets.pop(run_id, None) or self._found_or_made(run_id, batch)
        if target.position < 0:
            self._adopt(run_id, target.id)
        fresh = [recorded for recorded in batch if recorded.position > target.position]
        if fresh:
            self._write(target, fresh)
        self._targets[run_id] = target

    def shows(self, run_id: str) -> Page | None:
        """Everything that MLflow has of the run, page by page."""
        found = self._find(run_id)
        if found is None:
            if self._tagged(RUN_ID, run_id, deleted=True):
                raise self._missing(run_id)
            return None
        tags = with_refused(found.data.tags)
        return Page(
            config=found.data.params | _under(CONFIG, tags),
            fields=_fields(tags) | {STATUS: _LEDGERS.get(found.info.status, found.info.status)},
            tags=tuple(_under(TAG, tags).values()),
            points=(*self._points(found), *refused_points(tags)),
        )

    def noted(self, run_id: str) -> Sequence[Adaptation]:
        """See ``Noting.noted``: parameters that were set again, and what this server refuses."""
        found = self._find(run_id)
        return adaptations(found.data.tags) if found else ()

    def close(self) -> None:
        """Nothing waits: a batch that was delivered is there."""
        self._targets.clear()

    # --- finding and making ----------------------------------------------------------------------------------

    def _connected(self) -> Server:
        if self._server is None:
            self._server = Server(self._place)
        return self._server

    def _experiment_id(self) -> str | None:
        """Of the experiment, if there is one."""
        if self._experiment is None:
            server = self._connected()
            found = server.call("the experiment", server.client.get_experiment_by_name, self._place.experiment)
            if found is not None and found.lifecycle_stage != "active":
                raise Unavailable(
                    f"the experiment {self._place.experiment!r} was deleted in MLflow at {self._place.address}",
                    mend=f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or name another one "
                    "in [plugin.mlflow] experiment",
                )
            self._experiment = found.experiment_id if found else None
        return self._experiment

    def _find(self, run_id: str) -> Run | None:
        """The one run with this UUID. Raises ``Conflict`` where there are several, or another's."""
        found = self._tagged(RUN_ID, run_id)
        if len(found) > 1 or any(POSITION not in run.data.tags for run in found):
            names = ", ".join(run.info.run_id for run in found)
            raise Conflict(
                f"MLflow at {self._place.address} has runs with the tag {RUN_ID} = {run_id} that Ledger has not made: "
                f"{names}",
                mend="take the tag from them, or delete them in MLflow, up to the one that shows the run",
            )
        return found[0] if found else None

    def _tagged(self, key: str, value: str, *, deleted: bool = False) -> list[Run]:
        experiment = self._experiment_id()
        if experiment is None:
            return []
        from mlflow.entities import ViewType

        server = self._connected()
        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        query = f"tags.`{key}` = '{value}'"
        return list(server.call("the run", server.client.search_runs, [experiment], query, view, max_results=100))

    def _missing(self, run_id: str) -> Conflict:
        """What to say where the run ought to be there."""
        deleted = self._tagged(RUN_ID, run_id, deleted=True)
        what = "was deleted in" if deleted else "is no longer in"
        restore = f"`mlflow runs restore --run-id {deleted[0].info.run_id}`, or " if deleted else ""
        return Conflict(
            f"the run {run_id} {what} MLflow at {self._place.address}",
            mend=f"{restore}make it anew: `ledger mirror {run_id} --to mlflow --again`",
        )

    def _found_or_made(self, run_id: str, batch: Sequence[Recorded]) -> _Target:
        found = self._find(run_id)
        if found is not None:
            return _Target(found.info.run_id, int(found.data.tags[POSITION]))
        first = batch[0]
        if not isinstance(first.event, RunStarted):
            raise self._missing(run_id)
        return _Target(self._made(run_id, first.event, first), -1)

    def _made(self, run_id: str, started: RunStarted, recorded: Recorded) -> str:
        server = self._connected()
        if self._experiment_id() is None:
            self._make_experiment(server)
        tags = {RUN_ID: run_id, POSITION: "-1", **self._parent(started.replay_of)}
        made = server.call(
            "a new run",
            server.client.create_run,
            self._experiment,
            start_time=_milliseconds(page_of(recorded).fields["run/started"]),
            run_name=started.name,
            tags=tags,
        )
        return str(made.info.run_id)

    def _make_experiment(self, server: Server) -> None:
        try:
            self._experiment = server.call("the experiment", server.client.create_experiment, self._place.experiment)
        except Refused:
            if self._experiment_id() is None:  # else somebody else was first
                raise

    def _parent(self, replay_of: str | None) -> dict[str, str]:
        """The tags that put a replay under its original, as soon as MLflow has that."""
        if replay_of is None:
            return {}
        originals = self._tagged(RUN_ID, replay_of)
        return {_REPLAY_OF: replay_of} | ({_PARENT: originals[0].info.run_id} if originals else {})

    def _adopt(self, run_id: str, original: str) -> None:
        """Put replays that MLflow had before their original under it."""
        server = self._connected()
        for replay in self._tagged(_REPLAY_OF, run_id):
            server.call("the parent of a replay", server.client.set_tag, replay.info.run_id, _PARENT, original)

    # --- writing ---------------------------------------------------------------------------------------------

    def _write(self, target: _Target, fresh: Sequence[Recorded]) -> None:
        page, _ = self.adapt(whole_page(map(page_of, fresh)))
        entries = Entries(self._connected(), target.id)
        entries.config(page.config)
        entries.points(page.points)
        entries.tags(_tags(page))
        entries.datasets([each.event for each in fresh if isinstance(each.event, DataCommitted)])
        self._set_status(target, page.fields, fresh)
        entries.tags({POSITION: str(fresh[-1].position)})
        target.position = fresh[-1].position

    def _set_status(self, target: _Target, fields: Mapping[str, Scalar], fresh: Sequence[Recorded]) -> None:
        status = fields.get(STATUS)
        if status is None:
            return
        server = self._connected()
        if status == "running":
            server.call("the status", server.client.update_run, target.id, _STATUSES["running"])
            return
        ended = max(
            _milliseconds(value)
            for recorded in fresh
            for key, value in page_of(recorded).fields.items()
            if key.startswith("attempt/") and key.endswith("/ended")
        )
        server.call("the status", server.client.set_terminated, target.id, _STATUSES[str(status)], ended)

    # --- reading ---------------------------------------------------------------------------------------------

    def _points(self, found: Run) -> Iterator[Point]:
        server = self._connected()
        for metric in found.data.metrics:
            what = f"the metric {metric}"
            for each in server.call(what, server.client.get_metric_history, found.info.run_id, metric):
                yield Point(metric, each.step, each.timestamp / 1000, each.value + 0.0, 1)


def _fields(tags: Mapping[str, str]) -> dict[str, Scalar]:
    return {key: value for key, value in tags.items() if not key.startswith(("mlflow.", "ledger.", TAG))}


def _tags(page: Page) -> dict[str, str]:
    fields = {key: str(value) for key, value in page.fields.items() if key != STATUS}
    own = {_OWN[key]: value for key, value in fields.items() if key in _OWN}
    return fields | own | {TAG + rules.name(tag): tag for tag in page.tags}


def _under(prefix: str, tags: Mapping[str, str]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)}


def _milliseconds(seconds: Scalar) -> int:
    return round(float(seconds) * 1000)
