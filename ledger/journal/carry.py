"""Carrying a journal into the log: the one way, for a writer that lives and for one that died."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

from ledger.errors import FencedAttempt, IntegrityError, JournalMoved
from ledger.events import RunAnnotated
from ledger.journal.facts import NAMES, FactReader, NamesLost
from ledger.journal.file import SUFFIX, Damage, Journal, frames, sweep
from ledger.store.base import NO_STREAM, JournalSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ledger.codec import Codec, Draft, Metadata, Recorded
    from ledger.store.base import EventStore

    Append = Callable[[Sequence[Draft], JournalSpan], Sequence[Recorded]]

_WINDOW: Final = 4 << 20
"""Bytes carried in one append."""
FENCED: Final = ".fenced"
DAMAGED: Final = ".damaged"


def carry(journal: Journal, append: Append, *, start: int, end: int) -> tuple[int, Damage | None]:
    """Append what ``journal`` holds between ``start``, where the log stands in it (0 at first), and ``end``.

    Where the log turns out to be further on, it goes on from there. Returns how far the log stands now, and the damage
    that it could not go beyond, if any. Raises what ``append`` raises.
    """
    reader = FactReader(journal)
    window = _WINDOW
    position = start
    while position < end:
        begin = max(position, journal.begin)
        content = journal.read(begin, min(window, end - begin))
        found, damage = frames(content)
        if not found:
            if damage is None or not damage.torn or begin + len(content) == end:
                return position, damage and Damage(begin + damage.at, damage.torn)
            window *= 2  # one frame is larger than the window
            continue
        try:
            drafts = reader.drafts(content, found)
        except NamesLost as lost:
            found = found[: found.index(lost.row)]
            if not found:
                return position, Damage(begin + lost.row.start, torn=False)
            drafts = reader.drafts(content, found)
        until = begin + found[-1].end
        try:
            append(drafts, JournalSpan(journal.header.journal, position, until))
        except JournalMoved as moved:
            if moved.position <= position:
                raise
            until = moved.position
        position = until
    return position, None


@dataclass(frozen=True)
class Recovered:
    """What became of a journal that a dead writer left behind."""

    stream: str | None
    """The run that it belongs to; None where that cannot be told."""
    events: int = 0
    """How many facts are in the log only now."""
    trouble: str | None = None
    """What could not be taken over, why, and where it is kept."""


def recover(directory: Path, store: EventStore, codec: Codec, note: Metadata) -> list[Recovered]:
    """Take over the journals in ``directory`` that dead writers of this log left behind, the oldest first.

    A journal whose writer lives is left alone, and so is one whose run is in another log. ``note`` is the metadata of
    what has to be remarked about a run. Raises what the store raises.
    """
    sweep(directory)
    done: list[Recovered] = []
    for path in sorted(directory.glob("*" + SUFFIX)):
        try:
            journal = Journal.take(path)
        except IntegrityError as error:
            done.append(Recovered(None, trouble=f"{error}: {error.mend}"))
            continue
        if journal is None:
            continue
        try:
            if store.head(journal.header.stream)[0] != NO_STREAM:
                done.append(_take_over(journal, store, codec, note))
        finally:
            journal.close()
    return done


def refuse(journal: Journal, store: EventStore, codec: Codec, note: Metadata, why: FencedAttempt) -> str:
    """Put a fenced attempt's journal aside and remark it in the log; what the remark says."""
    metadata = journal.header.metadata
    refused = _facts_above(journal, store.journal_position(journal.header.journal))
    text = (
        f"attempt {why.attempt} went on after attempt {why.current} had taken over: {refused} facts of process "
        f"{metadata.pid} on {metadata.host} were refused; they are kept there as {journal.path.stem}{FENCED}"
    )
    remark = codec.draft(RunAnnotated(text=text), note, event_id=_remark_id(journal, FENCED))
    _put_aside(journal, FENCED, store, remark)
    return text


def _take_over(journal: Journal, store: EventStore, codec: Codec, note: Metadata) -> Recovered:
    header, size = journal.header, journal.size()
    events = 0

    def append(some: Sequence[Draft], span: JournalSpan) -> Sequence[Recorded]:
        nonlocal events
        recorded = store.append(header.stream, some, span=span)
        events += len(recorded)
        return recorded

    start = store.journal_position(header.journal)
    try:
        _, damage = carry(journal, append, start=start, end=size)
    except FencedAttempt as error:
        return Recovered(header.stream, events, refuse(journal, store, codec, note, error))
    if damage is None or damage.torn:
        # What is in the log already is looked at as well: damage there loses nothing, but tells of a bad disk.
        _, damage = frames(journal.read(journal.begin, max(start - journal.begin, 0)))
        if damage is None:
            journal.remove()
            return Recovered(header.stream, events)
        damage = Damage(journal.begin + damage.at, torn=False)
    whole = "all of it is" if damage.at < start else "what it holds before that is"
    text = (
        f"the journal of process {header.metadata.pid} on {header.metadata.host} is damaged at byte {damage.at} of "
        f"{size}: {whole} in the log; the file is kept there as {journal.path.stem}{DAMAGED}"
    )
    remark = codec.draft(RunAnnotated(text=text), note, event_id=_remark_id(journal, DAMAGED))
    _put_aside(journal, DAMAGED, store, remark)
    return Recovered(header.stream, events, text)


def _put_aside(journal: Journal, suffix: str, store: EventStore, remark: Draft) -> None:
    """First the remark: whoever dies in between leaves a journal that is met again, and remarked only once."""
    store.append(journal.header.stream, [remark])
    journal.keep_as(suffix)


def _remark_id(journal: Journal, suffix: str) -> str:
    return str(uuid5(UUID(journal.header.journal), suffix))


def _facts_above(journal: Journal, position: int) -> int:
    begin = max(position, journal.begin)
    found, _ = frames(journal.read(begin, max(journal.size() - begin, 0)))
    return sum(frame.kind != NAMES for frame in found)
