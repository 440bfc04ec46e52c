"""Seals: the head of the log, signed, on record in the log itself and meant to be kept elsewhere."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.errors import IntegrityError, NotFound, UsageError
from ledger.events import LogSealed
from ledger.store.base import LEDGER_STREAM
from ledger.trust.chain import content
from ledger.trust.notes import Signature, SignedHead, TreeHead, VerifierKey
from ledger.trust.problem import Problem, name
from ledger.trust.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ledger.book import Book
    from ledger.store.scan import Row, Scan
    from ledger.trust.keys import SigningKey
    from ledger.trust.tree import LogTree

_ORIGIN: Final = "training-ledger/"


@dataclass(frozen=True)
class Seal:
    """A seal on record."""

    place: int
    """Its own global position."""
    signed: SignedHead
    key: VerifierKey
    """The key that it says it was signed with."""


def seal(
    book: Book, key: SigningKey, *, processes: int = 1, progress: Callable[[int, int], None] | None = None
) -> SignedHead:
    """Sign the log as it is now, put ``log.sealed`` on record, and return the signed head.

    The whole log is checked first, and every earlier seal with it: nothing is signed that contradicts what was signed
    before. Where nothing but this key's last seal has come since, that head is returned again and nothing appended.
    Raises ``IntegrityError`` naming the first bad event, ``NotFound`` for a log without events.
    """
    scan = book.store.scan()
    found = survey(scan, wanted=(LogSealed.type,), processes=processes, progress=progress)
    problem = found.problem or (found.tree and broken_seal(scan, found.tree, found.kept))
    if problem or found.tree is None:
        raise IntegrityError(f"this log is not sealed, for it is not sound: {problem}", mend="see `ledger verify`")
    if not found.tree.size:
        raise NotFound("this ledger has no events yet: there is nothing to seal", mend="record a run first")
    last = read_seal(found.kept[-1]) if found.kept else None
    if last and last.key.public == key.public and last.place == found.tree.size == last.signed.head.size + 1:
        return last.signed
    signed = key.sign(TreeHead(origin_of(scan), found.tree.size, found.tree.root()))
    _record(book, signed, key)
    return signed


def origin_of(scan: Scan) -> str:
    """Which log this is: named after its first event, whose id no other log has. Raises ``NotFound`` without one."""
    rows = scan.rows(1, 1)
    if not rows:
        raise NotFound("this ledger has no events yet", mend="record a run first")
    return _ORIGIN + str(rows[0][1])


def read_seal(row: Row) -> Seal:
    """The seal in a row of type ``log.sealed``. Raises ``IntegrityError`` for one that Ledger did not write."""
    try:
        fact = LogSealed.model_validate_json(content(row.payload, row.packed))
        key = VerifierKey.parse(fact.key)
        signature = Signature(key.name, key.id, b64decode(fact.signature))
        head = TreeHead(fact.origin, fact.size, bytes.fromhex(fact.root))
        return Seal(row.global_position, SignedHead(head, (signature,)), key)
    except (UsageError, ValueError) as error:
        raise IntegrityError(f"{name(row)} is no seal that Ledger wrote: {error}") from error


def broken_seal(scan: Scan, tree: LogTree, rows: Iterable[Row]) -> Problem | None:
    """The first of the seals in these rows, in the order of the log, that does not fit the log."""
    good = 0
    for row in rows:
        try:
            seal = read_seal(row)
            why = _mismatch(seal, origin_of(scan), tree, good)
        except IntegrityError as error:
            why = str(error)
        else:
            good = seal.signed.head.size
        if why:
            return Problem("seal broken", name(row), why)
    return None


def _mismatch(seal: Seal, origin: str, tree: LogTree, good: int) -> str | None:
    head = seal.signed.head
    if head.origin != origin:
        return f"it seals another log, {head.origin}"
    if not seal.signed.signed_by(seal.key):
        return "it is not signed"
    if not 0 < head.size < seal.place:
        return f"it seals {head.size} events, but stands at place {seal.place} itself"
    if tree.root(head.size) != head.root:
        return f"events {good + 1} … {head.size} are not those that were sealed: some were replaced or moved"
    return None


def _record(book: Book, signed: SignedHead, key: SigningKey) -> None:
    head, signature = signed.head, signed.signatures[0]
    fact = LogSealed(
        origin=head.origin,
        size=head.size,
        root=head.root.hex(),
        key=str(VerifierKey(head.origin, key.public)),
        signature=b64encode(signature.content).decode(),
    )
    draft = book.codec.draft(fact, book.metadata("ledger"))
    book.plugins.events_appended(book.store.append(LEDGER_STREAM, [draft]))
