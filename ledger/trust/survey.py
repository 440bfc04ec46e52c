"""The whole log walked once, section by section, on several processors where it is long.

Sections are aligned, so that each gives roots of whole subtrees; what crosses their borders, the ends of streams,
is compared when they are put together in order.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

from ledger.codec import Codec
from ledger.store import open_store
from ledger.store.scan import Row
from ledger.trust.chain import BEGINNING, Chains, End
from ledger.trust.merkle import leaf_hash, root
from ledger.trust.problem import Problem, diagnose, gap
from ledger.trust.tree import CHUNK, LogTree

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from ledger.store.scan import Extent, Raw, Scan

SECTION: Final = 8 * CHUNK
"""Events that a process walks at a time."""
_WORTH_IT: Final = 4 * SECTION
"""Below this many events, other processes would take longer to start than they save."""


@dataclass
class Survey:
    """What a walk over the log found."""

    extent: Extent
    events: int
    """How many were walked and found good."""
    tree: LogTree | None
    """None where the log is not whole."""
    ends: dict[str, End]
    kept: list[Row]
    """Rows of the types asked for."""
    problem: Problem | None
    """The first, in the order of the log."""


@dataclass
class _Section:
    """What one section holds."""

    chains: Chains
    chunks: list[bytes] = field(default_factory=list)
    """Roots of its chunks."""
    events: int = 0
    gap: tuple[int, int | None] | None = None
    """A global position that is not there, and the next that is."""
    bad: Row | None = None


def survey(
    scan: Scan, *, wanted: Collection[str] = (), processes: int = 1, progress: Callable[[int, int], None] | None = None
) -> Survey:
    """Walk the log as it is now, up to the first problem.

    ``progress`` is told how many events were walked, and how many there are. More than one of ``processes`` are
    started with ``multiprocessing``'s spawn, which imports the main module again: it must be safe to import.
    """
    extent = scan.extent()
    report = progress or (lambda done, total: None)
    ends: dict[str, End] = {}
    chunks: list[bytes] = []
    kept: list[Row] = []
    problem = gap(1, extent.first) if extent.first < 1 else None
    done = 0
    report(0, extent.size)
    for section in _sections(scan, extent.size, tuple(wanted), processes) if problem is None else ():
        problem = _join(scan, section, ends)
        if problem:
            break
        chunks += section.chunks
        kept += section.chains.kept
        done += section.events
        report(done, extent.size)
    problem = problem or next(_stale(extent, ends), None)
    tree = None if problem else LogTree(extent.size, chunks, lambda start, end: _leaves(scan, start, end))
    return Survey(extent, done, tree, ends, kept, problem)


def _sections(scan: Scan, size: int, wanted: tuple[str, ...], processes: int) -> Iterator[_Section]:
    starts = range(1, size + 1, SECTION)
    spans = [(first, min(first + SECTION - 1, size)) for first in starts]
    if processes < 2 or scan.url is None or size < _WORTH_IT:
        yield from (_walk(scan, first, last, wanted) for first, last in spans)
        return
    pool = ProcessPoolExecutor(min(processes, len(spans)), mp_context=get_context("spawn"))
    try:
        yield from pool.map(_walk_elsewhere, *zip(*((scan.url, *span, wanted) for span in spans), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _walk_elsewhere(url: str, first: int, last: int, wanted: tuple[str, ...]) -> _Section:
    store = open_store(url, Codec())
    try:
        return _walk(store.scan(), first, last, wanted)
    finally:
        store.close()


def _walk(scan: Scan, first: int, last: int, wanted: Collection[str]) -> _Section:
    section = _Section(Chains(wanted))
    for start in range(first, last + 1, CHUNK):
        end = min(start + CHUNK - 1, last)
        rows = scan.rows(start, end)
        whole = _gapless(rows, start, end)
        leaves = section.chains.follow(rows[:whole])
        section.events += len(leaves)
        if len(leaves) < whole:
            section.bad = Row._make(rows[len(leaves)])
            return section
        if start + whole <= end:
            section.gap = (start + whole, rows[whole][0] if whole < len(rows) else None)
            return section
        section.chunks.append(root(leaves))
    return section


def _gapless(rows: Sequence[Raw], first: int, last: int) -> int:
    """How many of the rows stand at ``first``, ``first + 1`` … without a gap."""
    numbers = [row[0] for row in rows]
    if numbers == list(range(first, last + 1)):
        return len(rows)
    return next((n for n, number in enumerate(numbers) if number != first + n), len(rows))


def _join(scan: Scan, section: _Section, ends: dict[str, End]) -> Problem | None:
    """Put a section behind those before it."""
    for stream, row in section.chains.opens.items():  # in the order of the log
        end = ends.get(stream, BEGINNING)
        if (row.position, row.previous_digest) != (end.position + 1, end.digest):
            return diagnose(scan, row, end)
    if section.bad:
        stream = section.bad.stream
        end = End(*section.chains.ends.get(stream, ends.get(stream, BEGINNING)))
        return diagnose(scan, section.bad, end)
    for stream, (position, digest, attempt) in section.chains.ends.items():
        ends[stream] = End(position, digest, max(attempt, ends.get(stream, BEGINNING).attempt))
    return gap(*section.gap) if section.gap else None


def _stale(extent: Extent, ends: dict[str, End]) -> Iterator[Problem]:
    """Streams that do not end where the log's own index says."""
    for stream in sorted({*extent.heads, *ends}, key=str):
        problem = stale(stream, extent.heads.get(stream), ends.get(stream, BEGINNING))
        if problem:
            yield problem


def stale(stream: str, head: tuple[int, str, int | None] | None, end: End) -> Problem | None:
    """What is wrong with the place where the index has the end of a stream."""
    if head is None:
        return Problem("index altered", f"stream_head of {ascii(stream)[1:-1]}", "the stream is not in it")
    version, digest, attempt = head
    if type(version) is int and version > end.position:
        first = end.position + 1
        gone = f"{first}" if version == first else f"{first} … {version}"
        return Problem("event missing", f"position {gone} of {ascii(stream)[1:-1]}", "the end of the stream is cut off")
    if (version, digest, attempt or 0) != end:
        return Problem(
            "index altered", f"stream_head of {ascii(stream)[1:-1]}", f"the stream ends at position {end.position}"
        )
    return None


def _leaves(scan: Scan, start: int, end: int) -> list[bytes]:
    return [leaf_hash(bytes.fromhex(digest)) for digest in scan.digests(start + 1, end)]
