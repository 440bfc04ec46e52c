"""A Neptune server, through Neptune's own client: answers that are lost, keys, other servers, settings."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from copy import deepcopy
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from ledger.errors import Conflict, InvalidSettings, LedgerError, NotFound, Unavailable
from ledger.events import ConfigResolved
from ledger.hooks.differences import differences
from ledger.hooks.folders import folder_of
from ledger.hooks.pages import Page, Point
from ledger.settings import Settings
from ledger.testing.builders import run_started, stream
from ledger.testing.eventful import EVENTFUL, metrics
from ledger.testing.mirrors import expected_page
from ledger_neptune import open_mirrors
from ledger_neptune.limits import adapt_for_server
from ledger_neptune.mirror import OfflineMirror, OnlineMirror
from ledger_neptune.place import Place, origin
from ledger_neptune.upload import portions
from tests.neptune_standin import KEY, PROJECT, NeptuneStandIn, key_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ledger.codec import Recorded

RUN = "01990000-0000-7000-8000-000000000001"


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[NeptuneStandIn]:
    with NeptuneStandIn() as running:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", running.key)
        monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
        yield running
        assert running.unknown == []


@pytest.fixture
def events() -> Sequence[Recorded]:
    return stream(EVENTFUL, run_id=RUN)


def opened(directory: Path, standin: NeptuneStandIn, project: str = PROJECT) -> OnlineMirror:
    return OnlineMirror(directory, Place(standin.url, project))


def wrong(mirror: OnlineMirror, events: Sequence[Recorded]) -> list[object]:
    shown = mirror.shows(RUN)
    assert shown is not None
    return list(differences(expected_page(mirror, events), shown))


# --- exactly once -----------------------------------------------------------------------------------------------


# Requests, and values of the one behind them: a claim, a delivery, its mark, another delivery, its mark.
_LOST = [(0, 0), (0, None), (1, 40), (1, None), (2, 0), (2, None), (3, 1), (3, 100), (4, None)]


@pytest.mark.slow
@pytest.mark.parametrize(("answered", "taken"), _LOST)
def test_an_answer_that_is_lost_loses_nothing_and_doubles_nothing(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn, answered: int, taken: int | None
) -> None:
    half = len(events) // 2
    standin.lose, standin.lost_values = answered, taken
    mirror = opened(tmp_path, standin)
    with pytest.raises(Unavailable) as told:
        mirror.deliver(events[:half])
        mirror.deliver(events[half:])
    assert told.value.mend
    again = opened(tmp_path, standin)
    again.deliver(events[:half])
    again.deliver(events[half:])
    assert wrong(again, events) == []
    assert standin.refused == []


def test_the_same_mirror_goes_on_after_an_answer_that_was_lost(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn
) -> None:
    mirror = opened(tmp_path, standin)
    for _ in ("the claim", "the delivery", "its mark"):
        standin.lose = 0
        with pytest.raises(Unavailable):
            mirror.deliver(events)
    mirror.deliver(events)
    assert wrong(mirror, events) == []
    assert standin.refused == []


def test_schemas_that_other_libraries_registered_are_not_followed(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn
) -> None:
    """Those of OpenAPI, which openapi-core registers for all of a process, refer to a server of OpenAPI's."""
    import_module("openapi_core")
    mirror = opened(tmp_path, standin)
    mirror.deliver(events)
    assert wrong(mirror, events) == []


def test_what_the_server_has_is_not_sent_again(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn
) -> None:
    opened(tmp_path, standin).deliver(events)
    standin.asked.clear()
    mirror = opened(tmp_path, standin)
    mirror.deliver(events)
    mirror.deliver(events[:5])
    assert "executeOperations" not in standin.asked


def test_a_mirror_that_goes_on_asks_only_to_deliver(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn
) -> None:
    mirror = opened(tmp_path, standin)
    mirror.deliver(events[:9])
    standin.asked.clear()
    mirror.deliver(events[9:12])
    assert set(standin.asked) == {"executeOperations"}


def test_a_folder_that_was_lost_is_written_anew_and_only_the_rest_is_sent(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn
) -> None:
    opened(tmp_path / "one", standin).deliver(events[:20])
    with pytest.raises(Conflict, match="has 0 events of a run of which 20 were delivered") as told:
        opened(tmp_path / "two", standin).deliver(events[20:])
    assert "--again" in str(told.value.mend)
    mirror = opened(tmp_path / "two", standin)
    for start in range(0, len(events), 7):
        mirror.deliver(events[start : start + 7])
    assert wrong(mirror, events) == []
    assert standin.refused == []
    assert len(standin.runs) == 1


def test_offline_runs_are_brought_to_a_server_that_is_set_later(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn
) -> None:
    offline = OfflineMirror(tmp_path)
    for start in range(0, len(events), 5):
        offline.deliver(events[start : start + 5])
    mirror = opened(tmp_path, standin)
    mirror.deliver(events[:5])
    assert wrong(mirror, events) == []
    assert differences(expected_page(offline, events), offline.shows(RUN) or Page()) == []


def test_a_run_that_was_deleted_there_is_made_anew(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn
) -> None:
    mirror = opened(tmp_path, standin)
    mirror.deliver(events[:20])
    standin.runs.clear()
    with pytest.raises(Unavailable, match="no longer has the run"):
        mirror.deliver(events[20:])
    mirror.deliver(events[20:])
    assert wrong(mirror, events) == []


def test_a_server_that_was_put_back_from_an_older_copy_is_brought_what_it_lost(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn
) -> None:
    mirror = opened(tmp_path, standin)
    mirror.deliver(events[:15])
    copy = deepcopy(standin.runs)
    mirror.deliver(events[15:])
    standin.runs = copy
    again = opened(tmp_path, standin)
    again.deliver(events[:5])
    assert wrong(again, events) == []
    assert standin.refused == []


def test_a_run_in_the_trash_is_left_there(tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn) -> None:
    opened(tmp_path, standin).deliver(events[:9])
    (run,) = standin.runs.values()
    run.fields["sys/trashed"] = ("bool", True)
    with pytest.raises(Conflict, match="is in the trash of Neptune"):
        opened(tmp_path, standin).deliver(events[9:])
    with pytest.raises(Conflict, match="is in the trash of Neptune"):
        opened(tmp_path, standin).shows(RUN)


def test_another_history_of_the_run_is_another_run(tmp_path: Path, standin: NeptuneStandIn) -> None:
    facts = [metrics(0, ("loss",)), metrics(20, ("loss",))]
    opened(tmp_path / "one", standin).deliver(stream([run_started(), *facts], run_id=RUN))
    for start, rest in ((run_started(seed=8), [*facts, facts[1]]), (run_started(), facts[::-1])):
        other = stream([start, *rest], run_id=RUN)
        with pytest.raises(Conflict, match=f"another run under the custom id {RUN}"):
            opened(tmp_path / str(len(other)), standin).deliver(other)


# --- what is where ----------------------------------------------------------------------------------------------


def test_neptunes_own_users_find_it(tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn) -> None:
    mirror = opened(tmp_path, standin)
    mirror.deliver(events)
    expected = expected_page(mirror, events)
    (stored,) = standin.runs.values()
    assert stored.fields["sys/custom_run_id"] == ("string", RUN)
    assert stored.fields["sys/name"][1] == expected.fields["run/name"]
    assert set(stored.fields["sys/tags"][1]) == set(expected.tags)
    read = [sys.executable, "-c", _READ, PROJECT, stored.short]
    found = json.loads(subprocess.run(read, cwd=tmp_path, check=True, capture_output=True).stdout.splitlines()[-1])
    points = [[p.step, p.value] for p in expected.points if (p.metric, p.attempt) == ("train/loss", 1)]
    assert found == [expected.fields["status"], expected.config["optim.lr"], points]


_READ = """
import json, sys
import neptune
run = neptune.init_run(project=sys.argv[1], with_id=sys.argv[2], mode="read-only")
loss = run["metrics/train/loss/attempt-1"].fetch_values()
found = [run["ledger/status"].fetch(), run["config/optim.lr"].fetch(), loss[["step", "value"]].values.tolist()]
run.stop()
print(json.dumps(found))
"""
"""A user of Neptune's, in a process of its own: its client also follows what other libraries register there."""


def test_long_series_and_many_fields_go_in_requests_of_a_thousand(tmp_path: Path, standin: NeptuneStandIn) -> None:
    config = ConfigResolved(config={f"key-{n}": n for n in range(1500)}, digest="6b" * 32)
    events = stream([run_started(), config, metrics(0, ("loss",), 3300)], run_id=RUN)
    mirror = opened(tmp_path, standin)
    mirror.deliver(events)
    assert wrong(mirror, events) == []
    assert standin.asked.count("executeOperations") == 7  # fields in 2, points in 3, and 2 marks


def test_portions_keep_order_and_size() -> None:
    from neptune.internal.operation import AssignInt, LogFloats

    path = ["metrics", "loss", "attempt-1"]
    points = [LogFloats.ValueType(float(n), n, n) for n in range(25)]
    made = [AssignInt(["a"], 1), LogFloats(path, points[:3]), LogFloats(path, points[3:]), AssignInt(["b"], 2)]
    cut = list(portions(made, 10))
    assert [sum(len(getattr(each, "values", "1")) for each in portion) for portion in cut] == [4, 10, 10, 3]
    assert [point for portion in cut for each in portion if each.path == path for point in each.values] == points


def test_a_value_of_another_type_takes_the_place_of_the_first(tmp_path: Path, standin: NeptuneStandIn) -> None:
    values = (1, 2**40, "auto", "none", True, 3)
    events = stream(
        [run_started(), *(ConfigResolved(config={"lr": lr}, digest="6b" * 32) for lr in values)], run_id=RUN
    )
    for event in events:
        opened(tmp_path, standin).deliver([event])
    assert wrong(opened(tmp_path, standin), events) == []
    assert standin.refused == []


def test_times_are_told_to_be_cut() -> None:
    def point(at: float) -> Page:
        return Page(points=(Point("loss", 1, at, 1.0, 1),))

    adapted, told = adapt_for_server(point(1_767_225_600.1239))
    assert adapted == point(1_767_225_600.123)
    assert [(each.what, "milliseconds" in each.rule) for each in told] == [("metric loss", True)]
    assert adapt_for_server(point(1_767_225_600.25)) == (point(1_767_225_600.25), [])


def test_what_the_server_refuses_is_told_and_not_counted(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn
) -> None:
    mirror = opened(tmp_path, standin)
    mirror.deliver(events[:9])
    (stored,) = standin.runs.values()
    stored.fields["sys/tags"] = ("string", "somebody else's")
    with pytest.raises(LedgerError, match="refuses it: Cannot insert into sys/tags") as told:
        mirror.deliver(events[9:])
    assert "nothing of it counts as delivered" in str(told.value.mend)
    stored.fields["sys/tags"] = ("stringSet", [])
    mirror.deliver(events[9:])
    assert set(expected_page(mirror, events[9:]).tags) <= set(stored.fields["sys/tags"][1])


# --- who may, and where it goes ---------------------------------------------------------------------------------


def refusal(mirror: OnlineMirror, events: Sequence[Recorded], kind: type[LedgerError] = Unavailable) -> str:
    """What a delivery and a check say that cannot be made, with the mend; it is told soon and tells no key."""
    began = time.monotonic()
    with pytest.raises(kind) as told:
        mirror.deliver(events)
    with pytest.raises(kind) as shown:
        mirror.shows(RUN)
    assert time.monotonic() - began < 15
    assert told.value.mend
    said = f"{told.value} – {told.value.mend} – {shown.value} – {shown.value.mend}"
    assert KEY not in said
    assert "eyJ" not in said  # how every key begins
    return said


def test_a_wrong_key_is_one_message_that_does_not_tell_it(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.neptune_standin.KEY", "c" * 36)
    said = refusal(opened(tmp_path, standin), events)
    assert f"Neptune at {standin.url} says no: it does not accept the key" in said
    assert "NEPTUNE_API_TOKEN" in said
    assert standin.runs == {}


def test_a_login_that_has_ended_is_renewed(tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn) -> None:
    standin.lasts_s = 31  # the client renews what lasts less than half a minute
    mirror = opened(tmp_path, standin)
    mirror.deliver(events[:9])
    standin.lasts_s, before = 300, standin.asked.count("refresh")
    mirror._server._backend._http_client.authenticator.auth.token_expires_at = 0  # type: ignore[union-attr]
    mirror.deliver(events[9:])
    assert standin.asked.count("refresh") == before + 1
    assert wrong(mirror, events) == []


def test_without_a_key_nothing_is_asked(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEPTUNE_API_TOKEN")
    assert "NEPTUNE_API_TOKEN is not set" in refusal(opened(tmp_path, standin), events, InvalidSettings)
    assert standin.asked == []


@pytest.mark.parametrize(
    "token", ["", "geheim", "Z2VoZWlt", "MQ==", "eyJhcGlfYWRkcmVzcyI6IDN9", "eyJnZWhlaW0iOiAzfQ=="]
)
def test_what_is_no_key_is_told_and_not_sent(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token)
    said = refusal(opened(tmp_path, standin), events, InvalidSettings)
    assert "is no key of Neptune's" in said
    assert "geheim" not in said
    assert standin.asked == []


def test_the_key_of_another_server_is_sent_to_neither(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NeptuneStandIn() as other:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", other.key)
        said = refusal(opened(tmp_path, standin), events, InvalidSettings)
        assert f"is for {other.url}, and [plugin.neptune] endpoint is {standin.url}" in said
        assert (other.asked, standin.asked) == ([], [])


@pytest.mark.parametrize("which", ["api_url", "login_url"])
def test_a_server_that_points_elsewhere_is_not_followed(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn, which: str
) -> None:
    with NeptuneStandIn() as other:
        setattr(standin, which, other.url)
        said = refusal(opened(tmp_path, standin), events)
        assert f"names another server, {other.url}" in said
        assert other.asked == other.unknown == []


def test_a_project_that_is_not_there(tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn) -> None:
    for project in ("team/other", "nobody/kit"):
        said = refusal(opened(tmp_path, standin, project), events, NotFound)
        assert f"the project {project}: Neptune at {standin.url} has no such project" in said


def test_what_is_no_neptune_is_told(tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn) -> None:
    for status in (404, 302):
        standin.failing = [status] * 2
        assert f"what answers at {standin.url} is not Neptune" in refusal(opened(tmp_path, standin), events)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_in_trouble_is_away(
    tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn, status: int
) -> None:
    mirror = opened(tmp_path, standin)
    mirror.deliver(events[:9])
    standin.failing = [status] * 6
    with pytest.raises(Unavailable, match="cannot be reached") as told:
        mirror.deliver(events[9:])
    assert "nothing is lost" in str(told.value.mend)
    standin.failing = []
    mirror.deliver(events[9:])
    assert wrong(mirror, events) == []


def test_an_endpoint_that_never_answers_holds_nobody_up(
    tmp_path: Path, events: Sequence[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger_neptune.backend._PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setenv("NEPTUNE_API_TOKEN", key_for(url))
        said = refusal(OnlineMirror(tmp_path, Place(url, PROJECT)), events)
        assert f"Neptune at {url} cannot be reached" in said


def test_nothing_of_the_key_is_written(tmp_path: Path, events: Sequence[Recorded], standin: NeptuneStandIn) -> None:
    opened(tmp_path, standin).deliver(events)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [
        path for path in files if KEY.encode() in path.read_bytes() or standin.key.encode() in path.read_bytes()
    ]


# --- settings ---------------------------------------------------------------------------------------------------

_ENDPOINT = "https://neptune.example.com"


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"api_token": "geheim"}, r"plugin\.neptune\.api_token is no setting"),
        ({"mode": "geheim"}, r"plugin\.neptune\.mode is no setting"),
        ({"directory": 3}, r"plugin\.neptune\.directory = 3"),
        ({"directory": ""}, r"plugin\.neptune\.directory = ''"),
        ({"endpoint": _ENDPOINT}, "endpoint or project, but not both"),
        ({"project": "team/kit"}, "endpoint or project, but not both"),
        ({"endpoint": _ENDPOINT, "project": "kit"}, "'kit' is not WORKSPACE/PROJECT"),
        ({"endpoint": _ENDPOINT, "project": "/kit"}, "'/kit' is not WORKSPACE/PROJECT"),
        ({"endpoint": _ENDPOINT, "project": "team/kit/more"}, "is not WORKSPACE/PROJECT"),
        ({"endpoint": "ftp://example.com", "project": "team/kit"}, "endpoint is no"),
        ({"endpoint": "neptune.example.com", "project": "team/kit"}, "endpoint is no"),
        ({"endpoint": "https://ada:geheim@example.com", "project": "team/kit"}, "endpoint is no"),
        ({"endpoint": f"{_ENDPOINT}/geheim", "project": "team/kit"}, "endpoint is no"),
        ({"endpoint": f"{_ENDPOINT}?key=geheim", "project": "team/kit"}, "endpoint is no"),
        ({"endpoint": "https://[geheim", "project": "team/kit"}, "endpoint is no"),
        ({"endpoint": "http://neptune.example.com", "project": "team/kit"}, "begins with http://"),
    ],
)
def test_settings_that_are_not_understood(
    tmp_path: Path, table: dict[str, object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OAUTHLIB_INSECURE_TRANSPORT", raising=False)
    with pytest.raises(InvalidSettings, match=told) as error:
        open_mirrors(_settings(tmp_path, table))
    assert error.value.mend
    assert "geheim" not in f"{error.value} {error.value.mend}"


def test_settings_say_where_it_goes(tmp_path: Path) -> None:
    (offline,) = open_mirrors(_settings(tmp_path, {}))
    assert offline.target == str(folder_of(_settings(tmp_path, {}), "neptune"))
    (named,) = open_mirrors(_settings(tmp_path, {"directory": "there"}))
    assert named.target == str(tmp_path / "there")
    for endpoint in (_ENDPOINT, f"{_ENDPOINT}/", "https://NEPTUNE.example.com:443"):
        (online,) = open_mirrors(_settings(tmp_path, {"endpoint": endpoint, "project": "team/kit"}))
        assert online.target == f"{_ENDPOINT}/team/kit"


def test_a_server_is_one_however_it_is_written() -> None:
    assert origin("HTTPS://Example.com:443/api?x#y") == "https://example.com"
    assert origin("example.com") == "https://example.com"  # as the client reads what is in a key
    assert origin("http://ada:geheim@[::1]:8080") == "http://[::1]:8080"
    assert [origin(each) for each in ("", "ftp://example.com", "https://example.com:x", "https://[::1")] == [None] * 4


def _settings(base: Path, table: dict[str, object]) -> Settings:
    return Settings(
        url="memory:",
        objects="",
        checkpoints="",
        scratch=base / "scratch",
        base=base,
        plugin_settings={"neptune": table},
    )
