"""The JSON-lines mirror: the kit, and what its files are like."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ledger.codec import new_id
from ledger.errors import Conflict, InvalidSettings
from ledger.events import ConfigResolved, RunAnnotated
from ledger.settings import find_settings, in_memory
from ledger.testing.builders import run_started, stream
from ledger.testing.eventful import EVENTFUL
from ledger.testing.mirrors import BaseMirrorTests, expected_page
from ledger_jsonl import open_mirrors
from ledger_jsonl.mirror import JsonLines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ledger.hooks.ports import Mirror


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "the runs"


class TestJsonLines(BaseMirrorTests):
    @pytest.fixture
    def open_mirror(self, directory: Path) -> Callable[[], Mirror]:
        return partial(JsonLines, directory)

    @pytest.fixture
    def unreachable(self, directory: Path) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def away() -> Iterator[None]:
            aside = directory.rename(directory.with_name("aside"))
            directory.write_text("in the way")
            yield
            directory.unlink()
            aside.rename(directory)

        return away

    @pytest.fixture
    def occupy(self, directory: Path) -> Callable[[str], None]:
        def occupy(run: str) -> None:
            directory.mkdir()
            (directory / f"{run}.jsonl").write_text('{"somebody": "else"}\n')

        return occupy


def delivered(directory: Path, run: str) -> Path:
    JsonLines(directory).deliver(stream(EVENTFUL, run_id=run))
    return directory / f"{run}.jsonl"


def test_every_line_is_json_and_says_what_it_is(directory: Path) -> None:
    run = new_id()
    first, *lines = map(json.loads, delivered(directory, run).read_text().splitlines())
    assert first["run"] == run
    kinds = [next(key for key in ("config", "field", "tag", "metric") if key in line) for line in lines]
    assert set(kinds) == {"config", "field", "tag", "metric"}
    assert {"metric": "odd @ %", "step": 120, "value": "NaN", "attempt": 1, "time": 1767225660.25} in [
        {key: value for key, value in line.items() if key != "event"} for line in lines
    ]


@pytest.mark.parametrize("torn", [1, 17, 400, 30_000])
def test_a_file_that_a_crash_has_torn_is_mended(directory: Path, torn: int) -> None:
    run = new_id()
    file = delivered(directory, run)
    whole = file.read_bytes()
    file.write_bytes(whole[:-torn])
    JsonLines(directory).deliver(stream(EVENTFUL, run_id=run))
    assert file.read_bytes() == whole


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_a_first_line_that_a_crash_has_torn_is_written_anew(directory: Path, kept: int) -> None:
    run = new_id()
    file = delivered(directory, run)
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])
    JsonLines(directory).deliver(stream(EVENTFUL, run_id=run))
    assert file.read_bytes() == whole


def test_a_long_line_at_the_end_is_read_whole(directory: Path) -> None:
    run = new_id()
    events = stream([run_started(), RunAnnotated(text="x" * 200_000)], run_id=run)
    JsonLines(directory).deliver(events)
    size = (directory / f"{run}.jsonl").stat().st_size
    JsonLines(directory).deliver(events)
    assert (directory / f"{run}.jsonl").stat().st_size == size
    shown = JsonLines(directory).shows(run)
    assert shown is not None
    assert shown.fields["note/1"] == "x" * 200_000


def test_a_text_that_looks_like_a_number_stays_a_text(directory: Path) -> None:
    run = new_id()
    events = stream([run_started(), ConfigResolved(config={"a": "NaN", "b": "1", "c": 1.0}, digest="0")], run_id=run)
    mirror = JsonLines(directory)
    mirror.deliver(events)
    shown = mirror.shows(run)
    assert shown is not None
    assert shown.config == expected_page(mirror, events).config == {"a": "NaN", "b": "1", "c": 1.0}


def test_a_file_that_was_removed_is_not_begun_in_the_middle(directory: Path) -> None:
    run = new_id()
    events = stream(EVENTFUL, run_id=run)
    delivered(directory, run).unlink()
    with pytest.raises(Conflict, match="is not there") as told:
        JsonLines(directory).deliver(events[5:])
    assert "--again" in str(told.value.mend)


def test_a_file_of_another_run_is_left_alone(directory: Path) -> None:
    run = new_id()
    file = delivered(directory, new_id()).rename(directory / f"{run}.jsonl")
    theirs = file.read_bytes()
    for events in (stream(EVENTFUL, run_id=run), stream(EVENTFUL, run_id=run)[5:]):
        with pytest.raises(Conflict, match="not what this mirror wrote"):
            JsonLines(directory).deliver(events)
    assert file.read_bytes() == theirs


def test_a_file_that_somebody_spoilt_is_told(directory: Path) -> None:
    run = new_id()
    file = delivered(directory, run)
    for spoilt in (b"{", b"[]", b'{"metric":"loss"}'):
        first, rest = file.read_bytes().split(b"\n", 1)
        file.write_bytes(b"\n".join((first, spoilt, rest)))
        with pytest.raises(Conflict, match="not what this mirror wrote"):
            JsonLines(directory).shows(run)


def test_a_name_that_leaves_the_directory_is_refused(directory: Path) -> None:
    for run in ("../../etc/passwd", "a/b", "", ".."):
        with pytest.raises(Conflict):
            JsonLines(directory).shows(run)
        with pytest.raises(Conflict):
            JsonLines(directory).deliver(stream([run_started()], run_id=run))
    assert not directory.exists()


def test_the_directory_is_that_of_the_settings_from_where_ledger_toml_lies(tmp_path: Path) -> None:
    (tmp_path / "ledger.toml").write_text('[plugin.jsonl]\ndirectory = "../shown"\n')
    (tmp_path / "deep").mkdir()
    [mirror] = open_mirrors(find_settings(start=tmp_path / "deep", environ={}))
    assert mirror.target == str(tmp_path.parent / "shown")
    [usual] = open_mirrors(in_memory(tmp_path / "scratch"))
    assert usual.target == str(tmp_path / "scratch" / "mirrors" / "jsonl")


@pytest.mark.parametrize("table", ['dir = "x"', "directory = 7", 'directory = ""'])
def test_settings_that_do_not_hold_are_refused(tmp_path: Path, table: str) -> None:
    (tmp_path / "ledger.toml").write_text(f"[plugin.jsonl]\n{table}\n")
    with pytest.raises(InvalidSettings, match=r"plugin\.jsonl") as told:
        open_mirrors(find_settings(start=tmp_path, environ={}))
    assert told.value.mend
