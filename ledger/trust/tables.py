"""What the database keeps beside the events: the lists, and how far the log is in the journals of writers."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from ledger.store.places import MEND, intact
from ledger.trust.problem import Problem, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.store.base import EventStore
    from ledger.store.projections.checking import Difference
    from ledger.store.scan import Scan

_FOLD: Final = "`ledger db rebuild` folds the lists again from the log"


def altered_places(scan: Scan) -> Iterator[Problem]:
    """Journals of which the database no longer says how far the log is in them."""
    for journal, position, digest in scan.places():
        if not intact(journal, position, digest):
            where = f"journal_position of {shown(journal)}"
            why = f"its digest is not that of {shown(position)} in this journal"
            yield Problem("index altered", where, why, MEND)


def altered_lists(store: EventStore, progress: Callable[[int, int], None]) -> Iterator[Problem]:
    """What lists and searches would say wrongly: the first wrong row of each run in each table."""
    for (table, run), found in groupby(store.differences(progress), key=lambda each: (each.table, each.stream)):
        first, *others = found
        where = f"{table} of {'no run' if run is None else _whole(run)}"
        row = " ".join(shown(part) for part in first.row)
        more = f"; {len(others)} more of its rows are wrong" if others else ""
        yield Problem("list altered", f"{where}, {row}" if row else where, _why(first) + more, _FOLD)


def _why(found: Difference) -> str:
    if found.held is None:
        return "the row is missing"
    if found.folded is None:
        return "nothing in the log says so"
    column = next(name for name, value in found.folded.items() if found.held[name] != value)
    return f"{column} is {shown(found.held[column])}, and the log says {shown(found.folded[column])}"


def _whole(run: object) -> str:
    return ascii(run)[1:-1] if isinstance(run, str) else shown(run)
