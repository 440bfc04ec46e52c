from __future__ import annotations

import functools
import http.server
import sys
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import new_id
from ledger.errors import Conflict, InvalidSettings, PluginUnavailable, Unavailable
from ledger.events import ConfigResolved, DataCommitted, MetricsLogged, RunCompleted, RunFailed, RunInterrupted
from ledger.hooks.differences import differences
from ledger.hooks.pages import page_of
from ledger.mirror import asking
from ledger.testing.builders import logged, resumed, run_started, stream
from ledger.testing.mirrors import BaseMirrorTests, expected_page
from ledger_mlflow import rules, runs
from ledger_mlflow.entries import Entries, _parts
from ledger_mlflow.mirror import MlflowMirror
from ledger_mlflow.place import Place, find_place
from ledger_mlflow.runs import PARENT, POSITION, RUN_ID
from tests.servers import BadNetwork, Mlflow, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ledger.codec import Recorded
    from ledger.hooks.ports import Mirror

PASSWORD = "open-sesame"
ENDED = "attempt/1/ended"
ALL_METHODS = ("GET", "POST", "PATCH")


@pytest.fixture(scope="session")
def network(mlflow_service: Mlflow) -> Iterator[BadNetwork]:
    """A proxy before the server, good until a test says otherwise."""
    with BadNetwork(mlflow_service.port, "unavailable", 1, methods=()) as proxy:
        yield proxy


@pytest.fixture
def place(network: BadNetwork) -> Place:
    return Place(f"http://ada:{PASSWORD}@127.0.0.1:{network.port}", f"experiment {uuid4().hex[:8]}")


@pytest.fixture
def tracker(place: Place) -> Tracker:
    return Tracker(place)


class Tracker:
    """MLflow as its own users have it, through its own client."""

    def __init__(self, place: Place) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(place.uri)
        self._name = place.experiment

    def experiment(self) -> str:
        found = self.client.get_experiment_by_name(self._name)
        return found.experiment_id if found else self.client.create_experiment(self._name)

    def run(self, run_id: str) -> Any:
        (found,) = self.client.search_runs([self.experiment()], f"tags.`{RUN_ID}` = '{run_id}'")
        return self.client.get_run(found.info.run_id)


class TestMirror(BaseMirrorTests):
    client = "mlflow"
    secrets = (PASSWORD,)

    @pytest.fixture
    def open_mirror(self, place: Place) -> Callable[[], Mirror]:
        return functools.partial(MlflowMirror, place)

    @pytest.fixture
    def unreachable(self, network: BadNetwork) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def away() -> Iterator[None]:
            network.begin(ALL_METHODS)
            yield
            network.begin(())

        return away

    @pytest.fixture
    def occupy(self, tracker: Tracker) -> Callable[[str], None]:
        def make(run: str) -> None:
            tracker.client.create_run(tracker.experiment(), tags={RUN_ID: run})

        return make

    @pytest.mark.slow
    def test_killed_on_the_way_and_restarted_it_is_shown_once(self, open_mirror: Callable[[], Mirror]) -> None:
        super().test_killed_on_the_way_and_restarted_it_is_shown_once(open_mirror)


def deliver(place: Place, *batches: Sequence[Recorded]) -> None:
    with closing(MlflowMirror(place)) as mirror:
        for batch in batches:
            mirror.deliver(batch)


def wrong(place: Place, events: Sequence[Recorded]) -> list[Any]:
    with closing(MlflowMirror(place)) as mirror:
        shown = mirror.shows(events[0].stream.removeprefix("run-"))
        assert shown is not None
        return differences(expected_page(mirror, events), shown)


def shown_otherwise(place: Place, events: Sequence[Recorded]) -> dict[str, str]:
    return {each.what: each.shown for each in wrong(place, events)}


# --- how a run looks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (RunCompleted(step=1), "FINISHED"),
        (RunFailed(exception="Boom"), "FAILED"),
        (RunInterrupted(signal="SIGTERM", step=1), "KILLED"),
    ],
)
def test_status_and_times_are_those_of_the_log(place: Place, tracker: Tracker, end: Any, status: str) -> None:
    run = new_id()
    events = stream([run_started(name="run-7"), end], run_id=run)
    deliver(place, events[:1])
    assert tracker.run(run).info.status == "RUNNING"
    deliver(place, events[1:])
    info = tracker.run(run).info
    assert (info.run_name, info.status) == ("run-7", status)
    assert info.start_time == round(1000 * float(page_of(events[0]).fields["run/started"]))
    assert info.end_time == round(1000 * float(page_of(events[1]).fields[ENDED]))


def test_a_resumed_run_is_running_again(place: Place, tracker: Tracker) -> None:
    run = new_id()
    events = stream([run_started(), RunInterrupted(signal="SIGTERM", step=1), resumed(2, 1)], run_id=run)
    deliver(place, events[:2], events[2:])
    assert tracker.run(run).info.status == "RUNNING"


def test_the_end_of_an_attempt_stays_however_the_events_come(place: Place, tracker: Tracker) -> None:
    facts = [run_started(), RunInterrupted(signal="SIGTERM", step=1), resumed(2, 1)]
    for cut in (1, 2, 3):
        run = new_id()
        events = stream(facts, run_id=run)
        deliver(place, events[:cut], events[cut:])
        info = tracker.run(run).info
        assert (info.status, info.end_time) == ("RUNNING", rules.milliseconds(page_of(events[1]).fields[ENDED]))
        assert wrong(place, events) == []


@pytest.mark.parametrize("original_first", [True, False])
def test_a_replay_lies_under_its_original(place: Place, tracker: Tracker, original_first: bool) -> None:
    original, replay = new_id(), new_id()
    batches = [
        stream([run_started()], run_id=original),
        stream([run_started(kind="replay", replay_of=original)], run_id=replay),
    ]
    deliver(place, *(batches if original_first else reversed(batches)))
    assert tracker.run(replay).data.tags[PARENT] == tracker.run(original).info.run_id


def test_all_replays_that_came_first_lie_under_their_original(
    place: Place, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_PAGE", 2)
    original, replays = new_id(), [new_id() for _ in range(5)]
    deliver(place, *(stream([run_started(kind="replay", replay_of=original)], run_id=each) for each in replays))
    deliver(place, stream([run_started()], run_id=original))
    assert {tracker.run(each).data.tags[PARENT] for each in replays} == {tracker.run(original).info.run_id}


def test_a_replay_that_is_made_while_its_original_is_lies_under_it(place: Place, tracker: Tracker) -> None:
    """Neither was there when the other one looked for it the first time."""
    original, replay = new_id(), new_id()
    ours = runs.Runs(place)
    made = ours.found_or_made(replay, stream([run_started(kind="replay", replay_of=original)], run_id=replay)[0])
    first = ours.found_or_made(original, stream([run_started()], run_id=original)[0])
    ours.join_replays(made)
    assert tracker.run(replay).data.tags[PARENT] == first.info.run_id


def data(role: str, *, name: str = "corpus", digest: str = "6b" * 32) -> DataCommitted:
    return DataCommitted(
        name=name, role=role, uri="file:corpus", commit="c0ffee", path="corpus", digest=digest, files=3, bytes=7,
        provider="local", provider_version="1",
    )  # fmt: skip


def test_inputs_that_the_server_refuses_are_kept_as_text(place: Place, tracker: Tracker) -> None:
    run = new_id()
    events = stream([run_started(), data("r" * 600), data("test", name="other")], run_id=run)
    with pytest.warns(RuntimeWarning, match="MLflow refuses the input corpus, a tag keeps it"):
        deliver(place, events)
    assert [each.dataset.name for each in tracker.run(run).inputs.dataset_inputs] == ["other"]
    assert wrong(place, events) == []
    assert ("input corpus", rules.KEPT) in noted(place, run)


def test_data_are_inputs_of_the_run(place: Place, tracker: Tracker) -> None:
    run = new_id()
    events = stream([run_started(), data("train")], run_id=run)
    deliver(place, events)
    deliver(place, events)
    (given,) = tracker.run(run).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("corpus", ("6b" * 32)[:36])
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "train")]


def test_mlflows_own_places_are_filled(place: Place, tracker: Tracker) -> None:
    run = new_id()
    deliver(place, stream([run_started(user="ada")], run_id=run))
    assert tracker.run(run).data.tags["mlflow.user"] == "ada"


def test_what_stands_otherwise_in_mlflows_own_places_is_told(place: Place, tracker: Tracker) -> None:
    run = new_id()
    events = stream([run_started(name="run-7", user="ada"), data("train"), RunCompleted(step=1)], run_id=run)
    deliver(place, events)
    assert wrong(place, events) == []
    found = tracker.run(run)
    tracker.client.update_run(found.info.run_id, name="mine")
    tracker.client.set_terminated(found.info.run_id, "FINISHED", found.info.end_time + 1)
    tracker.client.set_tag(found.info.run_id, "mlflow.user", "bob")
    tracker.client.set_tag(found.info.run_id, "run/started", "yesterday")
    tracker.client.set_tag(found.info.run_id, "run/id", "another")
    told = shown_otherwise(place, events)
    assert told.keys() == {"run/name", "run/user", "run/started", "run/id", ENDED}
    assert told["run/name"] == repr("mine in MLflow's own place, run-7 in the tag")
    assert told["run/user"] == repr("bob in MLflow's own place, ada in the tag")
    assert str((found.info.end_time + 1) / 1000) in told[ENDED]
    assert "yesterday in the tag" in told["run/started"]


@pytest.mark.parametrize("name", ["corpus", "corpus@2"])
def test_inputs_that_are_not_those_of_the_log_are_told(place: Place, tracker: Tracker, name: str) -> None:
    run = new_id()
    events = stream([run_started(), data("train", name=name)], run_id=run)
    with pytest.MonkeyPatch.context() as patch:  # MLflow lets nobody take an input away
        patch.setattr(Entries, "datasets", lambda *_: None)
        deliver(place, events)
    entries = Entries(runs.Runs(place).server, tracker.run(run).info.run_id)
    key = rules.name(f"data/{name}/digest")
    assert "nothing in MLflow's own place" in shown_otherwise(place, events)[key]
    entries.datasets([data("train", name=name, digest="7c" * 32)])
    assert "7c" * 18 in shown_otherwise(place, events)[key]
    entries.datasets([data("train", name=name)])
    assert shown_otherwise(place, events) == {}
    entries.datasets([data("test", name="more")])
    assert shown_otherwise(place, events) == {"data/more/digest": repr("6b" * 18)}


def test_a_replay_that_somebody_moved_is_told(place: Place, tracker: Tracker) -> None:
    original, replay = new_id(), new_id()
    events = stream([run_started(kind="replay", replay_of=original)], run_id=replay)
    deliver(place, stream([run_started()], run_id=original), events)
    assert wrong(place, events) == []
    tracker.client.delete_tag(tracker.run(replay).info.run_id, PARENT)
    assert "nothing in MLflow's own place" in shown_otherwise(place, events)["run/replay of"]


# --- what MLflow cannot hold -------------------------------------------------------------------------------------


def noted(place: Place, run: str) -> set[tuple[str, str]]:
    with closing(MlflowMirror(place)) as mirror:
        return {(each.what, each.rule) for each in asking.noted(mirror, run)}


def test_a_parameter_that_is_set_again_shows_its_newest_value(place: Place, tracker: Tracker) -> None:
    run = new_id()
    config = [ConfigResolved(config={"lr": lr, "size": 3}, digest="6b" * 32) for lr in (1.0, 2.0, 1.0)]
    events = stream([run_started(), *config], run_id=run)
    for end in (2, 3, 4):
        deliver(place, events[:end])
        assert wrong(place, events[:end]) == []
        assert noted(place, run) == ({("parameter lr", rules.AGAIN)} if end > 2 else set())
    assert tracker.run(run).data.params == {"lr": "1.0", "size": "3"}
    assert tracker.run(run).data.tags["ledger.config/lr"] == "1.0"


def test_what_the_server_refuses_is_kept_as_text(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule for names the server refuses some, as one of another version may."""
    monkeypatch.setattr(rules, "name", lambda text: text)
    points = {float(step): {"loss": 1 / (step + 1)} for step in range(30)} | {30.0: {"recall@5": 0.25}}
    facts = [run_started(tags=("a@b",)), ConfigResolved(config={"lr": 1.0, "x@y": 2.0}, digest="6b" * 32)]
    run = new_id()
    events = stream([*facts, logged(points)], run_id=run)
    with pytest.warns(RuntimeWarning, match="MLflow refuses the metric recall@5, a tag keeps it"):
        deliver(place, events)
    assert wrong(place, events) == []
    kept = {"metric recall@5", "tag tag/a@b", "tag ledger.config/x@y"}
    assert noted(place, run) == {(what, rules.KEPT) for what in kept}


def test_of_what_the_server_refuses_the_newest_value_counts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "name", lambda text: text)
    old = data("train").model_copy(update={"name": "x@y"})
    new = {"uri": "file:other", "commit": "decade", "path": "other", "digest": "7c" * 32, "files": 4, "bytes": 8}
    events = stream([run_started(), old, old.model_copy(update=new), old], run_id=new_id())
    with pytest.warns(RuntimeWarning, match="MLflow refuses the tag data/x@y/commit"):
        deliver(place, events[:2], events[2:3], events[3:])
    assert wrong(place, events) == []


def test_nothing_is_noted_of_a_run_that_is_not_there(place: Place) -> None:
    assert noted(place, new_id()) == set()


def test_points_in_another_order_than_their_times_are_no_difference(place: Place) -> None:
    """MLflow knows no order of arrival; clocks are set back, and ranks have their own."""
    event = MetricsLogged(step=(1, 2, 3), time=(1e9 + 5, 1e9 + 3, 1e9 + 4), values={"loss": (0.3, 0.2, 0.1)})
    events = stream([run_started(), event], run_id=new_id())
    deliver(place, events)
    assert wrong(place, events) == []


def test_equal_points_of_one_millisecond_are_no_difference(place: Place) -> None:
    times = (1e9, 1e9 + 1e-5, 1e9 + 2e-5)
    event = MetricsLogged(step=(0.1, 0.2, 0.3), time=times, values={"lr": (0.5, 0.5, 0.5)})
    events = stream([run_started(), event], run_id=new_id())
    deliver(place, events)
    assert wrong(place, events) == []


@pytest.mark.slow
def test_a_long_history_is_read_back_whole(place: Place) -> None:
    """MLflow answers with 25,000 points at a time."""
    rows = 26_000
    event = MetricsLogged(
        step=tuple(range(rows)),
        time=tuple(1e9 + n for n in range(rows)),
        values={"loss": tuple(map(float, range(rows)))},
    )
    events = stream([run_started(), event], run_id=new_id())
    deliver(place, events)
    assert wrong(place, events) == []


@given(st.lists(st.integers(1, 400_000)), st.integers(1, 100))
def test_requests_hold_what_one_can_carry(sizes: list[int], most: int) -> None:
    parts = list(_parts(sizes, most, lambda size: size))
    assert [size for part in parts for size in part] == sizes
    assert all(len(part) <= most and (len(part) == 1 or sum(part) <= 500_000) for part in parts)


# --- what can go wrong -------------------------------------------------------------------------------------------


def told(place: Place, kind: type[Exception] = Unavailable, run: str = "") -> str:
    """What a delivery says that cannot be made, with the mend; it is told soon."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        deliver(place, stream([run_started()], run_id=run or new_id()))
    assert time.monotonic() - began < 20
    assert caught.value.mend
    return f"{caught.value} – {caught.value.mend}"


def test_nobody_listens(place: Place) -> None:
    message = told(Place(f"http://ada:{PASSWORD}@127.0.0.1:{free_port()}", place.experiment))
    assert "cannot be reached (ConnectionError)" in message
    assert "MLFLOW_TRACKING_URI" in message
    assert PASSWORD not in message


def test_the_client_is_not_installed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert "pip install 'training-ledger[mlflow]'" in told(place, PluginUnavailable)
    with pytest.raises(PluginUnavailable):
        MlflowMirror(place).shows(new_id())


@pytest.mark.parametrize("status", [200, 404])
def test_who_listens_is_not_mlflow(place: Place, status: int) -> None:
    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        message = told(Place(f"http://127.0.0.1:{server.server_address[1]}", place.experiment))
        server.shutdown()
    assert "is not MLflow" in message


@pytest.mark.parametrize("lost", range(1, 7))
def test_an_answer_that_is_lost_makes_no_second_run(
    mlflow_service: Mlflow, tracker: Tracker, place: Place, lost: int
) -> None:
    """Search, make, look for replays, metrics, tags, position: each got through, and nobody heard of it."""
    run = new_id()
    events = stream([run_started(), logged({1.0: {"loss": 0.5}})], run_id=run)
    tracker.experiment()
    with BadNetwork(mlflow_service.port, "deaf", 1) as deaf:
        deaf.begin(("POST",), after=lost - 1)
        through = Place(f"http://127.0.0.1:{deaf.port}", place.experiment)
        with pytest.raises(Unavailable):
            deliver(through, events)
        deaf.begin(())
        deliver(through, events)
    assert wrong(place, events) == []
    assert tracker.run(run).data.tags[POSITION] == "1"


def test_two_runs_with_the_tag_are_a_conflict(place: Place, tracker: Tracker) -> None:
    run = new_id()
    events = stream([run_started()], run_id=run)
    deliver(place, events)
    tracker.client.create_run(tracker.experiment(), tags={RUN_ID: run, POSITION: "-1"})
    with pytest.raises(Conflict, match="has copies of the run"):
        deliver(place, events)


def test_a_strangers_run_is_named_and_is_nobodys_original(place: Place, tracker: Tracker) -> None:
    original, replay = new_id(), new_id()
    stranger = tracker.client.create_run(tracker.experiment(), tags={RUN_ID: original}).info.run_id
    events = stream([run_started(kind="replay", replay_of=original)], run_id=replay)
    deliver(place, events)
    assert wrong(place, events) == []
    assert PARENT not in tracker.run(replay).data.tags
    assert stranger in told(place, Conflict, run=original)


def test_a_run_that_was_deleted_is_told_and_made_anew_from_its_beginning(place: Place, tracker: Tracker) -> None:
    run = new_id()
    events = stream([run_started(), logged({1.0: {"loss": 0.5}}), RunCompleted(step=1)], run_id=run)
    with closing(MlflowMirror(place)) as mirror:
        mirror.deliver(events[:2])
        tracker.client.delete_run(tracker.run(run).info.run_id)
        for call in (lambda: mirror.deliver(events[2:]), lambda: MlflowMirror(place).shows(run)):
            with pytest.raises(Conflict, match="was deleted in MLflow") as caught:
                call()
            assert "mlflow runs restore --run-id" in (caught.value.mend or "")
    with pytest.raises(Conflict, match="was deleted in MLflow"):
        deliver(place, events[2:])
    deliver(place, events)
    assert wrong(place, events) == []


def test_a_server_that_was_put_back_from_a_copy_gets_what_it_lacks_from_the_beginning(place: Place) -> None:
    events = stream([run_started(), *(logged({n: {"loss": 0.5}}) for n in range(3))], run_id=new_id())
    deliver(place, events[:2])
    with pytest.raises(Conflict, match="up to event 1 only") as caught:
        deliver(place, events[3:])
    assert "--again" in (caught.value.mend or "")
    deliver(place, events)
    assert wrong(place, events) == []


def test_an_experiment_that_was_deleted_is_told(place: Place, tracker: Tracker) -> None:
    tracker.client.delete_experiment(tracker.experiment())
    message = told(place)
    assert "was deleted in MLflow" in message
    assert "mlflow experiments restore" in message


@pytest.mark.slow
def test_a_wrong_key_is_told_and_never_echoed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\n"
        "admin_username = admin\nadmin_password = password-of-tests\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environ = {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-tests"}
    server = Mlflow(tmp_path, free_port(), ("--app-name", "basic-auth"), environ)
    server.start()
    try:
        place = Place(server.url, "guarded")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-password")
        message = told(place)
        assert "does not accept the credentials" in message
        assert "wrong-password" not in message
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password-of-tests")
        events = stream([run_started()], run_id=new_id())
        deliver(place, events)
        assert wrong(place, events) == []
        _make_user(server.url, "reader", "password-of-reader")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password-of-reader")
        assert "does not allow it to this account" in told(place)
    finally:
        server.stop()


def _make_user(url: str, name: str, password: str) -> None:
    from mlflow.server import get_app_client

    get_app_client("basic-auth", tracking_uri=url).create_user(name, password)


@pytest.mark.slow
def test_a_server_that_stops_for_half_of_the_run_gets_all_of_it(tmp_path: Path) -> None:
    server = Mlflow(tmp_path, free_port())
    place = Place(server.url, "half")
    facts = [
        run_started(),
        *(logged({float(step): {"loss": 1 / (step + 1)}}) for step in range(10)),
        RunCompleted(step=9),
    ]
    events = stream(facts, run_id=new_id())
    waiting: list[Recorded] = []
    server.start()
    with closing(MlflowMirror(place)) as mirror:
        for n, event in enumerate(events):
            if n == 4:
                server.stop()
            if n == 8:
                server.start()
            waiting.append(event)
            try:
                mirror.deliver(waiting)
            except Unavailable:
                assert 4 <= n < 8
            else:
                waiting.clear()
    assert not waiting
    assert wrong(place, events) == []
    server.stop()


# --- where it is -------------------------------------------------------------------------------------------------


def settings_of(tmp_path: Path, table: str) -> Any:
    from ledger.settings import find_settings

    (tmp_path / "ledger.toml").write_text(f'[ledger]\nproject = "kjv"\n[plugin.mlflow]\n{table}')
    return find_settings(start=tmp_path, environ={})


@pytest.fixture
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_variables")
def test_the_place_is_found_in_settings_then_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_place(settings_of(tmp_path, "")) == Place("http://127.0.0.1:5000", "kjv")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret@mlflow.example.org/")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    found = find_place(settings_of(tmp_path, ""))
    assert (found.address, found.experiment) == ("https://mlflow.example.org", "theirs")
    assert "secret" not in f"{MlflowMirror(found).target} {found}"
    written = 'tracking_uri = "http://other:1"\nexperiment = "ours"'
    assert find_place(settings_of(tmp_path, written)) == Place("http://other:1", "ours")


@pytest.mark.usefixtures("_no_variables")
@pytest.mark.parametrize(
    "table",
    [
        'tracking_url = "http://x"',
        "experiment = 3",
        'tracking_uri = "sqlite:///m.db"',
        'tracking_uri = "http://["',
        'tracking_uri = "https://"',
        'tracking_uri = "https://ada:open/sesame@mlflow.example.org"',
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, table: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        find_place(settings_of(tmp_path, table))
    assert "tracking_uri" in (caught.value.mend or "")
    assert "sesame" not in str(caught.value)
