"""What the frames of a journal hold.

Rows of metrics are what a journal is full of, and they cost the training thread microseconds: the names of the metrics
stand in a frame of their own, once, and each row refers to the place of that frame. A row is little-endian numbers of
64 bits each: that place, the step (an integer or a double, two kinds of frame), the time, the values; so rows that
follow each other are a matrix. Every other fact is a JSON object with its event_id, type and schema version, a line
feed, and its payload, byte for byte.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from ledger.codec import Draft, canonical_json, new_id
from ledger.events import MetricsLogged
from ledger.journal.file import PREFIX, Frame, checked_frame, frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ledger.codec import Metadata
    from ledger.journal.file import Journal

FACT: Final = 1
NAMES: Final = 2
ROW: Final = 3
"""A row whose step is an integer."""
DECIMAL_ROW: Final = 4

_ROWS: Final = 10_000
"""Rows in one fact: no reader has to decode more than that for one point."""
_WORD: Final = 8
_PLACE, _STEP, _TIME, _VALUES = (PREFIX.size // _WORD + n for n in range(4))
"""Words of a row's frame."""


class RowWriter:
    """Adds rows of metrics to one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._layouts: dict[tuple[str, ...], tuple[int, struct.Struct, struct.Struct]] = {}

    def add(self, step: float, time: float, values: Mapping[str, float]) -> None:
        """Add one row. Raises ``StoreUnavailable``; ``TypeError`` for a name that is no text, a step beyond 64 bits."""
        names = tuple(values)
        place, whole, decimal = self._layouts.get(names) or self._introduce(names)
        if type(step) is int:
            try:
                row = whole.pack(ROW, place, step, time, *values.values())
            except struct.error as error:
                raise TypeError(f"an integer has more than 64 bits: {error}") from error
        else:
            row = decimal.pack(DECIMAL_ROW, place, step, time, *values.values())
        self._journal.add(checked_frame(row))

    def _introduce(self, names: tuple[str, ...]) -> tuple[int, struct.Struct, struct.Struct]:
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"the name of a metric is text, not {type(name).__name__}")
        introduction = frame(NAMES, orjson.dumps(names))
        place = -1
        while place < 0 or self._journal.read(place, len(introduction)) != introduction:
            place = self._journal.size()  # unless a signal handler adds something before the next line does
            self._journal.add(introduction)
        numbers = f"d{len(names)}d"
        layout = place, struct.Struct(f"<IQq{numbers}"), struct.Struct(f"<IQd{numbers}")
        self._layouts[names] = layout
        return layout


def fact_frame(draft: Draft) -> bytes:
    """The frame of any other fact."""
    head = {"event_id": draft.event_id, "type": draft.type, "schema_version": draft.schema_version}
    return frame(FACT, orjson.dumps(head) + b"\n" + draft.payload)


class FactReader:
    """Reads the facts of one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._names: dict[bytes, tuple[str, ...]] = {}

    def drafts(self, content: bytes, found: Sequence[Frame]) -> list[Draft]:
        """The facts in frames that follow each other in ``content``, rows gathered into columns.

        Raises ``NamesLost`` where the names that a row refers to are damaged.
        """
        facts: list[Draft] = []
        rows: list[_Rows] = []
        for (kind, size, place), group in groupby(found, key=lambda f: (f.kind, f.end - f.start, _place(content, f))):
            same = list(group)
            if kind in (ROW, DECIMAL_ROW):
                rows += self._matrix(content[same[0].start : same[-1].end], kind, size, self._names_at(place, same[0]))
            elif kind == FACT:
                facts += _gathered(rows, self._journal.header.metadata)
                rows = []
                facts += (self._fact(content[f.start + PREFIX.size : f.end]) for f in same)
        return facts + _gathered(rows, self._journal.header.metadata)

    def _fact(self, body: bytes) -> Draft:
        head, _, payload = body.partition(b"\n")
        return Draft(**orjson.loads(head), payload=payload, metadata=self._journal.header.metadata)

    def _matrix(self, content: bytes, kind: int, size: int, names: tuple[str, ...]) -> Iterator[_Rows]:
        width = size // _WORD
        for start in range(0, len(content), _ROWS * size):
            words = _words("d", content[start : start + _ROWS * size])
            steps = _words("q", content[start : start + _ROWS * size]) if kind == ROW else words
            yield _Rows(
                steps[_STEP::width].tolist(),
                words[_TIME::width].tolist(),
                {name: _spelled(words[_VALUES + n :: width].tolist()) for n, name in enumerate(names)},
            )

    def _names_at(self, place: bytes, row: Frame) -> tuple[str, ...]:
        if place not in self._names:
            named = self._journal.frame_at(int.from_bytes(place, "little"))
            if named is None or named[0] != NAMES:
                raise NamesLost(row)
            self._names[place] = tuple(orjson.loads(named[1]))
        return self._names[place]


class NamesLost(Exception):
    """Nobody can tell any more what the values of this row are; the frames before it are whole."""

    def __init__(self, row: Frame) -> None:
        super().__init__(row)
        self.row = row


class _Rows(NamedTuple):
    """Rows with the same metrics, as columns."""

    step: list[float]
    time: list[float]
    values: dict[str, list[Any]]


def _place(content: bytes, found: Frame) -> bytes:
    """Where a row's names stand; the same for all other frames."""
    if found.kind not in (ROW, DECIMAL_ROW):
        return b""
    start = found.start + PREFIX.size
    return content[start : start + _WORD]


def _words(kind: str, content: bytes) -> array[Any]:
    words: array[Any] = array(kind)
    words.frombytes(content)
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _spelled(column: list[float]) -> list[Any]:
    """With the strings that stand for what JSON lacks."""
    if math.isfinite(sum(column)):  # else there is such a number, or at least very large ones
        return column
    return [value if math.isfinite(value) else _spell(value) for value in column]


def _spell(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _gathered(rows: Sequence[_Rows], metadata: Metadata) -> list[Draft]:
    """Rows as facts of about ``_ROWS`` rows each."""
    facts: list[Draft] = []
    some: list[_Rows] = []
    for part in rows:
        if some and sum(len(p.step) for p in some) + len(part.step) > _ROWS:
            facts.append(_fact(some, metadata))
            some = []
        some.append(part)
    return [*facts, _fact(some, metadata)] if some else facts


def _fact(rows: Sequence[_Rows], metadata: Metadata) -> Draft:
    """One fact, None where a row lacks a metric that another row has."""
    names = dict.fromkeys(name for part in rows for name in part.values)
    columns = {
        "step": [step for part in rows for step in part.step],
        "time": [time for part in rows for time in part.time],
        "values": {
            name: [v for part in rows for v in part.values.get(name) or [None] * len(part.step)] for name in names
        },
    }
    return Draft(new_id(), MetricsLogged.type, MetricsLogged.schema_version, canonical_json(columns), metadata)
