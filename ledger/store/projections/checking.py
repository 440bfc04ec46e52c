"""The projections beside the log, folded again: what the tables hold, and what they should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import select

from ledger.store.projections.history import folded, next_part, size
from ledger.store.projections.rows import rows_of
from ledger.store.projections.tables import CHECKPOINT, CHECKPOINT_FILE, TABLES
from ledger.store.raw import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Table

    from ledger.store.projections.history import Part

    Key = tuple[Any, ...]
    Values = Mapping[str, Any]
    Rows = dict[Table, dict[Key, Values]]


class Difference(NamedTuple):
    """A row that is not what the log comes to. In a damaged database its values may be of any type."""

    table: str
    stream: Any
    """The run; None where it belongs to none."""
    row: tuple[Any, ...]
    """Which of the run's rows in this table: the name of a metric, the path of a configured value, …"""
    held: Values | None
    """What is in the table, by column; None where the row is missing."""
    folded: Values | None
    """What should be there; None where nothing should."""


def differences(
    reading: Callable[[], AbstractContextManager[Connection]], progress: Callable[[int, int], None] | None = None
) -> Iterator[Difference]:
    """All of them, by table and run in each part of the log; a part is looked at in one transaction of ``reading``.

    ``progress`` is told, after each part, how many events of how many are done.
    """
    done, part = 0, None
    while True:
        with reading() as connection:
            part = next_part(connection, part)
            if part is None:
                return
            found = list(_differences(connection, part))
            total = size(connection) if progress else 0
        yield from found
        done += part.events
        if progress:
            progress(done, max(done, total))


def _differences(connection: Connection, part: Part) -> Iterator[Difference]:
    expected = _folded(connection, part)
    for table in TABLES:
        held, should = _held(connection, table, part), expected[table]
        if held != should:
            for key in sorted({*held, *should}, key=repr):
                if held.get(key) != should.get(key):
                    yield Difference(table.name, key[0], key[1:], held.get(key), should.get(key))


def _folded(connection: Connection, part: Part) -> Rows:
    rows: Rows = {table: {} for table in TABLES}
    for changes in folded(connection, part):
        for table, new in rows_of(changes).items():
            rows[table].update(_keyed(table, changes.summary.stream, row) for row in new)
    return rows


def _held(connection: Connection, table: Table, part: Part) -> dict[Key, Values]:
    of = CHECKPOINT.c.stream if table is CHECKPOINT_FILE else table.c.stream
    query = select(of, *table.c).where(part.holds(of))
    if table is CHECKPOINT_FILE:
        query = query.join_from(table, CHECKPOINT, table.c.checkpoint == CHECKPOINT.c.position, isouter=True)
    names = [column.name for column in table.c]
    rows = fetch(connection, query)
    return dict(_keyed(table, stream, dict(zip(names, values, strict=True))) for stream, *values in rows)


def _keyed(table: Table, stream: Any, row: Values) -> tuple[Key, Values]:
    """The run and what tells the row from others of it, and the rest. NaN, which is not equal to itself, is NULL."""
    names = [column.name for column in table.primary_key if column.name != "stream"]
    rest = {name: None if value != value else value for name, value in row.items() if name not in names}
    return (stream, *(row[name] for name in names)), rest
