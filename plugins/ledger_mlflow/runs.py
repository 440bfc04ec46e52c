"""The runs of one experiment: found again by a tag, made once, replays under their originals.

The tag ``ledger.position`` says up to which event of the log a run has been brought. It is there from the beginning,
which tells Ledger's runs from others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.errors import Conflict, Unavailable
from ledger.events import RunStarted
from ledger.hooks.pages import page_of
from ledger_mlflow import rules
from ledger_mlflow.server import Refused, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlflow.entities import Run

    from ledger.codec import Recorded
    from ledger_mlflow.place import Place

RUN_ID: Final = "ledger.run_id"
POSITION: Final = "ledger.position"
PARENT: Final = "mlflow.parentRunId"
_REPLAY_OF: Final = "ledger.replay_of"
_PAGE: Final = 100
"""Runs in one answer to a search."""


class Runs:
    """Connects when it is first asked."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._server: Server | None = None
        self._experiment: str | None = None

    @property
    def server(self) -> Server:
        """The server that has them."""
        if self._server is None:
            self._server = Server(self._place)
        return self._server

    def find(self, run_id: str) -> Run | None:
        """The one run with this UUID. Raises ``Conflict`` where there are several, or another's."""
        found = list(self._tagged(RUN_ID, run_id))
        others = [run for run in found if not _is_ledgers(run)]
        if others:
            raise Conflict(
                f"MLflow at {self._place.address} has runs that Ledger has not made with the tag {RUN_ID} = {run_id}: "
                f"{_ids(others)}",
                mend="take the tag from them, or delete them in MLflow",
            )
        if len(found) > 1:
            raise Conflict(
                f"MLflow at {self._place.address} has copies of the run {run_id}: {_ids(found)}",
                mend="delete all but one of them in MLflow",
            )
        return found[0] if found else None

    def is_deleted(self, run_id: str) -> bool:
        """Whether MLflow has it among what was deleted."""
        return any(self._tagged(RUN_ID, run_id, deleted=True))

    def missing(self, run_id: str) -> Conflict:
        """What to say where the run ought to be there."""
        deleted = next(self._tagged(RUN_ID, run_id, deleted=True), None)
        what = "was deleted in" if deleted else "is no longer in"
        restore = f"`mlflow runs restore --run-id {deleted.info.run_id}`, or " if deleted else ""
        return Conflict(
            f"the run {run_id} {what} MLflow at {self._place.address}",
            mend=f"{restore}make it anew: `ledger mirror {run_id} --to mlflow --again`",
        )

    def left_behind(self, run_id: str, position: int) -> Conflict:
        """What to say where MLflow has less of the run than it was given."""
        return Conflict(
            f"MLflow at {self._place.address} has the run {run_id} up to event {position} only, and was given more",
            mend="its database is an older one, it seems: "
            f"`ledger mirror {run_id} --to mlflow --again` brings what is missing",
        )

    def found_or_made(self, run_id: str, first: Recorded) -> Run:
        """The run with this UUID; a new one where ``first``, the first event of a batch, is that of the run."""
        found = self.find(run_id)
        if found is not None:
            return found
        if not isinstance(first.event, RunStarted):
            raise self.missing(run_id)
        return self._made(run_id, first.event, first)

    def join_replays(self, run: Run) -> None:
        """Put it under its original, and its replays under it, as far as MLflow has them.

        Done once it is there, so that of two that come at the same moment the later one sees the other.
        """
        original = self.original_of(run)
        if original is not None:
            self._put_under(original, run)
        for replay in self._tagged(_REPLAY_OF, run.data.tags[RUN_ID]):
            self._put_under(run, replay)

    def original_of(self, run: Run) -> Run | None:
        """What it is a replay of, if MLflow has that."""
        tags = run.data.tags
        return next(filter(_is_ledgers, self._tagged(RUN_ID, tags[_REPLAY_OF])), None) if _REPLAY_OF in tags else None

    def _put_under(self, original: Run, replay: Run) -> None:
        set_tag = self.server.client.set_tag
        self.server.call("the parent of a replay", set_tag, replay.info.run_id, PARENT, original.info.run_id)

    def _made(self, run_id: str, started: RunStarted, recorded: Recorded) -> Run:
        if self._experiment_id() is None:
            self._make_experiment()
        tags = {RUN_ID: run_id, POSITION: "-1"} | ({_REPLAY_OF: started.replay_of} if started.replay_of else {})
        fields = rules.adapt(page_of(recorded))[0].fields
        return self.server.call(
            "a new run",
            self.server.client.create_run,
            self._experiment,
            start_time=rules.milliseconds(fields["run/started"]),
            run_name=str(fields["run/name"]),
            tags=tags,
        )

    def _experiment_id(self) -> str | None:
        """Of the experiment, if there is one."""
        if self._experiment is None:
            found = self.server.call(
                "the experiment", self.server.client.get_experiment_by_name, self._place.experiment
            )
            if found is not None and found.lifecycle_stage != "active":
                raise Unavailable(
                    f"the experiment {self._place.experiment!r} was deleted in MLflow at {self._place.address}",
                    mend=f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or name another one "
                    "in [plugin.mlflow] experiment",
                )
            self._experiment = found.experiment_id if found else None
        return self._experiment

    def _make_experiment(self) -> None:
        create = self.server.client.create_experiment
        try:
            self._experiment = self.server.call("the experiment", create, self._place.experiment)
        except Refused:
            if self._experiment_id() is None:  # else somebody else was first
                raise

    def _tagged(self, key: str, value: str, *, deleted: bool = False) -> Iterator[Run]:
        """Page by page, as they are asked for."""
        experiment = self._experiment_id()
        if experiment is None:
            return
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        ask = [[experiment], f"tags.`{key}` = '{value}'", view, _PAGE]
        page = self.server.call("the run", self.server.client.search_runs, *ask)
        yield from page
        while page.token:
            page = self.server.call("the run", self.server.client.search_runs, *ask, page_token=page.token)
            yield from page


def _is_ledgers(run: Run) -> bool:
    return POSITION in run.data.tags


def _ids(runs: Sequence[Run]) -> str:
    return ", ".join(run.info.run_id for run in runs)
