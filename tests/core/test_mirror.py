"""Runs on their way to another tracker: cursors, batches, retries, the check. The tracker is a directory of files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ledger
from ledger.book import HOST, this_process
from ledger.codec import new_id
from ledger.errors import CursorHeld, InvalidSettings, PluginUnavailable, Unavailable, UsageError
from ledger.events import Process, RunAnnotated, RunCompleted
from ledger.hooks.manager import Plugins
from ledger.hooks.pages import Adaptation
from ledger.hooks.specs import hookimpl
from ledger.mirror import deliver
from ledger.mirror.batches import MOST_EVENTS, MOST_POINTS, batches
from ledger.mirror.check import check
from ledger.mirror.cursor import Held, at_work, behind, key_of
from ledger.mirror.deliver import Delivery
from ledger.processes import start_of
from ledger.record import mirroring
from ledger.settings import find_settings
from ledger.store.base import run_stream
from ledger.testing.builders import PROCESS, logged, run_started, stream
from ledger.testing.eventful import EVENTFUL
from ledger_jsonl.mirror import JsonLines
from tests import postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ledger.book import Book
    from ledger.codec import Recorded
    from ledger.hooks.pages import Page
    from ledger.hooks.ports import Mirror
    from ledger.settings import Settings


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with ledger.open_ledger(str(tmp_path / "ledger")) as book:
        yield book


@pytest.fixture
def mirror(tmp_path: Path) -> JsonLines:
    return JsonLines(tmp_path / "shown")


@pytest.fixture
def run(book: Book) -> str:
    """A run with everything in the log."""
    run = new_id()
    book.store.name_run(run_stream(run))
    attempts = [each.metadata.attempt for each in stream(EVENTFUL)]
    for written, attempt in zip(EVENTFUL, attempts, strict=True):
        rank, fact = written if isinstance(written, tuple) else (None, written)
        book.append(run, fact, rank=rank, attempt=attempt)
    return run


def away(mirror: JsonLines) -> Path:
    """Put the tracker out of reach; where it is kept meanwhile."""
    there = Path(mirror.target)
    aside = there.with_name("aside")
    if there.exists():
        there.rename(aside)
    there.write_text("in the way")
    return aside


def back(mirror: JsonLines, aside: Path) -> None:
    Path(mirror.target).unlink()
    if aside.exists():
        aside.rename(mirror.target)


def lines(mirror: JsonLines, run: str) -> list[str]:
    return (Path(mirror.target) / f"{run}.jsonl").read_text().splitlines()


# --- batches


@hypothesis.settings(deadline=None)  # long batches take long to make
@given(st.lists(st.none() | st.integers(0, MOST_POINTS + 5), max_size=30))
def test_batches_hold_every_event_in_order_and_not_too_much(sizes: list[int | None]) -> None:
    events: list[Recorded | None] = [
        None if size is None else stream([logged({step: {"x": 1.0} for step in range(size)})])[0] for size in sizes
    ]
    found = list(batches(events))
    assert [each for batch in found for each in batch] == [each for each in events if each is not None]
    assert all(found), "an empty batch is none"
    for batch in found:
        assert len(batch) <= MOST_EVENTS
        assert len(batch) == 1 or sum(len(each.event.step) for each in batch) <= MOST_POINTS  # type: ignore[union-attr]


def test_small_events_fill_a_batch_and_a_pause_ends_it() -> None:
    events = stream([RunAnnotated(text=str(n)) for n in range(MOST_EVENTS + 1)])
    assert [len(batch) for batch in batches(events)] == [MOST_EVENTS, 1]
    assert [len(batch) for batch in batches([*events[:3], None, None, *events[3:5], None])] == [3, 2]


# --- catching up


def test_a_run_is_brought_and_then_there_is_nothing_new(book: Book, mirror: JsonLines, run: str) -> None:
    assert behind(book, mirror, run) == len(EVENTFUL)
    first = Delivery(book, mirror, run)
    seen: list[int] = []
    first.catch_up(progress=seen.append)
    assert first.events == len(EVENTFUL)
    assert seen[-1] == len(EVENTFUL) - 1
    assert (behind(book, mirror, run), check(book, mirror, run).differences) == (0, [])
    second = Delivery(book, mirror, run)
    second.catch_up()
    assert second.events == 0
    book.append(run, RunAnnotated(text="later"))
    second.catch_up()
    assert second.events == 1
    assert check(book, mirror, run).differences == []


def test_another_target_is_caught_up_from_the_beginning(
    book: Book, mirror: JsonLines, run: str, tmp_path: Path
) -> None:
    Delivery(book, mirror, run).catch_up()
    other = JsonLines(tmp_path / "elsewhere")
    delivery = Delivery(book, other, run)
    delivery.catch_up()
    assert delivery.events == len(EVENTFUL)
    assert lines(other, run) == lines(mirror, run)


def test_a_tracker_that_is_away_loses_nothing(book: Book, mirror: JsonLines, run: str) -> None:
    aside = away(mirror)
    said: list[str] = []
    with pytest.raises(Unavailable) as told:
        Delivery(book, mirror, run, patience_s=1, told=said.append).catch_up()
    assert told.value.mend
    assert said
    assert behind(book, mirror, run) == len(EVENTFUL)
    back(mirror, aside)
    Delivery(book, mirror, run).catch_up()
    assert check(book, mirror, run).differences == []


def test_a_tracker_that_comes_back_is_caught_up(book: Book, mirror: JsonLines, run: str) -> None:
    aside = away(mirror)
    tried = threading.Event()
    delivery = Delivery(book, mirror, run, told=lambda _: tried.set())
    bringing = threading.Thread(target=delivery.catch_up)
    bringing.start()
    assert tried.wait(30)
    back(mirror, aside)
    bringing.join(60)
    assert (delivery.events, check(book, mirror, run).differences) == (len(EVENTFUL), [])


class Flaky(JsonLines):
    """A tracker that answers every other time only."""

    asked = 0

    def deliver(self, batch: Sequence[Recorded]) -> None:
        self.asked += 1
        if self.asked % 2:
            raise Unavailable("busy", mend="wait")
        super().deliver(batch)


def test_patience_begins_anew_with_what_arrives(
    book: Book, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "_LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(deliver, "batches", lambda events: ([each] for each in events))
    mirror = Flaky(tmp_path / "shown")
    began = time.monotonic()
    Delivery(book, mirror, run, patience_s=0.2).catch_up()
    assert time.monotonic() - began > 0.2
    assert check(book, mirror, run).differences == []


def test_a_run_that_was_removed_from_the_tracker_is_brought_again(book: Book, mirror: JsonLines, run: str) -> None:
    Delivery(book, mirror, run).catch_up()
    shutil.rmtree(mirror.target)
    assert [each.what for each in check(book, mirror, run).differences] == ["run"]
    Delivery(book, mirror, run).catch_up()
    assert [each.what for each in check(book, mirror, run).differences] == ["run"]
    again = Delivery(book, mirror, run)
    again.catch_up(again=True)
    assert again.events == len(EVENTFUL)
    assert check(book, mirror, run).differences == []


def test_what_the_tracker_shows_otherwise_is_told(book: Book, mirror: JsonLines, run: str) -> None:
    Delivery(book, mirror, run).catch_up()
    file = Path(mirror.target) / f"{run}.jsonl"
    kept = [line for line in file.read_text().splitlines() if '"tag":"suspicious"' not in line]
    changed = [line.replace('"value":"completed"', '"value":"failed"') for line in kept]
    changed.append(changed[-1].replace("status", "invented").replace("replay", "invented"))
    point = next(n for n, line in enumerate(changed) if '"metric":"lr"' in line)
    del changed[point]
    file.write_text("".join(f"{line}\n" for line in changed))
    checked = check(book, mirror, run)
    assert checked.behind == 0
    told = {each.what: (each.expected, each.shown) for each in checked.differences}
    assert told["status"] == ("'completed'", "'failed'")
    assert told["tag suspicious"] == ("'there'", "nothing")
    assert told["metric lr"][0] != told["metric lr"][1]
    assert any("invented" in what for what in told)


def test_what_arrives_while_a_run_is_checked_is_no_difference_without_a_reason(
    book: Book, run: str, tmp_path: Path
) -> None:
    class Busy(JsonLines):
        """Somebody delivers more to it just before it is read back."""

        def shows(self, run_id: str) -> Page | None:
            book.append(run_id, RunAnnotated(text="meanwhile"))
            Delivery(book, self, run_id).catch_up()
            return super().shows(run_id)

    mirror = Busy(tmp_path / "shown")
    Delivery(book, mirror, run).catch_up()
    checked = check(book, mirror, run)
    assert (checked.differences, checked.behind) == ([], 1)


# --- one at a time


def holder_of(process: Process) -> str:
    return f"process {process.pid} on {process.host}, started {process.started}"


def test_a_process_that_lives_keeps_others_out(book: Book, mirror: JsonLines, run: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        holder = holder_of(Process(host=HOST, pid=other.pid, started=start_of(other.pid) or ""))
        book.store.cursors.take(key_of(mirror, run), holder, 600)
        with pytest.raises(CursorHeld, match=str(other.pid)) as held:
            Delivery(book, mirror, run, patience_s=0.1).catch_up()
        assert held.value.mend
        assert not Path(mirror.target).exists()
        other.kill()
    Delivery(book, mirror, run, patience_s=0.1).catch_up()  # killed, it gives way at once
    assert check(book, mirror, run).differences == []


def test_a_process_on_another_host_keeps_others_out_as_long_as_it_says_so(
    book: Book, mirror: JsonLines, run: str
) -> None:
    elsewhere = holder_of(Process(host="elsewhere", pid=1, started="1"))
    book.store.cursors.take(key_of(mirror, run), elsewhere, 600)
    with pytest.raises(CursorHeld, match="elsewhere"):
        Delivery(book, mirror, run, patience_s=0.1).catch_up()
    book.store.cursors.take(key_of(mirror, run), elsewhere, -1)
    Delivery(book, mirror, run, patience_s=0.1).catch_up()
    assert check(book, mirror, run).differences == []


def test_the_cursor_is_anybodys_after_a_delivery(book: Book, mirror: JsonLines, run: str) -> None:
    with Held(book, mirror, run):
        held = book.store.cursors.at(key_of(mirror, run))
        assert held is not None
        assert held.left > 0
        assert held.holder == holder_of(this_process())
    after = book.store.cursors.at(key_of(mirror, run))
    assert after is not None
    assert after.left <= 0


def test_between_two_tries_the_cursor_is_anybodys(book: Book, run: str, tmp_path: Path) -> None:
    class Watched(JsonLines):
        def deliver(self, batch: Sequence[Recorded]) -> None:
            assert at_work(book, self, run) == "delivering"
            super().deliver(batch)

    mirror = Watched(tmp_path / "shown")
    assert at_work(book, mirror, run) is None
    aside = away(mirror)
    delivery = Delivery(book, mirror, run, patience_s=0)
    with pytest.raises(Unavailable):
        delivery.catch_up()
    assert at_work(book, mirror, run) == "waiting"
    back(mirror, aside)
    delivery.catch_up()
    assert behind(book, mirror, run) == 0


def test_a_process_that_died_is_not_at_work(book: Book, mirror: JsonLines, run: str) -> None:
    book.store.cursors.take(key_of(mirror, run), holder_of(PROCESS.model_copy(update={"host": HOST})), 600)
    assert at_work(book, mirror, run) is None


def test_who_was_overtaken_learns_of_it(book: Book, mirror: JsonLines, run: str) -> None:
    with Held(book, mirror, run) as held:
        book.store.cursors.take(key_of(mirror, run), "another", 60, instead_of=holder_of(this_process()))
        with pytest.raises(CursorHeld, match="another"):
            held.move(3)
    assert book.store.cursors.take(key_of(mirror, run), "another", 60) == -1


# --- following


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.05)


def begun(book: Book, process: Process) -> str:
    run = new_id()
    book.store.name_run(run_stream(run))
    book.append(run, run_started(process=process), attempt=1)
    return run


def test_a_run_is_followed_to_its_end(book: Book, mirror: JsonLines) -> None:
    run = begun(book, this_process())
    delivery = Delivery(book, mirror, run)
    following = threading.Thread(target=delivery.follow)
    following.start()
    for step in range(5):
        book.append(run, logged({step: {"loss": 1.0}}), attempt=1)
        until(lambda: behind(book, mirror, run) == 0)
    assert following.is_alive()
    book.append(run, RunCompleted(step=4), attempt=1)
    following.join(30)
    assert not following.is_alive()
    assert delivery.events == 7
    assert check(book, mirror, run).differences == []


def test_a_run_whose_writer_died_is_not_followed_for_ever(book: Book, mirror: JsonLines) -> None:
    run = begun(book, PROCESS.model_copy(update={"host": HOST, "pid": 2**22 - 1}))
    delivery = Delivery(book, mirror, run)
    delivery.follow()
    assert delivery.events == 1


def test_a_tracker_that_is_away_is_waited_for_as_long_as_the_run_goes_on(
    book: Book, mirror: JsonLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "_LONGEST_WAIT_S", 0.05)
    run = begun(book, this_process())
    aside = away(mirror)
    said: list[str] = []
    delivery = Delivery(book, mirror, run, patience_s=0, told=said.append)
    following = threading.Thread(target=delivery.follow)
    following.start()
    until(lambda: len(said) >= 5)
    assert following.is_alive()
    back(mirror, aside)
    book.append(run, RunCompleted(step=None), attempt=1)
    following.join(30)
    assert check(book, mirror, run).differences == []


def test_patience_begins_when_the_run_has_ended(book: Book, mirror: JsonLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "_LONGEST_WAIT_S", 0.05)
    run = begun(book, this_process())
    aside = away(mirror)
    said: list[float] = []
    delivery = Delivery(book, mirror, run, patience_s=1, told=lambda _: said.append(time.monotonic()))
    following = threading.Thread(target=delivery.follow)
    following.start()
    until(lambda: said and said[-1] - said[0] > 1.5)
    book.append(run, RunCompleted(step=None), attempt=1)
    before = len(said)
    until(lambda: len(said) > before + 3 or not following.is_alive())
    back(mirror, aside)
    following.join(30)
    assert check(book, mirror, run).differences == []


@pytest.fixture
def server() -> Iterator[postgres.Server]:
    """A server of our own: the one that other tests share is left running."""
    yield from postgres.servers()


@pytest.mark.slow
def test_a_log_that_is_away_is_waited_for_too(
    server: postgres.Server, mirror: JsonLines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "_LONGEST_WAIT_S", 0.2)
    url = server.url(server.create())
    with ledger.open_ledger(settings=find_settings(url, start=tmp_path, environ={})) as book:
        run = begun(book, this_process())
        said: list[str] = []
        delivery = Delivery(book, mirror, run, patience_s=0, told=said.append)
        following = threading.Thread(target=delivery.follow)
        following.start()
        until(lambda: behind(book, mirror, run) == 0)
        server.kill()
        until(lambda: said)
        server.start()
        book.append(run, logged({1: {"loss": 1.0}}), RunCompleted(step=1), attempt=1)
        following.join(60)
        assert not following.is_alive()
        assert delivery.events == 3
        assert check(book, mirror, run).differences == []


# --- other people's mirrors


class Shouting(JsonLines):
    """A stranger's, which prints, and breaks at what it did not expect."""

    name = "shouting"

    def deliver(self, batch: Sequence[Recorded]) -> None:
        print("here we go")
        if any(each.type == "run.annotated" for each in batch):
            raise KeyError("note")
        super().deliver(batch)

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        print("adapting")
        return super().adapt(page)


def test_a_mirror_that_breaks_is_named_and_what_it_prints_is_no_data(
    book: Book, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PluginUnavailable, match=r"mirror shouting failed with events 0 to .*KeyError") as told:
        Delivery(book, Shouting(tmp_path / "shown"), run).catch_up()
    assert told.value.mend
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "mirror shouting: here we go" in printed.err


class Reluctant(JsonLines):
    """It learns what its tracker would not have when it delivers."""

    def noted(self, run_id: str) -> Sequence[Adaptation]:
        return [Adaptation("parameter lr", f"the tracker refuses it: {len(lines(self, run_id))} lines")]


def test_what_a_mirror_learns_from_its_tracker_is_listed(book: Book, run: str, tmp_path: Path) -> None:
    mirror = Reluctant(tmp_path / "shown")
    delivery = Delivery(book, mirror, run)
    delivery.catch_up()
    assert [each.what for each in delivery.adaptations] == ["parameter lr"]
    assert list(check(book, mirror, run).adaptations) == list(delivery.adaptations)
    nothing_new = Delivery(book, mirror, run)
    nothing_new.catch_up()
    assert not nothing_new.adaptations


class Offers:
    """A plugin with these mirrors."""

    def __init__(self, *mirrors: Mirror) -> None:
        self._mirrors = mirrors

    @hookimpl
    def open_mirrors(self, settings: Settings) -> Sequence[Mirror]:
        return self._mirrors


class Refuses:
    """A plugin whose settings do not hold."""

    __name__ = "refusing"

    @hookimpl
    def open_mirrors(self, settings: Settings) -> Sequence[Mirror]:
        raise InvalidSettings("plugin.refusing.x is 1", mend="leave it out")


def test_a_mirror_is_found_by_its_name_though_others_fail(book: Book, mirror: JsonLines) -> None:
    assert Plugins.of(Refuses(), Offers(mirror)).mirror("jsonl", book.settings) is mirror


def test_who_asks_for_a_mirror_that_is_not_there_is_told_those_there_are(book: Book, mirror: JsonLines) -> None:
    with pytest.raises(UsageError, match="no mirror 'mlfow'") as told:
        Plugins.of(Offers(mirror)).mirror("mlfow", book.settings)
    assert f"jsonl ({mirror.target})" in str(told.value.mend)


@pytest.mark.parametrize("shell", [("/bin/sh", "-c", "exit 2"), ("/bin/no-such-shell",)])
def test_a_mirror_that_cannot_be_started_costs_a_run_nothing(
    book: Book, monkeypatch: pytest.MonkeyPatch, shell: tuple[str, ...]
) -> None:
    monkeypatch.setattr(mirroring, "_APART", shell)
    book.settings = replace(book.settings, mirrors=("jsonl",))
    with pytest.warns(RuntimeWarning, match="the mirror jsonl could not be started"):
        mirroring.start_mirrors(book, new_id(), follow=True)


def test_settings_of_the_mirror_asked_for_that_do_not_hold_are_told(book: Book, mirror: JsonLines) -> None:
    with pytest.raises(InvalidSettings, match=r"plugin\.refusing\.x"):
        Plugins.of(Refuses(), Offers(mirror)).mirror("refusing", book.settings)
