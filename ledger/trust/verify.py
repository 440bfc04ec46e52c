"""The whole check: events, seals, a head that was kept elsewhere, objects and checkpoints, lists."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from ledger.errors import IntegrityError, UsageError
from ledger.events import LogSealed, RunStarted
from ledger.store.base import run_stream
from ledger.store.scan import Row
from ledger.trust.chain import BEGINNING, Chains, End, content
from ledger.trust.contents import TYPES, Contents, check_checkpoints, check_objects
from ledger.trust.merkle import verify_consistency
from ledger.trust.problem import Problem, diagnose, forged
from ledger.trust.seal import broken_seal, origin_of, read_seal
from ledger.trust.survey import stale, survey
from ledger.trust.tables import altered_lists, altered_places
from ledger.trust.tree import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.book import Book
    from ledger.store.scan import Scan
    from ledger.trust.notes import SignedHead, TreeHead, VerifierKey
    from ledger.trust.survey import Survey
    from ledger.trust.tree import LogTree

    Progress = Callable[[str, int, int], None]

_WANTED: Final = TYPES | {LogSealed.type, RunStarted.type}


@dataclass
class Report:
    """What a check found. A log that is not whole says nothing reliable, and what comes after it is then left out."""

    events: int = 0
    """How many were checked: all of them, or those before the section with the first problem."""
    streams: int = 0
    seals: int | None = None
    """None where one run was checked: the seals are about the whole log."""
    sealed: int = 0
    """How many events the last seal covers."""
    objects: int | None = None
    """None where they were not come to."""
    checkpoints: int | None = None
    root: bytes | None = None
    """Root of the Merkle tree over all events."""
    extended: TreeHead | None = None
    """The head that the log was shown to extend."""
    head_signed: bool = False
    """Whether its signature was checked, too."""
    consistency: tuple[bytes, ...] = ()
    """The proof (RFC 9162, section 2.1.4) that leads from that head to ``root``."""
    seconds: float = 0.0
    """That the events took."""
    problems: list[Problem] = field(default_factory=list)
    """The first that is wrong with the log, or else all that is wrong with what lies outside it and beside it."""

    @property
    def events_per_second(self) -> float:
        """How fast events were checked."""
        return self.events / self.seconds if self.seconds else 0.0


def verify(
    book: Book,
    *,
    run: str | None = None,
    head: SignedHead | None = None,
    key: VerifierKey | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Check the log, or the run with the UUID ``run``, and everything that it says is kept.

    ``head`` is a signed head that was kept elsewhere, which the log must extend, and ``key`` the key that it must be
    signed by; without one its signature is not looked at. ``progress`` is told what is being checked, how many of
    them are done, and how many there are. More than one of ``processes`` need a main module that may be imported
    again, as ``multiprocessing`` says. Raises ``UsageError`` for a head together with a run, ``IntegrityError`` for a
    head with another signature, ``StoreDamaged`` where the database cannot be read for damage of its own.
    """
    if run is not None and head is not None:
        raise UsageError("a head is about the whole log, not about one run", mend="leave out the run, or the head")
    if head and key and not head.signed_by(key):
        raise IntegrityError(
            f"the head is not signed by key {key.name}+{key.id.hex()}", mend="give the key that sealed the log"
        )
    tell = progress or (lambda what, done, total: None)
    report = Report(head_signed=bool(head and key))
    if run is None:
        kept = _log(book.store.scan(), report, head, processes, tell)
    else:
        kept = _stream(book.store.scan(), run_stream(run), report, tell)
    if not report.problems:
        contents = Contents.of((row for row in kept if row.type in TYPES), book.codec)
        _contents(book, contents, report, tell)
        if run is None and not contents.problems:
            report.problems += altered_places(book.store.scan())
            report.problems += altered_lists(book.store, lambda *count: tell("lists", *count))
    return report


def _log(scan: Scan, report: Report, head: SignedHead | None, processes: int, tell: Progress) -> list[Row]:
    """Check events, seals and head; the rows that name what lies outside the log."""
    started = time.monotonic()
    found = survey(scan, wanted=_WANTED, processes=processes, progress=lambda *count: tell("events", *count))
    report.seconds = time.monotonic() - started
    report.events, report.streams = found.events, len(found.ends)
    problem = found.problem
    if found.tree is not None:
        seals = [row for row in found.kept if row.type == LogSealed.type]
        report.root, report.seals = found.tree.root(), len(seals)
        problem = _damaged(scan) or next(_misnamed(found), None) or broken_seal(scan, found.tree, seals)
        report.sealed = read_seal(seals[-1]).signed.head.size if seals and not problem else 0
        if head and not problem:
            problem = _extends(scan, found.tree, head.head, report)
    report.problems += [problem] if problem else []
    return found.kept


def _damaged(scan: Scan) -> Problem | None:
    """Damage that a walk along the log does not meet, such as an index that lacks rows."""
    why = scan.damage()
    return Problem("database damaged", "tables and indexes", why) if why else None


def _misnamed(found: Survey) -> Iterator[Problem]:
    """Runs that the log's own index gives another name than they were started under."""
    for row in found.kept:
        if row.type == RunStarted.type:
            try:
                started = orjson.loads(content(row.payload, row.packed))["name"]
            except (KeyError, TypeError, ValueError):
                yield forged(row)
                continue
            indexed = found.extent.names.get(row.stream)
            if started != indexed:
                yield Problem(
                    "index altered", f"run_name of {row.stream}", f"it says {indexed}, the run says {started}"
                )


def _extends(scan: Scan, tree: LogTree, head: TreeHead, report: Report) -> Problem | None:
    where = f"head of {head.size} events"
    origin = origin_of(scan) if tree.size else "one without events"
    if head.origin != origin:
        return Problem("head not extended", where, f"it is that of another log, {head.origin}; this one is {origin}")
    if head.size > tree.size:
        gone = f"events {tree.size + 1} … {head.size}" if head.size > tree.size + 1 else f"event {head.size}"
        return Problem("head not extended", where, f"the log ends with event {tree.size}: {gone} were cut off")
    proof = tree.consistency(head.size)
    if not verify_consistency(head.size, tree.size, proof, head.root, tree.root()):
        return Problem("head not extended", where, "the log has other events now where these were: it was rewritten")
    report.extended, report.consistency = head, tuple(proof)
    return None


def _stream(scan: Scan, stream: str, report: Report, tell: Progress) -> list[Row]:
    """Check one stream to its end, also while it grows; the rows that name what lies outside the log."""
    started = time.monotonic()
    chains = Chains(_WANTED, ends={stream: BEGINNING})
    report.streams = 1
    while True:
        before, head = chains.ends[stream], scan.extent().heads.get(stream)
        while rows := scan.stream(stream, chains.ends[stream][0], CHUNK):
            sound = len(chains.follow(rows))
            report.events += sound
            if sound < len(rows):
                report.problems.append(diagnose(scan, Row._make(rows[sound]), End(*chains.ends[stream])))
                return chains.kept
            tell("events", report.events, max(report.events, head[0] + 1 if head else 0))
        report.seconds = time.monotonic() - started
        if (end := End(*chains.ends[stream])) == before:
            problem = stale(stream, head, end)
            report.problems += [problem] if problem else []
            return chains.kept


def _contents(book: Book, contents: Contents, report: Report, tell: Progress) -> None:
    """Check what lies outside the log."""
    report.problems += contents.problems
    report.objects, problems = check_objects(book.objects, contents, lambda *count: tell("objects", *count))
    report.problems += problems
    report.problems += check_checkpoints(book, contents, lambda *count: tell("checkpoints", *count))
    report.checkpoints = len(contents.checkpoints)
