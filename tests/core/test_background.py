"""Checkpoints behind training: real threads, real files, a real store that is slow or fails on purpose."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ledger
import ledger_fsspec
from ledger.checkpoints import BackgroundKeeper, Due, Keeper, Policy
from ledger.errors import CheckpointUnavailable, Conflict, FencedAttempt
from ledger.events import CheckpointDeleted, CheckpointWritten, TrainingResumed
from ledger.files import Lent
from ledger.hooks.manager import Plugins
from ledger.hooks.ports import Borrowing
from ledger.hooks.specs import hookimpl
from ledger.record.run import start_run
from ledger.store.base import run_stream
from ledger.testing.builders import PROCESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.events import Stored
    from ledger.hooks.ports import CheckpointStore

DEADLINE_S = 30.0
EVERY_STEP = Policy(every=1)


@dataclass
class Door:
    shop: Shop
    behind: CheckpointStore

    def write(self, directory: Path, key: str, base: Stored | None = None) -> Stored:
        return self._through(lambda: self.behind.write(directory, key, base))

    def _through(self, write: Callable[[], Stored]) -> Stored:
        self.shop.writes += 1
        self.shop.at_once += 1
        self.shop.most_at_once = max(self.shop.most_at_once, self.shop.at_once)
        try:
            assert self.shop.open.wait(DEADLINE_S), "nobody opened the door"
            if self.shop.errors:
                raise self.shop.errors.pop(0)
            return write()
        finally:
            self.shop.at_once -= 1

    def delete(self, stored: Stored) -> None:
        if self.shop.deletions:
            raise self.shop.deletions.pop(0)
        self.behind.delete(stored)

    def __getattr__(self, name: str) -> Any:
        if name == "write_lent":  # what this store, like most of strangers, does not have
            raise AttributeError(name)
        return getattr(self.behind, name)


@dataclass
class WideDoor(Door):
    """Through which what is in memory passes, too."""

    def write_lent(self, directory: Path, lent: Lent, key: str, base: Stored | None = None) -> Stored:
        assert isinstance(self.behind, Borrowing)
        behind = self.behind
        self.shop.lent += 1
        return self._through(lambda: behind.write_lent(directory, lent, key, base))


@dataclass
class Shop:
    """A plugin whose store is the one for files, behind a door that a test closes and a line that it cuts."""

    open: threading.Event = field(default_factory=threading.Event)
    writes: int = 0
    at_once: int = 0
    most_at_once: int = 0
    errors: list[Exception] = field(default_factory=list)
    """Raised by the next writes, one each."""
    deletions: list[Exception] = field(default_factory=list)
    """Raised by the next deletions, one each."""
    door: type[Door] = Door
    lent: int = 0
    """Writes of something in memory."""

    @hookimpl
    def open_checkpoint_store(self, uri: str, settings: ledger.Settings) -> CheckpointStore:
        behind = ledger_fsspec.open_checkpoint_store(uri, settings)
        assert behind is not None
        return self.door(self, behind)


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    shop.open.set()
    return shop


@pytest.fixture
def book(tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[ledger.Book]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LEDGER_")]:
        monkeypatch.delenv(name)
    with ledger.open_ledger(plugins=Plugins.of(shop)) as book:
        yield book


@pytest.fixture
def run(book: ledger.Book) -> Iterator[ledger.Run]:
    with start_run(book=book) as run:
        yield run


@dataclass
class Trainer:
    """Something that trains: its state is the number of its step."""

    background: BackgroundKeeper
    keeper: Keeper
    steps: int
    step: int = 0
    threads: list[int] = field(default_factory=list)
    """Those in which its state was written."""

    def save(self, directory: Path) -> Callable[[], object]:
        copy = self.step

        def write() -> object:
            self.threads.append(threading.get_ident())
            return (directory / "state").write_text(str(copy))

        return write

    def train(self, until: int | None = None) -> None:
        while self.step < (until or self.steps):
            self.step += 1
            if due := self.keeper.due(self.step, {}, last=self.step == self.steps):
                self.background.keep(self.save, due, step=self.step, metrics={"loss": 1.0 / self.step})


def trainer(run: ledger.Run, policy: Policy = EVERY_STEP, *, steps: int = 4, **options: Any) -> Trainer:
    keeper = Keeper(run, policy)
    return Trainer(BackgroundKeeper(run, keeper, **({"backoff": (0.0, 0.0)} | options)), keeper, steps)


def idle(background: BackgroundKeeper) -> None:
    """Return when nothing is under way."""
    deadline = time.monotonic() + DEADLINE_S
    while background.busy:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def facts(book: ledger.Book, run: ledger.Run, kind: type[Any]) -> list[Any]:
    return [r.event for r in book.store.read(run_stream(run.id)) if isinstance(r.event, kind)]


def stored(book: ledger.Book, run: ledger.Run) -> dict[str, str]:
    """What each checkpoint on record holds, read back from the store."""
    found = {}
    for written in book.run(run.name).checkpoints:
        with tempfile.TemporaryDirectory() as place:
            book.checkpoints().read(written, Path(place, "c"))
            found[written.name] = Path(place, "c/state").read_text()
    return found


def notes(book: ledger.Book, run: ledger.Run) -> list[str]:
    return [note.text for note in book.run(run.name).notes if "checkpoint" in note.tags]


def test_training_goes_on_while_a_checkpoint_is_stored(book: ledger.Book, shop: Shop, run: ledger.Run) -> None:
    shop.open.clear()
    some = trainer(run, Policy(every=3), steps=9)
    with some.background:
        some.train(until=5)
        assert some.step == 5
        assert some.background.busy
        assert facts(book, run, CheckpointWritten) == []
        some.step = 100  # what was taken does not change any more
        shop.open.set()
    assert stored(book, run) == {"step-3": "3"}
    assert threading.get_ident() not in some.threads
    assert some.background.costs.written == 1
    assert not run.scratch.exists()


def test_one_at_a_time_and_the_wait_is_said_and_on_record(book: ledger.Book, shop: Shop, run: ledger.Run) -> None:
    shop.open.clear()
    said: list[str] = []
    some = trainer(run, steps=2, say=said.append)
    release = threading.Timer(1.4, shop.open.set)
    with some.background:
        release.start()
        some.train()
    assert shop.most_at_once == 1
    assert stored(book, run) == {"step-1": "1", "step-2": "2"}, "nothing is dropped"
    assert said == ["step 2 waits for the checkpoint step-1"]
    (note,) = notes(book, run)
    waited = some.background.costs.waited
    assert note == f"training waited {waited:.1f} s at step 2 for the checkpoint step-1"
    assert 1.0 < waited < DEADLINE_S


def test_a_store_that_is_out_of_reach_is_tried_again(book: ledger.Book, shop: Shop, run: ledger.Run) -> None:
    shop.errors = [CheckpointUnavailable("503 slow down"), TimeoutError("no answer")]
    said: list[str] = []
    some = trainer(run, steps=1, say=said.append)
    with some.background:
        some.train()
    assert shop.writes == 3
    assert stored(book, run) == {"step-1": "1"}
    assert notes(book, run) == []
    assert said == [
        "storing the checkpoint step-1 failed: 503 slow down; trying again in 0 s",
        "storing the checkpoint step-1 failed: TimeoutError: no answer; trying again in 0 s",
    ]


@pytest.mark.parametrize(
    ("error", "writes"), [(OSError("cut"), 6), (Conflict("another has it"), 4)], ids=["may pass", "will not"]
)
def test_a_checkpoint_that_cannot_be_stored_is_a_warning_and_training_goes_on(
    book: ledger.Book, shop: Shop, run: ledger.Run, error: Exception, writes: int
) -> None:
    shop.errors = [error] * (3 if writes == 6 else 1)
    said: list[str] = []
    some = trainer(run, say=said.append)
    with some.background:
        some.train(until=1)
        idle(some.background)
        assert some.background.failure is error
        some.train()
    assert shop.writes == writes
    assert stored(book, run) == {"step-2": "2", "step-3": "3", "step-4": "4"}
    (note,) = notes(book, run)
    assert note.startswith("warning: the checkpoint step-1 was not stored: ")
    assert str(error) in note
    assert note in said
    assert some.background.failure is None
    assert not run.scratch.exists()


def test_the_last_checkpoint_is_no_mere_warning(book: ledger.Book, shop: Shop) -> None:
    told = "the last one, was not stored: the disk is gone"
    with pytest.raises(CheckpointUnavailable, match=told) as caught, start_run(book=book) as run:
        some = trainer(run, steps=2)
        with some.background:
            some.train(until=1)
            idle(some.background)
            shop.errors = [OSError("the disk is gone")] * 3
            some.train()
    assert (run.scratch / "step-2" / "state").read_text() == "2"
    assert str(run.scratch / "step-2") in (caught.value.mend or "")
    state = book.run(run.name)
    assert state.status == "failed"
    assert stored(book, run) == {"step-1": "1"}


@dataclass
class Lender(Trainer):
    """Its state is never written by itself."""

    def save(self, directory: Path) -> Callable[[], Lent]:
        self.buffers: list[memoryview] = [memoryview(digit.encode()) for digit in str(self.step)]
        return lambda: Lent({"state": self.buffers})


@pytest.mark.parametrize("door", [Door, WideDoor])
def test_what_is_lent_is_stored_by_any_store(book: ledger.Book, shop: Shop, run: ledger.Run, door: type[Door]) -> None:
    shop.door = door
    shop.errors = [OSError("not now")]
    keeper = Keeper(run, Policy(every=5))
    some = Lender(BackgroundKeeper(run, keeper, backoff=(0.0,)), keeper, steps=12)
    with some.background:
        some.train()
    assert stored(book, run) == {"step-5": "5", "step-10": "10", "step-12": "12"}
    assert shop.writes == 4
    assert shop.lent == (4 if door is WideDoor else 0)
    assert not run.scratch.exists()


def test_the_last_checkpoint_that_was_lent_is_kept_as_files(book: ledger.Book, shop: Shop) -> None:
    shop.door = WideDoor
    shop.errors = [OSError("the disk is gone")] * 3
    with pytest.raises(CheckpointUnavailable, match="the disk is gone"), start_run(book=book) as run:
        keeper = Keeper(run, EVERY_STEP)
        some = Lender(BackgroundKeeper(run, keeper, backoff=(0.0, 0.0)), keeper, steps=1)
        with some.background:
            some.train()
    assert (run.scratch / "step-1" / "state").read_text() == "1"


def test_an_error_in_training_waits_for_what_is_under_way_and_is_not_hidden(
    book: ledger.Book, shop: Shop, run: ledger.Run
) -> None:
    shop.open.clear()
    some = trainer(run)
    with pytest.raises(ZeroDivisionError), some.background:
        some.train(until=1)
        threading.Timer(0.1, shop.open.set).start()
        raise ZeroDivisionError
    assert stored(book, run) == {"step-1": "1"}


def test_what_the_programmer_did_wrong_comes_with_its_traceback(
    book: ledger.Book, run: ledger.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(directory: Path) -> Callable[[], None]:
        return lambda: [][0]

    with trainer(run).background as background:
        background.keep(save, [Due("step-1")], step=1, metrics={})
    assert notes(book, run) == ["warning: the checkpoint step-1 was not stored: IndexError: list index out of range"]
    assert "return lambda: [][0]" in capsys.readouterr().err


def test_a_deletion_that_fails_costs_no_checkpoint_and_is_made_up_for(
    book: ledger.Book, shop: Shop, run: ledger.Run
) -> None:
    shop.deletions = [OSError("not now")] * 3
    some = trainer(run, Policy(every=1, keep_last=1))
    with some.background:
        some.train(until=2)
    assert stored(book, run) == {"step-2": "2"}
    assert notes(book, run) == ["warning: superseded checkpoints were not deleted: OSError: not now"]
    some = Trainer(BackgroundKeeper(run, some.keeper), some.keeper, steps=3, step=2)
    with some.background:
        some.train()
    assert stored(book, run) == {"step-3": "3"}
    assert [d.name for d in facts(book, run, CheckpointDeleted)] == ["step-1", "step-2"], "each once"
    names = [kept.uri.rpartition("/")[2] for kept in book.checkpoints().list("")]
    assert names == ["step-3"]


def test_a_fenced_attempt_is_told_at_the_next_checkpoint(book: ledger.Book) -> None:
    with pytest.raises(FencedAttempt), start_run(book=book) as run:
        some = trainer(run)
        with some.background:
            some.train(until=1)
            idle(some.background)
            resumed = TrainingResumed(attempt=2, step=None, checkpoint=None, uri=None, process=PROCESS)
            book.append(run.id, resumed, attempt=2)
            some.train(until=3)
    assert some.step == 3
    assert [written.name for written in facts(book, run, CheckpointWritten)] == ["step-1"]


def test_what_a_killed_process_was_saving_is_gone_before_anything_is_saved(run: ledger.Run) -> None:
    left = run.scratch / "step-1"
    left.mkdir(parents=True)
    (left / "half").touch()
    with trainer(run).background:
        assert not run.scratch.exists()
