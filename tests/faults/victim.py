"""Processes that are made to die: each does one thing over and over, or goes on one journey.

What a call has acknowledged is written down once it has returned; the line is in the operating system's hands then and
outlives the process, too. Used as ``python -m tests.faults.victim ACT [WORD …]`` by ``Place.start``.
"""

from __future__ import annotations

import atexit
import inspect
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ledger
from ledger.book import this_process
from ledger.codec import new_id
from ledger.errors import LedgerError
from ledger.events import CheckpointWritten, RunAnnotated
from ledger.record import writer
from ledger.record.run import Run
from ledger.store import head
from ledger.store.base import LEDGER_STREAM, run_stream
from ledger.testing.builders import run_started
from ledger.testing.stores import draft
from ledger.trust.keys import SigningKey, load_key, make_key, own_key_file
from ledger.trust.seal import seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

ROOT = f"{Path(ledger.__file__).parents[1]}/"
WATCHED = tuple(
    ROOT + part
    for part in (
        "ledger/book.py",
        "ledger/journal/",
        "ledger/objects/",
        "ledger/record/heartbeat.py",
        "ledger/record/run.py",
        "ledger/record/writer.py",
        "ledger/store/",
        "ledger/trust/seal.py",
        "plugins/ledger_fsspec/",
    )
)
"""The code that writes, or decides what is written."""
SOMEBODY = run_stream("01900000-0000-7000-8000-000000000001")


class Acks:
    """What this process was told is safe, in a file of its own."""

    def __init__(self) -> None:
        file = Path(os.environ["ACKS"], f"{os.getpid()}-{time.time_ns()}")
        self._fd = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._waiting: list[bytes] | None = None

    def row(self, run: Run, step: float, *names: str) -> None:
        """Of a row of metrics, what ``facts`` in ``place`` makes of it."""
        self(run_stream(run.id), *(f"{name} at {float(step)} of attempt {run.attempt}" for name in names))

    def __call__(self, stream: str, *facts: str) -> None:
        said = "".join(f"{stream}\t{fact}\n" for fact in facts).encode()
        if self._waiting is None:
            os.write(self._fd, said)
        else:
            self._waiting.append(said)

    def wait(self) -> None:
        """Keep what comes in memory until ``say``: this process may not be able to write for a while."""
        self._waiting = []

    def say(self) -> None:
        os.write(self._fd, b"".join(self._waiting or []))


def begun() -> None:
    print("begun", flush=True)


# --- over and over, until somebody ends it


def log(acks: Acks) -> None:
    """Metrics as fast as they go."""
    run = ledger.start_run()
    begun()
    step = 0
    while True:
        run.log({"a": step, "b": -step}, step=step)
        acks.row(run, step, "a", "b")
        step += 1


def drain(acks: Acks) -> None:
    """The same, while the journal is drained without a pause, and replaced as soon as it is."""
    writer._INTERVAL_S = 0.0  # type: ignore[misc]
    writer._LARGE = 1  # type: ignore[misc]
    log(acks)


def checkpoint(acks: Acks) -> None:
    """Checkpoints and notes, a row of metrics before each."""
    run = ledger.start_run()
    begun()
    step = 0
    while True:
        once(run, step, acks)
        step += 1


def append(acks: Acks) -> None:
    """Batches of events straight to the store."""
    store = ledger.open_ledger().store
    begun()
    n = 0
    while True:
        texts = [f"{os.getpid()}/{n}/{m}" for m in range(50)]
        store.append(SOMEBODY, [draft(text) for text in texts])
        acks(SOMEBODY, *texts)
        n += 1


def sealing(acks: Acks) -> None:
    """Seals, a note before each."""
    book = ledger.open_ledger()
    key = own_key()
    begun()
    n = 0
    while True:
        book.store.append(SOMEBODY, [draft(f"note {n}")])
        acks(SOMEBODY, f"note {n}")
        acks(LEDGER_STREAM, f"seal of {seal(book, key).head.size}")
        n += 1


# --- for a while, whatever happens around it


def steady(acks: Acks, seconds: str) -> None:
    """A training that goes on for so long, at a few thousand rows a second, and then completes."""
    with ledger.start_run() as run:
        begun()
        for step in _until(seconds):
            run.log({"loss": step}, step=step)
            acks.row(run, step, "loss")
            if step % 200 == 0:
                run.annotate(f"note {step}")
                acks(run_stream(run.id), f"note {step}")
            time.sleep(0.0002)
    acks(run_stream(run.id), "completed")


def scarce(acks: Acks, seconds: str) -> None:
    """The same where the disk may be full at any time: what is refused says why, and how to mend it.

    Says on stdout what was refused: it may be on record all the same, where only the last step of keeping it failed.
    """
    run = ledger.start_run()
    begun()
    _train_scarcely(run, acks, seconds)


def _train_scarcely(run: Run, acks: Acks, seconds: str) -> None:
    for step in _until(seconds):
        run.log({"loss": step}, step=step)
        acks.row(run, step, "loss")
        if step % 20 == 0:
            try:
                run.annotate(f"note {step}")
            except LedgerError as error:
                _refused(f"note {step}", error)
            else:
                acks(run_stream(run.id), f"note {step}")
        if step % 100 == 0:
            try:
                written = _checkpoint(run, step)
            except LedgerError as error:
                _refused(f"checkpoint {step}", error)
            else:
                acks(run_stream(run.id), f"checkpoint {written.uri}")
        time.sleep(0.001)
    run.finish()
    acks(run_stream(run.id), "completed")


def limited(acks: Acks, seconds: str, seed: str) -> None:
    """``scarce`` where no file may grow beyond a limit that comes and goes."""
    chance, limits = random.Random(seed), resource.getrlimit(resource.RLIMIT_FSIZE)
    acks.wait()
    run = ledger.start_run()
    begun()
    end = time.monotonic() + float(seconds)

    def limit(*_: object) -> None:
        largest = max(p.stat().st_size for p in Path(".ledger").rglob("*") if p.is_file())
        tight = chance.choice([largest + chance.randrange(100_000), chance.randrange(4_000, 200_000)])
        room = chance.random() < 0.5 or time.monotonic() > end - 0.5
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits[0] if room else tight, limits[1]))

    signal.signal(signal.SIGALRM, limit)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    _train_scarcely(run, acks, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    acks.say()


def clockless(acks: Acks, seconds: str, seed: str) -> None:
    """``steady`` while the clock of the machine jumps about by years, backwards more often than not."""
    chance, true_time = random.Random(seed), time.time

    def jumping() -> float:
        return true_time() + chance.choice([0, -1, -3600, chance.uniform(-3e8, 1e8)])

    class Jumping(head.datetime):  # type: ignore[misc,name-defined]
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.fromtimestamp(jumping(), tz)

    time.time = jumping
    head.datetime = Jumping  # type: ignore[attr-defined]
    steady(acks, seconds)


def forking(acks: Acks, seconds: str, seed: str) -> None:
    """A thread that logs while children are forked, by hand and by multiprocessing, that log as well."""
    chance = random.Random(seed)
    with ledger.start_run() as run:
        begun()
        done = threading.Event()

        def train() -> None:
            step = 0
            while not done.is_set():
                run.log({"parent": step}, step=step)
                acks.row(run, step, "parent")
                step += 1
                time.sleep(0.0005)

        def work(child: int) -> None:
            for step in range(20):
                run.log({f"child {child}": step}, step=step)
                acks.row(run, step, f"child {child}")
            if child % 3 == 0:
                run.annotate(f"child {child}")
                acks(run_stream(run.id), f"child {child}")

        training = threading.Thread(target=train)
        training.start()
        for child in _until(seconds):
            if chance.random() < 0.5:
                worker = multiprocessing.get_context("fork").Process(target=work, args=(child,))
                worker.start()
                worker.join()
            elif pid := os.fork():
                os.waitpid(pid, 0)
            else:
                work(child)
                os.kill(os.getpid(), signal.SIGKILL) if chance.random() < 0.5 else os._exit(0)
        done.set()
        training.join()
    acks(run_stream(run.id), "completed")


def crowd(acks: Acks, writers: str, seconds: str) -> None:
    """So many writers, each with a run and threads of its own, in this process."""
    book = ledger.open_ledger()
    runs = [new_id() for _ in range(int(writers))]
    for run in runs:
        book.append(run, run_started(name=book.store.name_run(run_stream(run)), process=this_process()), attempt=1)
    begun()

    def write(run: str) -> None:
        stream = run_stream(run)
        with closing(writer.Writer(book, run, attempt=1)) as mine:
            for step in _until(seconds):
                mine.log(step, {"loss": float(step)})
                acks(stream, f"loss at {float(step)} of attempt 1")
                if step % 50 == 0:
                    mine.append(RunAnnotated(text=f"note {step}"))
                    acks(stream, f"note {step}")
                time.sleep(0.01)

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _until(seconds: str) -> Iterator[int]:
    end = time.monotonic() + float(seconds)
    return itertools.takewhile(lambda _: time.monotonic() < end, itertools.count())


def _refused(what: str, error: LedgerError) -> None:
    assert error.mend
    print(f"{what}\t{error}", flush=True)


# --- one journey, and then the end


def journey(acks: Acks) -> None:
    """The life of a run with everything in it."""
    writer._INTERVAL_S = 0.005  # type: ignore[misc]
    writer._LARGE = 2_000  # type: ignore[misc]
    run = ledger.start_run(config={"lr": 0.1}, tags=["short-lived"])
    for step in range(5):
        once(run, step, acks)
        for more in range(20):
            run.log({"loss": 1 / (more + 1)}, step=step + more / 20)
            acks.row(run, step + more / 20, "loss")
    run.flush()
    written = run.checkpoints()[0]
    run.delete_checkpoint(written, "no longer needed")
    acks(run_stream(run.id), f"deleted {written.uri}")
    with ledger.open_ledger() as book:
        acks(LEDGER_STREAM, f"seal of {seal(book, own_key()).head.size}")
    run.log({"loss": 0.0}, step=100)
    acks.row(run, 100, "loss")
    run.finish()
    acks(run_stream(run.id), "completed")


def recover(acks: Acks) -> None:
    """Take over what others left behind."""
    with ledger.open_ledger() as book:
        for recovered in book.recovered:
            if recovered.stream and recovered.trouble:
                acks(recovered.stream, recovered.trouble)


def own_key() -> SigningKey:
    file = own_key_file(os.environ)
    return load_key(file) if file.exists() else make_key(file)


def once(run: Run, step: int, acks: Acks) -> None:
    """A row, a checkpoint and a note."""
    run.log({"a": step}, step=step)
    acks.row(run, step, "a")
    acks(run_stream(run.id), f"checkpoint {_checkpoint(run, step).uri}")
    run.annotate(f"note {step}")
    acks(run_stream(run.id), f"note {step}")


def _checkpoint(run: Run, step: float) -> CheckpointWritten:
    with tempfile.TemporaryDirectory() as state:
        Path(state, "model.bin").write_bytes(os.urandom(2000))
        return run.checkpoint(state, step=step)


# --- to die at a line


def survey(file: str) -> None:
    """When this process ends, write down each line of code that it came to, and how often."""
    come: Counter[str] = Counter()

    def arrive(line: str) -> None:
        come[line] += 1

    _watch(arrive)
    atexit.register(lambda: Path(file).write_text(json.dumps(come)))


def die_at(line: str, times: str) -> None:
    """Die of SIGKILL before that line is executed for the so-manieth time."""
    left = int(times)

    def arrive(here: str) -> None:
        nonlocal left
        if here == line:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    _watch(arrive)


def _watch(arrive: Callable[[str], None]) -> None:
    """Report the lines of the functions that write, in threads that start from now on as well."""

    def line(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            arrive(f"{frame.f_code.co_filename.removeprefix(ROOT)}:{frame.f_lineno}")
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        return line if code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(WATCHED) else None

    threading.settrace(call)
    sys.settrace(call)


ACTS: dict[str, Callable[..., None]] = {
    act.__name__: act
    for act in (
        log,
        drain,
        checkpoint,
        append,
        sealing,
        steady,
        scarce,
        limited,
        clockless,
        forking,
        crowd,
        journey,
        recover,
    )
}

if __name__ == "__main__":
    name, *words = sys.argv[1:]
    if words and words[0] in ("survey", "die_at"):
        begun()
        {"survey": survey, "die_at": die_at}[words[0]](*words[1:])
        words = []
    ACTS[name](Acks(), *words)
