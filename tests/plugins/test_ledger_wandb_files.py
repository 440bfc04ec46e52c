"""W&B's files as such: frames, deliveries that were cut off, what ``wandb sync`` makes of them, what goes wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import traceback
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import Conflict, InvalidSettings, Unavailable
from ledger.hooks.differences import differences
from ledger.hooks.pages import Page, Point
from ledger.settings import Settings
from ledger.testing.builders import stream
from ledger.testing.eventful import EVENTFUL
from ledger.testing.mirrors import expected_page
from ledger_wandb import client, open_mirrors
from ledger_wandb.file import find
from ledger_wandb.frames import START, framed, records
from ledger_wandb.limits import adapt
from ledger_wandb.mirror import OfflineMirror, OnlineMirror
from ledger_wandb.records import Place
from tests.wandb_standin import ENTITY, KEY, StoredRun, WandbStandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ledger.codec import Recorded
    from ledger.hooks.ports import Mirror

RUN = "01990000-0000-7000-8000-000000000001"
_BLOCK = 32 * 1024
_PLACE = {"entity": ENTITY, "project": "kit", "run": RUN}


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbStandIn]:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with WandbStandIn() as running:
        yield running
        assert running.unknown == []


@pytest.fixture
def events() -> Sequence[Recorded]:
    return stream(EVENTFUL, run_id=RUN)


@given(st.lists(st.integers(0, 3 * _BLOCK).map(bytes) | st.binary(max_size=40), max_size=8), st.data())
def test_frames_come_back_up_to_where_the_file_was_cut(content: list[bytes], data: st.DataObject) -> None:
    file, ends = bytearray(START), []
    for record in content:
        file += framed(record, len(file))
        ends.append(len(file))
    cut = data.draw(st.integers(len(START), len(file)))
    whole = [(end, record) for end, record in zip(ends, content, strict=True) if end <= cut]
    assert list(records(io.BytesIO(bytes(file[:cut])))) == whole


def test_a_flipped_bit_ends_what_is_read() -> None:
    file = bytearray(START + framed(b"one", len(START)))
    end = len(file)
    file += framed(b"two", end)
    file[-1] ^= 1
    assert list(records(io.BytesIO(bytes(file)))) == [(end, b"one")]


def test_wandb_reads_records_that_meet_the_end_of_a_block_in_every_way(tmp_path: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    file, sizes = bytearray(START), []
    for room in (*range(10), 0, _BLOCK - 8):
        size = _size_that_leaves(room, len(file))
        file += framed(Record(run={"notes": "x" * size}).SerializeToString(), len(file))
        assert -len(file) % _BLOCK == room
        sizes.append(size)
    path = tmp_path / "run-x.wandb"
    path.write_bytes(file)
    assert [len(each["run"]["notes"]) for each in client.inspect(path)] == sizes


def _size_that_leaves(room: int, offset: int) -> int:
    """How long a note must be for its frames to end so many bytes before the end of a block."""
    longer = (_left_by(_BLOCK, offset) - room) % _BLOCK
    return next(_BLOCK + n for n in range(longer + 20, -20, -1) if _left_by(_BLOCK + n, offset) == room)


def _left_by(size: int, offset: int) -> int:
    from wandb.proto.wandb_internal_pb2 import Record

    record = Record(run={"notes": "x" * size}).SerializeToString()
    return -(offset + len(framed(record, offset))) % _BLOCK


@pytest.mark.parametrize("lost", [1, 40, 4000])
def test_a_delivery_that_was_cut_off_is_written_again(tmp_path: Path, events: Sequence[Recorded], lost: int) -> None:
    half = len(events) // 2
    OfflineMirror(tmp_path, "", "").deliver(events[:half])
    (path,) = find(tmp_path, RUN)
    before = path.stat().st_size
    OfflineMirror(tmp_path, "", "").deliver(events[half:])
    os.truncate(path, path.stat().st_size - lost)
    assert path.stat().st_size > before
    mirror = OfflineMirror(tmp_path, "", "")
    mirror.deliver(events[half:])
    shown = mirror.shows(RUN)
    assert shown is not None
    assert differences(expected_page(mirror, events), shown) == []


def test_one_mirror_goes_on_without_reading_its_file_again(tmp_path: Path, events: Sequence[Recorded]) -> None:
    one, each_new = OfflineMirror(tmp_path / "one", "", ""), tmp_path / "new"
    for start in range(0, len(events), 3):
        one.deliver(events[start : start + 3])
        OfflineMirror(each_new, "", "").deliver(events[start : start + 3])
    (path,), (other,) = find(tmp_path / "one", RUN), find(each_new, RUN)
    assert path.read_bytes() == other.read_bytes()


def test_wandb_sync_brings_each_point_once(tmp_path: Path, events: Sequence[Recorded], standin: WandbStandIn) -> None:
    mirror = OfflineMirror(tmp_path, ENTITY, "kit")
    mirror.deliver(events[:12])
    _sync(tmp_path, standin)
    assert standin.runs["kit", RUN].exits == [1]  # W&B's word for a file without an end
    mirror.deliver(events[12:])
    assert len(find(tmp_path, RUN)) == 2
    _sync(tmp_path, standin)
    stored = standin.runs["kit", RUN]
    assert [row["_step"] for row in stored.rows] == list(range(len(stored.rows)))
    assert _shown_by(standin, mirror, events) == []
    assert stored.exits == [1, 0]
    assert (stored.facts["displayName"], stored.facts["notes"]) == ("run-1", "once more")
    _has_steps_on_its_axes(stored)


@pytest.mark.slow
def test_what_the_server_has_is_not_given_to_it_again(
    tmp_path: Path, events: Sequence[Recorded], standin: WandbStandIn
) -> None:
    mirror = OnlineMirror(tmp_path / "files", ENTITY, "kit", standin.url)
    mirror.deliver(events)
    for mark in (tmp_path / "files").rglob("*.synced"):
        mark.unlink()
    uploaded = standin.runs["kit", RUN].rows
    del standin.runs["kit", RUN].history[100:]  # as if the upload had been cut off
    mirror.deliver(events)
    assert standin.runs["kit", RUN].rows == uploaded
    assert _shown_by(standin, mirror, events) == []
    assert not list((tmp_path / "files").glob(".upload*"))


@pytest.mark.slow
@pytest.mark.parametrize("mark", ["by Ledger", "by W&B"])
def test_what_another_place_has_taken_is_brought_to_the_next(
    tmp_path: Path, events: Sequence[Recorded], standin: WandbStandIn, mark: str
) -> None:
    if mark == "by Ledger":
        OnlineMirror(tmp_path, ENTITY, "kit", standin.url).deliver(events[:6])
    else:
        OfflineMirror(tmp_path, ENTITY, "kit").deliver(events[:6])
        _sync(tmp_path, standin)
    mirror = OnlineMirror(tmp_path, ENTITY, "next", standin.url)
    assert mirror.shows(RUN) is None
    mirror.deliver(events[:6])
    shown = mirror.shows(RUN)
    assert shown is not None
    assert differences(expected_page(mirror, events[:6]), shown) == []


@pytest.mark.slow
def test_files_that_were_removed_are_written_again_and_no_point_is_doubled(
    tmp_path: Path, events: Sequence[Recorded], standin: WandbStandIn
) -> None:
    OnlineMirror(tmp_path, ENTITY, "kit", standin.url).deliver(events[:9])
    for folder in tmp_path.iterdir():
        shutil.rmtree(folder)
    mirror = OnlineMirror(tmp_path, ENTITY, "kit", standin.url)
    with pytest.raises(Conflict, match="has 0 events of a run of which 9 were delivered") as told:
        mirror.deliver(events[9:])
    assert "--again" in str(told.value.mend)
    mirror.deliver(events)
    assert _shown_by(standin, mirror, events) == []


@pytest.mark.slow
def test_without_an_entity_it_is_read_where_it_was_uploaded(
    tmp_path: Path, events: Sequence[Recorded], standin: WandbStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ENTITY", "another-team")
    mirror = OnlineMirror(tmp_path, "", "kit", standin.url)
    mirror.deliver(events[:2])
    assert mirror.shows(RUN) is not None


def test_wandb_leaves_nothing_where_the_user_is(
    tmp_path: Path, events: Sequence[Recorded], standin: WandbStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/json.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path / "here")
    mirror = OnlineMirror(tmp_path / "files", ENTITY, "kit", standin.url)
    mirror.deliver(events[:2])
    assert mirror.shows(RUN) is not None
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["json.py"]


def test_a_wrong_key_is_one_message_that_does_not_tell_it(
    tmp_path: Path, events: Sequence[Recorded], standin: WandbStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "b" * 40
    monkeypatch.setenv("WANDB_API_KEY", wrong)
    mirror = OnlineMirror(tmp_path, ENTITY, "kit", standin.url)
    with pytest.raises(Unavailable, match=standin.url) as told:
        mirror.deliver(events)
    assert wrong not in f"{told.value} {told.value.mend}"
    assert "WANDB_API_KEY" in str(told.value.mend)
    assert standin.runs == {}


def test_an_endpoint_that_never_answers_holds_nobody_up_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_ASK_S", 8.0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no answer within 8 s"):
            client.server_has(url, Place(RUN, ENTITY, "kit"), history=False)
        assert time.monotonic() - began < 30
        assert [each.pid for each in psutil.process_iter() if _asks(each, url)] == []


def test_a_mirror_that_is_killed_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        asking = f"from ledger_wandb.client import *; server_has({url!r}, type('P', (), {_PLACE})(), history=False)"
        with subprocess.Popen([sys.executable, "-c", asking]) as mirror:
            _until(lambda: [each for each in psutil.process_iter() if _asks(each, url) and each.name() == "wandb-core"])
            mirror.kill()
        _until(lambda: not [each for each in psutil.process_iter() if _asks(each, url)])


def test_a_step_that_wandb_cannot_hold_is_told() -> None:
    points = tuple(Point("loss", step, 0.0, 1.0, 1) for step in (2**53, 2**53 + 1))
    adapted, told = adapt(Page(points=points))
    assert [point.step for point in adapted.points] == [2.0**53] * 2
    assert [one.what for one in told] == ["metric loss"]
    assert adapt(Page(points=points[:1]))[1] == []


def test_an_id_that_would_lead_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="no UUID"):
        OfflineMirror(tmp_path / "wandb", "", "").deliver(stream(EVENTFUL, run_id="/../../out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"mode": "on"}, "plugin.wandb.mode = 'on'"),
        ({"api_key": "geheim"}, "plugin.wandb.api_key is no setting"),
        ({"project": 3}, "plugin.wandb.project = 3"),
        ({"directory": ""}, "plugin.wandb.directory"),
        ({"base_url": "ftp://example.org"}, "no http"),
        ({"base_url": "https://ada:geheim@example.org"}, "no http"),
        ({"base_url": "ada:geheim@example.org"}, "no http"),
        ({"base_url": "https://example.org?key=geheim"}, "no http"),
        ({"base_url": "https://[geheim"}, "no http"),
    ],
)
def test_settings_that_are_not_understood(tmp_path: Path, table: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidSettings, match=told) as error:
        open_mirrors(_settings(tmp_path, table))
    assert error.value.mend
    assert "geheim" not in f"{error.value} {error.value.mend}"


def test_of_a_traceback_only_what_was_raised_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "geheim")
    try:
        raise ValueError("the key geheim\nis refused")
    except ValueError:
        said = f"wandb: one moment\n{traceback.format_exc()}"
    assert client._last_words("wandb: one\nmoment\n") == "wandb: one moment"
    assert client._last_words(said) == "ValueError: the key $WANDB_API_KEY is refused"


def test_settings_say_where_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    (offline,) = open_mirrors(_settings(tmp_path, {"directory": "files"}))
    assert offline.target == str(tmp_path / "files")
    (online,) = open_mirrors(_settings(tmp_path, {"mode": "online", "entity": "team", "project": "p"}))
    assert online.target == "https://api.wandb.ai/team/p"


def test_without_a_setting_the_server_is_that_of_wandbs_own_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    (online,) = open_mirrors(_settings(tmp_path, {"mode": "online"}))
    assert online.target == "https://wandb.example.org"
    monkeypatch.setenv("WANDB_BASE_URL", "https://ada:geheim@example.org")
    with pytest.raises(InvalidSettings, match="WANDB_BASE_URL is no") as error:
        open_mirrors(_settings(tmp_path, {"mode": "online"}))
    assert "geheim" not in f"{error.value} {error.value.mend}"


def _settings(base: Path, table: dict[str, object]) -> Settings:
    return Settings(
        url="memory:",
        objects="",
        checkpoints="",
        scratch=base / "scratch",
        home=base,
        base=base,
        plugin_settings={"wandb": table},
    )


def _sync(directory: Path, standin: WandbStandIn) -> None:
    (directory / "logs").mkdir(exist_ok=True)
    words = [sys.executable, "-m", "wandb", "sync", str(directory)]
    environ = os.environ | {"WANDB_BASE_URL": standin.url, "WANDB_DIR": str(directory / "logs")}
    done = subprocess.run(words, env=environ, timeout=120, capture_output=True)
    assert done.returncode == 0, done.stderr


def _shown_by(standin: WandbStandIn, mirror: Mirror, events: Sequence[Recorded]) -> list[object]:
    shown = OnlineMirror(mirror._directory, ENTITY, "kit", standin.url).shows(RUN)  # type: ignore[attr-defined]
    assert shown is not None
    return list(differences(expected_page(mirror, events), shown))


def _has_steps_on_its_axes(stored: StoredRun) -> None:
    """W&B keeps definitions of metrics in the configuration: 1 is a name, 5 the place of the metric of its steps."""
    defined = json.loads(stored.facts["config"])["_wandb"]["value"]["m"]
    names = [each["1"] for each in defined]
    logged = {key for row in stored.rows for key in row if not key.startswith(("_", "ledger/"))}
    assert logged
    assert {each["1"]: names[each["5"] - 1] for each in defined if "5" in each} == dict.fromkeys(logged, "ledger/step")


def _until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _asks(process: psutil.Process, url: str) -> bool:
    try:
        return process.environ().get("WANDB_BASE_URL") == url
    except psutil.Error:
        return False
