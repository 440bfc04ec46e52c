from __future__ import annotations

import functools
import json
import math
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from ledger.codec import new_id
from ledger.errors import Conflict, InvalidSettings, PluginUnavailable, Unavailable
from ledger.events import ConfigResolved, RunFailed
from ledger.hooks.differences import differences
from ledger.settings import find_settings
from ledger.testing.builders import logged, resumed, run_started, stream
from ledger.testing.mirrors import BaseMirrorTests, expected_page
from ledger_tensorboard import open_mirrors
from ledger_tensorboard.mirror import TensorBoardMirror
from tests.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ledger.codec import Recorded
    from ledger.hooks.ports import Mirror

PATIENCE_S = 120


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "boards"


class TestMirror(BaseMirrorTests):
    client = "tensorboard"

    @pytest.fixture
    def open_mirror(self, directory: Path) -> Callable[[], Mirror]:
        return functools.partial(TensorBoardMirror, directory)

    @pytest.fixture
    def unreachable(self, directory: Path) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def away() -> Iterator[None]:
            aside = directory.with_name("aside")
            directory.rename(aside)
            directory.write_text("no directory")
            yield
            directory.unlink()
            aside.rename(directory)

        return away

    @pytest.fixture
    def occupy(self, directory: Path) -> Callable[[str], None]:
        def write(run: str) -> None:
            (directory / f"run-1-{run[-12:]}").mkdir(parents=True)

        return write

    @pytest.mark.slow
    def test_killed_on_the_way_and_restarted_it_is_shown_once(self, open_mirror: Callable[[], Mirror]) -> None:
        super().test_killed_on_the_way_and_restarted_it_is_shown_once(open_mirror)


def deliver(directory: Path, *batches: Sequence[Recorded]) -> None:
    with closing(TensorBoardMirror(directory)) as mirror:
        for batch in batches:
            mirror.deliver(batch)


def wrong(directory: Path, events: Sequence[Recorded]) -> list[Any]:
    with closing(TensorBoardMirror(directory)) as mirror:
        shown = mirror.shows(events[0].stream.removeprefix("run-"))
        assert shown is not None
        return differences(expected_page(mirror, events), shown)


TWICE = (
    run_started(tags=("baseline",)),
    ConfigResolved(config={"lr": 0.1, "fused": True, "name": "adamw"}, digest="6b" * 32),
    logged({step: {"loss": 1 / (step + 1)} for step in range(20)}),
    RunFailed(exception="RuntimeError: boom", traceback="one\n  two\n"),
    resumed(2, 10),
    logged({step: {"loss": 1 / (step + 2)} for step in range(10, 30)}),
)
"""A run of two attempts; steps 10 to 19 were made twice."""


def test_each_attempt_has_a_directory_of_its_own(directory: Path) -> None:
    run = new_id()
    deliver(directory, stream(TWICE, run_id=run))
    (home,) = directory.iterdir()
    assert home.name == f"run-1-{run[-12:]}"
    assert {path.name for path in home.iterdir() if path.is_dir()} == {"attempt-1", "attempt-2"}


@pytest.mark.parametrize("lost", [1, 5, 40])
def test_what_was_torn_by_a_crash_is_written_again(directory: Path, lost: int) -> None:
    events = stream(TWICE, run_id=new_id())
    deliver(directory, events[:4])
    for file in directory.rglob("events.out.tfevents.*"):
        file.write_bytes(file.read_bytes()[:-lost])
    deliver(directory, events)
    assert wrong(directory, events) == []


def test_a_file_that_could_not_be_finished_is_not_written_on(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = stream(TWICE, run_id=new_id())
    with closing(TensorBoardMirror(directory)) as mirror:
        mirror.deliver(events[:2])
        full = OSError(28, "No space left on device")
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(full))
            with pytest.raises(Unavailable, match="No space left on device"):
                mirror.deliver(events[2:])
        mirror.deliver(events[2:])
    assert wrong(directory, events) == []
    (home,) = directory.iterdir()
    assert len(list((home / "attempt-1").iterdir())) == 2


def test_a_full_disk_is_told_as_such_and_mends_itself(directory: Path) -> None:
    """What Python still holds of a file it tries to write once more when the file is closed."""
    events = stream(TWICE, run_id=new_id())
    with closing(TensorBoardMirror(directory)) as mirror:
        mirror.deliver(events[:2])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        try:
            with pytest.raises(Unavailable, match="File too large"):
                mirror.deliver(events[2:])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        mirror.deliver(events[2:])
    assert wrong(directory, events) == []


def test_a_directory_that_was_removed_is_made_anew_from_the_beginning(directory: Path) -> None:
    events = stream(TWICE, run_id=new_id())
    with pytest.raises(Conflict, match="no longer has the run") as caught:
        deliver(directory, events[2:])
    assert "--again" in (caught.value.mend or "")
    deliver(directory, events)
    assert wrong(directory, events) == []


def test_a_directory_that_was_put_back_from_a_copy_gets_what_it_lacks_from_the_beginning(directory: Path) -> None:
    events = stream(TWICE, run_id=new_id())
    deliver(directory, events[:3])
    with pytest.raises(Conflict, match="up to event 2 only") as caught:
        deliver(directory, events[4:])
    assert "--again" in (caught.value.mend or "")
    deliver(directory, events)
    assert wrong(directory, events) == []


def test_the_package_is_not_installed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(PluginUnavailable) as caught:
        deliver(directory, stream(TWICE))
    assert caught.value.mend == "pip install 'training-ledger[tensorboard]'"


def test_values_have_32_bits() -> None:
    values = {0.1: 0.10000000149011612, 1e300: math.inf, -1e300: -math.inf, 5e-324: 0.0, 0.5: 0.5}
    events = stream([run_started(), logged({step: {"x": value} for step, value in enumerate(values)})])
    page = expected_page(TensorBoardMirror(Path()), events)
    assert [point.value for point in page.points] == list(values.values())


@pytest.mark.slow
@pytest.mark.parametrize("fast", ["true", "false"])
def test_tensorboard_itself_shows_the_run(directory: Path, fast: str) -> None:
    """By both of its readers; behind a record that was torn, too."""
    events = stream(TWICE, run_id=new_id())
    deliver(directory, events[:4])
    for file in directory.rglob("events.out.tfevents.*"):
        file.write_bytes(file.read_bytes()[:-5])
    deliver(directory, events)
    (home,) = directory.iterdir()
    with Board(directory, fast) as board:
        for attempt, divisor in (("attempt-1", 1), ("attempt-2", 2)):
            points = board.ask("scalars/scalars", run=f"{home.name}/{attempt}", tag="loss")
            first = 0 if divisor == 1 else 10
            assert [(step, pytest.approx(value)) for _, step, value in points] == [
                (step, 1 / (step + divisor)) for step in range(first, first + 20)
            ]
        statuses = board.ask("text/text", run=home.name, tag="status")
        assert [each["text"] for each in statuses] == [f"<p>{text}</p>" for text in ("running", "failed", "running")]
        (traceback,) = board.ask("text/text", run=home.name, tag="attempt/1/traceback")
        assert "one\n  two" in traceback["text"]
        experiment = board.ask("hparams/experiment", data=b"{}")
        assert {each["name"] for each in experiment["hparamInfos"]} == {"lr", "fused", "name"}


class Board:
    """TensorBoard, as a user starts it."""

    def __init__(self, directory: Path, fast: str) -> None:
        self._port = free_port()
        program = Path(sys.executable).with_name("tensorboard")
        words = ["--logdir", directory, "--port", self._port, "--load_fast", fast, "--reload_interval", 1]
        self._log = directory.with_name("tensorboard.log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([program, *map(str, words)], stdout=log, stderr=log)

    def __enter__(self) -> Board:
        deadline = time.monotonic() + PATIENCE_S
        while len(self._runs()) < 2:
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def _runs(self) -> Any:
        try:
            return self.ask("scalars/tags")
        except urllib.error.URLError:
            return ()

    def ask(self, path: str, *, data: bytes | None = None, **query: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/data/plugin/{path}?{urlencode(query)}"
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def test_the_directory_is_a_setting(tmp_path: Path) -> None:
    def target(table: str) -> str:
        (tmp_path / "ledger.toml").write_text(f"[plugin.tensorboard]\n{table}")
        (mirror,) = open_mirrors(find_settings(start=tmp_path, environ={}))
        return mirror.target

    assert target("") == str(tmp_path / ".ledger/mirrors/tensorboard")
    assert target('directory = "boards"') == str(tmp_path / "boards")
    assert target('directory = "../boards"') == str(tmp_path.parent / "boards")
    for table in ('dir = "x"', "directory = 7"):
        with pytest.raises(InvalidSettings) as caught:
            target(table)
        assert "directory" in (caught.value.mend or "")
