"""Neptune's queue as such: deliveries that were cut off, series whose steps rise, what ``neptune`` finds, settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from ledger.errors import Conflict
from ledger.events import ConfigResolved
from ledger.hooks.differences import differences
from ledger.testing.builders import resumed, run_started, stream
from ledger.testing.eventful import EVENTFUL, metrics, values
from ledger.testing.mirrors import expected_page
from ledger_neptune.mirror import OfflineMirror
from ledger_neptune.queue import folder_of_run, operations

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ledger.codec import Recorded

RUN = "01990000-0000-7000-8000-000000000001"


@pytest.fixture
def events() -> Sequence[Recorded]:
    return stream(EVENTFUL, run_id=RUN)


@pytest.mark.parametrize("lost", [1, 100, 5000])
def test_a_delivery_that_was_cut_off_is_written_again(tmp_path: Path, events: Sequence[Recorded], lost: int) -> None:
    half = len(events) // 2
    OfflineMirror(tmp_path).deliver(events[:half])
    file = folder_of_run(tmp_path, RUN) / "data-1.log"
    before = file.stat().st_size
    OfflineMirror(tmp_path).deliver(events[half:])
    os.truncate(file, file.stat().st_size - lost)
    assert file.stat().st_size > before
    mirror = OfflineMirror(tmp_path)
    mirror.deliver(events[half:])
    shown = mirror.shows(RUN)
    assert shown is not None
    assert differences(expected_page(mirror, events), shown) == []


def test_what_a_crash_of_the_machine_left_behind_a_delivery_is_cut_off(
    tmp_path: Path, events: Sequence[Recorded]
) -> None:
    half = len(events) // 2
    OfflineMirror(tmp_path).deliver(events[:half])
    with (folder_of_run(tmp_path, RUN) / "data-1.log").open("ab") as file:
        file.write(bytes(50) + b'"}\n{"obj":')  # a block that was never written, and one behind it
    mirror = OfflineMirror(tmp_path)
    mirror.deliver(events[half:])
    shown = mirror.shows(RUN)
    assert shown is not None
    assert differences(expected_page(mirror, events), shown) == []


def test_the_steps_of_every_series_rise(tmp_path: Path) -> None:
    facts = (
        run_started(),
        metrics(0, ("loss",), 5),
        values("loss", {3: 1.0, 9: float("nan"), 4: 2.0}),
        resumed(2, 2),
        metrics(2, ("loss",), 5),
    )
    OfflineMirror(tmp_path).deliver(stream(facts, run_id=RUN))
    series: dict[str, list[float]] = {}
    for operation in operations(folder_of_run(tmp_path, RUN)):
        if operation.path[0] == "metrics":
            series.setdefault("/".join(operation.path), []).extend(each.step for each in operation.values)
    assert series == {
        "metrics/loss/attempt-1": [0, 1, 3, 4],  # one row in three lacks the last metric
        "metrics/loss/attempt-1.2": [3, 4],
        "metrics/loss/attempt-1 text": [9],
        "metrics/loss/attempt-2": [2, 3, 5, 6],
    }


def test_neptune_sync_takes_all_of_it(tmp_path: Path, events: Sequence[Recorded]) -> None:
    """By the class behind the command, into the server that Neptune's client has for its debug mode."""
    from neptune.cli.sync import SyncRunner
    from neptune.internal.backends.neptune_backend_mock import NeptuneBackendMock
    from neptune.internal.container_type import ContainerType
    from neptune.internal.id_formats import QualifiedName

    refused: list[Any] = []

    class Server(NeptuneBackendMock):  # type: ignore[misc]
        def execute_operations(self, *args: Any, **named: Any) -> Any:
            count, errors = super().execute_operations(*args, **named)
            refused.extend(errors)
            return count, errors

    mirror = OfflineMirror(tmp_path)
    for start in range(0, len(events), 4):
        mirror.deliver(events[start : start + 4])
    expected = expected_page(mirror, events)
    server = Server()
    SyncRunner.sync_all_offline(
        backend=server, base_path=tmp_path / ".neptune", project_name=QualifiedName("offline/project")
    )
    assert refused == []
    assert not folder_of_run(tmp_path, RUN).exists()  # taken away by the command
    ((run, _),) = [key for key in server._containers if key[1] == ContainerType.RUN]
    for key, value in expected.config.items():
        assert server._get_attribute(run, ContainerType.RUN, ["config", key], object).value == value
    finite = [p.value for p in expected.points if p.metric == "train/loss" and p.attempt == 1]
    path = ["metrics", "train", "loss", "attempt-1"]
    assert server._get_attribute(run, ContainerType.RUN, path, object).values == finite


def test_a_value_of_another_type_takes_the_place_of_the_first(tmp_path: Path) -> None:
    from neptune.internal.operation import AssignFloat, AssignString, DeleteAttribute

    facts = [run_started(), *(ConfigResolved(config={"lr": lr}, digest="6b" * 32) for lr in (1.0, "auto", "none"))]
    mirror = OfflineMirror(tmp_path)
    for event in stream(facts, run_id=RUN):
        mirror.deliver([event])
    path = ["config", "lr"]
    done = [operation for operation in operations(folder_of_run(tmp_path, RUN)) if operation.path == path]
    assert done == [
        AssignFloat(path, 1.0),
        DeleteAttribute(path),
        AssignString(path, "auto"),
        AssignString(path, "none"),
    ]


def test_a_run_that_neptune_has_taken_away_is_told(tmp_path: Path, events: Sequence[Recorded]) -> None:
    OfflineMirror(tmp_path).deliver(events[:9])
    folder_of_run(tmp_path, RUN).rename(tmp_path / "synced")
    with pytest.raises(Conflict, match="has 0 events of a run of which 9 were delivered") as told:
        OfflineMirror(tmp_path).deliver(events[9:])
    assert "--again" in str(told.value.mend)


def test_nothing_of_the_token_is_written(
    tmp_path: Path, events: Sequence[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "geheim" * 8)
    OfflineMirror(tmp_path).deliver(events)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [path for path in files if b"geheim" in path.read_bytes()]


def test_whole_numbers_beyond_32_bits_are_floats(tmp_path: Path) -> None:
    """Neptune's own has 32 bits, and refuses a whole request for one that is beyond."""
    config = {"least": -(2**31), "most": 2**31 - 1, "below": -(2**31) - 1, "beyond": 2**31, "exact": 2**53}
    facts = [run_started(), ConfigResolved(config=config, digest="6b" * 32)]
    OfflineMirror(tmp_path).deliver(stream(facts, run_id=RUN))
    done = {each.path[1]: each for each in operations(folder_of_run(tmp_path, RUN)) if each.path[0] == "config"}
    assert {name: type(each).__name__ for name, each in done.items()} == {
        "least": "AssignInt",
        "most": "AssignInt",
        "below": "AssignFloat",
        "beyond": "AssignFloat",
        "exact": "AssignFloat",
    }
    assert {name: each.value for name, each in done.items()} == config


def test_the_times_of_no_series_go_back(tmp_path: Path) -> None:
    facts = (
        run_started(),
        values("loss", {1: 1.0, 2: 2.0}, at=9),
        values("loss", {3: 3.0, 4: 4.0}),
        metrics(5, ("loss",), 2),
    )
    mirror = OfflineMirror(tmp_path)
    events = stream(facts, run_id=RUN)
    mirror.deliver(events)
    series: dict[str, list[float]] = {}
    for operation in operations(folder_of_run(tmp_path, RUN)):
        if operation.path[0] == "metrics":
            series.setdefault(operation.path[-1], []).extend(each.ts for each in operation.values)
    assert list(series) == ["attempt-1", "attempt-1.2", "attempt-1.3"]
    assert all(times == sorted(times) for times in series.values())
    assert {each.what for each in mirror.adapt(expected_page(mirror, events))[1]} == {"metric loss"}
