"""What can be wrong with a log, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ledger.errors import IntegrityError
from ledger.store.scan import Row
from ledger.trust.chain import BEGINNING, authentic, content
from ledger.trust.tree import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.store.scan import Scan
    from ledger.trust.chain import End

Kind = Literal[
    "payload altered",
    "order changed",
    "gap",
    "event missing",
    "index altered",
    "list altered",
    "database damaged",
    "seal broken",
    "head not extended",
    "object altered",
    "object missing",
    "checkpoint altered",
    "checkpoint missing",
]


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was recorded."""

    kind: Kind
    where: str
    """The event, object or checkpoint."""
    why: str
    mend: str | None = None
    """What can be done about it; None where only the owner of the ledger can tell."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.why}"


def gap(expected: int, found: int | None) -> Problem:
    """Global positions from ``expected`` on are not there; the next one that is, is ``found``."""
    if found is not None and found < expected:
        return Problem("gap", f"event {found}", "the log has no such place: its events are numbered from 1")
    last = f" … {found - 1}" if found is not None and found - 1 > expected else ""
    return Problem("gap", f"event {expected}{last}", "the log goes on after it, but it is not there any more")


def diagnose(scan: Scan, row: Row, end: End) -> Problem:
    """What is wrong with the first bad row of a walk; ``end`` is where its stream had been left before."""
    where = name(row)
    position, previous = end.position + 1, end.digest
    if not authentic(row):
        return _altered(scan, row, position, previous, where)
    if row.position == position:
        return Problem(
            "payload altered",
            f"event at position {end.position} of {shown(row.stream)}",
            f"it and its digest were replaced: {where} was recorded after another one",
        )
    if row.position > position and not any(other.position == position for other in _stream(scan, row.stream)):
        gone = f"{position}" if row.position == position + 1 else f"{position} … {row.position - 1}"
        return Problem("event missing", f"position {gone} of {shown(row.stream)}", f"{where} comes next")
    return Problem("order changed", where, f"it stands where position {position} of its stream belongs")


def forged(row: Row) -> Problem:
    """A row whose digest is right and whose payload is none of its type."""
    return Problem("payload altered", name(row), "its payload is not what Ledger writes for an event of this type")


def name(row: Row) -> str:
    """An event, as a message names it."""
    return f"event {row.global_position} ({shown(row.type)}, position {shown(row.position)} of {shown(row.stream)})"


def _altered(scan: Scan, row: Row, position: int, previous: str, where: str) -> Problem:
    try:
        content(row.payload, row.packed)
    except (AttributeError, IntegrityError, TypeError, ValueError) as error:
        return Problem("payload altered", where, f"its payload cannot be read: {error}")
    if authentic(row._replace(previous_digest=previous)):
        return Problem("payload altered", where, "its column previous_digest is not what was recorded")
    for recorded in {position, _position_after(scan, row)}:
        if authentic(row._replace(position=recorded)):
            return Problem("order changed", where, f"it was recorded at position {recorded}")
    return Problem("payload altered", where, "its payload, or another column, is not what was digested")


def _position_after(scan: Scan, row: Row) -> int:
    """The position after the event that the row says it follows; 0 where there is none such."""
    found = (other.position for other in _stream(scan, row.stream) if other.digest == row.previous_digest)
    return next(found, BEGINNING.position) + 1


def _stream(scan: Scan, stream: str) -> Iterator[Row]:
    if not isinstance(stream, str) or not stream.isprintable():
        return  # damaged: no database can be asked for such a name
    after = BEGINNING.position
    while rows := [Row._make(raw) for raw in scan.stream(stream, after, CHUNK)]:
        yield from rows
        if type(rows[-1].position) is not int or len(rows) < CHUNK:
            return
        after = rows[-1].position


def shown(value: object) -> str:
    """A column's value, which may be anything, in a few safe characters."""
    return ascii(value)[1:41].rstrip("'\"") if isinstance(value, str) else ascii(value)[:40]
