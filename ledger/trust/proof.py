"""Proofs for others: events of a log, checkable offline with nothing but the public key of its seals.

A proof is one JSON object. ``rows`` are events of one stream, each exactly as it was digested; their digests follow
from ``previous_digest`` on, one from the other; ``index`` and ``path`` prove that the last digest is a leaf of the
tree whose signed ``head`` is given. So one path proves a whole run: its chain hangs on its last event.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import orjson

from ledger.codec import GENESIS
from ledger.errors import IntegrityError, NotFound, Unavailable, UsageError
from ledger.events import LogSealed
from ledger.store.base import LEDGER_STREAM
from ledger.store.scan import Row
from ledger.trust.chain import BEGINNING, authentic, digested
from ledger.trust.merkle import HASH_BYTES, leaf_hash, root, verify_inclusion
from ledger.trust.notes import SignedHead, parse_head
from ledger.trust.problem import name
from ledger.trust.seal import read_seal
from ledger.trust.tree import CHUNK, LogTree

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.book import Book
    from ledger.store.scan import Scan
    from ledger.trust.notes import VerifierKey

FORMAT: Final = "training-ledger-proof/1"
_LARGEST: Final = 1 << 63
_KEYS: Final = {"format", "head", "index", "path", "previous_digest", "rows"}


@dataclass(frozen=True)
class Proof:
    """Events of one stream, the last of which is in a log that was signed."""

    head: SignedHead
    index: int
    """Place of the last event in the log, from 0: its global position less 1."""
    path: tuple[bytes, ...]
    previous_digest: str
    """Digest of the event before the first of ``rows``; 64 zeros where the stream begins with it."""
    rows: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The proof, as it is written."""
        return {
            "format": FORMAT,
            "head": str(self.head),
            "index": self.index,
            "path": [part.hex() for part in self.path],
            "previous_digest": self.previous_digest,
            "rows": list(self.rows),
        }


@dataclass(frozen=True)
class Proved:
    """What a proof has shown: these events are in the log of that origin, as it was when its head was signed."""

    origin: str
    size: int
    """How many events the log had."""
    global_position: int
    """Place of the last of ``events`` in the log, from 1."""
    stream: str
    whole: bool
    """Whether ``events`` begin with the first of the stream."""
    events: tuple[dict[str, Any], ...]


def is_place(reference: str) -> bool:
    """Whether it is a global position. UUIDs of this epoch begin with a zero, so no beginning of one is mistaken."""
    return reference.isascii() and reference.isdecimal() and len(reference) < 20 and not reference.startswith("0")


# --- making one -----------------------------------------------------------------------------------------------


def prove_run(book: Book, stream: str, *, progress: Callable[[int, int], None] | None = None) -> Proof:
    """Proof of all events of a stream.

    Raises ``Unavailable`` where the log was not sealed since its last event, ``IntegrityError`` for a log that is not
    what was sealed.
    """
    scan = book.store.scan()
    return _prove(scan, _stream(scan, stream), progress)


def prove_event(book: Book, reference: str, *, progress: Callable[[int, int], None] | None = None) -> Proof:
    """Proof of the event with this id or global position. Raises ``NotFound``, and what ``prove_run`` raises."""
    scan = book.store.scan()
    return _prove(scan, [_find(scan, reference)], progress)


def _find(scan: Scan, reference: str) -> Row:
    number = int(reference) if is_place(reference) else scan.find(reference)
    rows = scan.rows(number, number) if number and number < _LARGEST else ()
    if not rows:
        raise NotFound(f"this ledger has no event {reference!r}", mend="give its id, or its global position")
    return Row._make(rows[0])


def _prove(scan: Scan, rows: list[Row], progress: Callable[[int, int], None] | None) -> Proof:
    end = BEGINNING if rows[0].position == 0 else BEGINNING._replace(digest=rows[0].previous_digest)
    for row in rows:
        if not authentic(row) or row.previous_digest != end.digest:
            raise IntegrityError(f"{name(row)} is not what was recorded", mend="`ledger verify` says more")
        end = end._replace(digest=row.digest)
    last = rows[-1]
    signed = _latest_seal(scan, last)
    tree = _tree(scan, signed.head.size, progress)
    if tree.root() != signed.head.root:
        raise IntegrityError("the log is not what was sealed", mend="`ledger verify` names the first bad event")
    index = last.global_position - 1
    path = tuple(tree.inclusion(index, tree.size))
    return Proof(signed, index, path, rows[0].previous_digest, tuple(digested(row).decode() for row in rows))


def _latest_seal(scan: Scan, last: Row) -> SignedHead:
    rows = [row for row in _stream(scan, LEDGER_STREAM) if row.type == LogSealed.type and authentic(row)]
    signed = read_seal(rows[-1]).signed if rows else None
    if signed is None or signed.head.size < last.global_position:
        since = f"its last seal covers {signed.head.size} events" if signed else "it was never sealed"
        raise Unavailable(
            f"{name(last)} cannot be proved yet: {since}", mend="`ledger seal` signs the log as it is; then prove it"
        )
    return signed


def _stream(scan: Scan, stream: str) -> list[Row]:
    rows: list[Row] = []
    while more := [Row._make(raw) for raw in scan.stream(stream, rows[-1].position if rows else -1, CHUNK)]:
        rows += more
    return rows


def _tree(scan: Scan, size: int, progress: Callable[[int, int], None] | None) -> LogTree:
    """The tree over the digests as they are stored; its root tells whether they are those that were sealed."""

    def leaves(start: int, end: int) -> list[bytes]:
        return [leaf_hash(bytes.fromhex(digest)) for digest in scan.digests(start + 1, end)]

    chunks = []
    for start in range(0, size, CHUNK):
        chunks.append(root(leaves(start, min(start + CHUNK, size))))
        if progress:
            progress(min(start + CHUNK, size), size)
    return LogTree(size, chunks, leaves)


# --- checking one ---------------------------------------------------------------------------------------------


def parse_proof(content: bytes) -> Proof:
    """The proof that ``content`` holds, not yet checked. Raises ``UsageError`` for what is none."""
    try:
        read = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"this is no proof: {error}", mend=_GIVE) from error
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        told = read.get("format") if isinstance(read, dict) else None
        raise UsageError(f"this is no proof of the format {FORMAT}, but {ascii(told)[:40]}", mend=_GIVE)
    index, path, rows = read.get("index"), read.get("path"), read.get("rows")
    head, previous = read.get("head"), read.get("previous_digest")
    if set(read) != _KEYS or type(index) is not int or not isinstance(head, str):
        raise UsageError("this proof lacks a part, or has one too many", mend=_GIVE)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, str) for row in rows):
        raise UsageError("this proof has no rows", mend=_GIVE)
    if not isinstance(path, list) or not all(_is_hash(part) for part in path) or not _is_hash(previous):
        raise UsageError("this proof holds something else where hashes belong", mend=_GIVE)
    return Proof(parse_head(head), index, tuple(bytes.fromhex(part) for part in path), previous, tuple(rows))


def check(proof: Proof, key: VerifierKey) -> Proved:
    """What ``proof`` shows to whoever trusts ``key``. Raises ``IntegrityError`` where it shows nothing."""
    head = proof.head.head
    if not proof.head.signed_by(key):
        signers = ", ".join(f"{s.name}+{s.key_id.hex()}" for s in proof.head.signatures)
        raise IntegrityError(
            f"the head of this proof is not signed by key {key.name}+{key.id.hex()}, but by {signers}",
            mend="give the public key of whoever sealed the log",
        )
    digest = proof.previous_digest
    for row in proof.rows:
        digest = sha256((digest + row).encode()).hexdigest()
    if not verify_inclusion(leaf_hash(bytes.fromhex(digest)), proof.index, head.size, proof.path, head.root):
        raise IntegrityError(
            "this proof does not hold: its events are not in the log that was signed, or not at that place",
            mend="it was altered after it was made: ask for it again",
        )
    events = tuple(_read(row) for row in proof.rows)
    whole = proof.previous_digest == GENESIS
    first = events[0]["position"]
    if [(e["stream"], e["position"]) for e in events] != [
        (events[0]["stream"], first + n) for n in range(len(events))
    ] or whole != (first == 0):
        raise IntegrityError("the events of this proof do not follow each other in one stream")
    return Proved(head.origin, head.size, proof.index + 1, events[0]["stream"], whole, events)


_GIVE: Final = "give the file that `ledger prove` wrote, unchanged"


def _is_hash(value: object) -> TypeGuard[str]:
    """Whether it is a SHA-256 in the one way to write it."""
    try:
        return isinstance(value, str) and bytes.fromhex(value).hex() == value and len(value) == 2 * HASH_BYTES
    except ValueError:
        return False


def _read(row: str) -> dict[str, Any]:
    event: dict[str, Any] = orjson.loads(row)
    return event
