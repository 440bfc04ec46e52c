"""Events/s of the check that recomputes every digest of the log."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from tests.benchmarks.contestant import OURS, Unavailable
from tests.benchmarks.figures import Quantity, Table
from tests.benchmarks.measures.append import BATCH, drafts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.contestant import Contestant

EVENTS: Final = 400_000
STREAMS: Final = 20
ROUNDS: Final = 3


def measure(bench: Bench) -> Table:
    """One row: no other tool has anything to verify."""
    events = bench.size(EVENTS // BATCH // STREAMS) * STREAMS * BATCH if bench.scale == 1 else 2 * BATCH
    table = Table(
        "verify",
        "Verifying the log",
        f"`ledger verify` as a function on {events:,} events in {STREAMS} streams (SQLite), opening included, imports "
        "not: chain, order, gaps and Merkle root.",
        (Quantity("checked", "events/s", "higher"),),
    )
    if OURS not in bench.keys:
        return table
    home = bench.fresh("verify")
    try:
        bench.run("verify:write", OURS, home, events=events)
        for number in range(min(bench.rounds, ROUNDS)):
            bench.say(f"verify · {OURS} · round {number + 1}")
            table.add(OURS, {"checked": events / bench.run("verify:check", OURS, home, events=events)})
    except Unavailable as error:
        table.reasons[OURS] = str(error)
    bench.remove(home)
    return table


def write(contestant: Contestant, home: Path, *, events: int) -> None:
    """Streams that take turns, as runs side by side do."""
    import ledger

    with ledger.open_ledger() as book:
        for number in range(events // BATCH):
            book.store.append(f"run-{number % STREAMS:08}", drafts(BATCH))


def check(contestant: Contestant, home: Path, *, events: int) -> float:
    """Seconds."""
    import ledger
    import ledger.store.sql
    from ledger.trust.verify import verify

    began = time.perf_counter()
    with ledger.open_ledger() as book:
        report = verify(book, processes=len(os.sched_getaffinity(0)))
    seconds = time.perf_counter() - began
    if report.problems or report.events != events:
        raise Unavailable(f"verify looked at {report.events} events and found {report.problems[:1]}")
    return seconds
