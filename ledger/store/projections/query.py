"""Questions to the projections: which runs, in which order, with what of each. Pure.

A condition is true, false, or neither: where a run lacks a value, or it is NaN, a comparison with it is neither, and
so is what follows from that alone, as in SQL. Only runs for which the condition is true are found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from operator import eq, ge, gt, itemgetter, le, lt, ne
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from ledger.store.projections.measured import Measured
    from ledger.store.projections.summary import RunSummary, Value

Op = Literal["=", "!=", "<", "<=", ">", ">=", "~", "!~"]
"""``~`` is a pattern for the whole text, in which ``*`` stands for any characters; ``!~`` its contrary."""


@dataclass(frozen=True, slots=True)
class Field:
    """A fact about the run itself."""

    name: str
    kind: Literal["text", "number", "time", "texts"]
    """Of ``texts`` a run has any number: one that fits is enough, and ``!=`` means that none does."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A value of a metric."""

    name: str
    which: Literal["last", "lowest", "highest"] = "last"


@dataclass(frozen=True, slots=True)
class Config:
    """A configured value."""

    path: str


Quantity = Field | Metric | Config

FIELDS: Final = {
    field.name: field
    for field in (
        Field("name", "text"),
        Field("id", "text"),
        Field("status", "text"),
        Field("kind", "text"),
        Field("started", "time"),
        Field("ended", "time"),
        Field("step", "number"),
        Field("attempts", "number"),
        Field("project", "text"),
        Field("user", "text"),
        Field("host", "text"),
        Field("verdict", "text"),
        Field("tag", "texts"),
        Field("data", "texts"),
        Field("replay_of", "texts"),
    )
}
"""``data`` is name, URI, commit and digest of all that a run read; ``replay_of`` UUID and name of the original."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A quantity beside a value of its own kind; times as the log writes them."""

    of: Quantity
    op: Op
    value: Value


@dataclass(frozen=True, slots=True)
class And:
    """True where all parts are."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True where any part is."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True where the part is false."""

    part: Condition


Condition = Comparison | And | Or | Not


@dataclass(frozen=True, slots=True)
class Order:
    """Lowest first, or highest; numbers before texts, runs without a value last, ties as they started."""

    by: Quantity
    descending: bool = False


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to list."""

    where: Condition | None = None
    order: Order | None = None
    """None for the order in which they started."""
    limit: int | None = None
    """The first so many; of those in the order in which they started, the last."""
    living: frozenset[str] = frozenset()
    """Streams whose writers live. A run that is running in the log and not among them is interrupted."""
    asked: tuple[Quantity, ...] = ()
    """What to bring along of each run."""


class Names(NamedTuple):
    """Metrics and configured values that some run of the log has."""

    metrics: frozenset[str]
    configs: dict[str, bool]
    """Paths, and whether any run has a number there."""


class Unended(NamedTuple):
    """A run that is running as the log has it."""

    stream: str
    host: str
    pid: int
    started: str
    """As ``ledger.events.Process`` has it."""
    lease: float | None
    """Seconds that its writer's lease has left; None without one."""


class WrittenCheckpoint(NamedTuple):
    """A checkpoint with one of the digests that were asked for."""

    position: int
    stream: str
    run: str
    """Name of the run."""
    replay: bool
    file: str | None
    """The file that has the digest; None where the checkpoint as a whole has it."""


class Projections(Protocol):
    """What is kept beside a log for lists and searches."""

    def runs(self, query: RunQuery) -> list[RunSummary]:
        """The runs that fit."""

    def metrics(self, streams: Collection[str]) -> dict[str, dict[str, Measured]]:
        """The metrics of these runs, by name."""

    def run_names(self) -> dict[str, str]:
        """Name of every run by its stream, in the order in which they started."""

    def find(self, name: str | None = None) -> Names:
        """Metrics with this name, configured values with this path or one that ends with it; all of them for None."""

    def unended(self) -> list[Unended]:
        """The runs that are running as the log has it."""

    def checkpoints(self, digests: Collection[str]) -> list[WrittenCheckpoint]:
        """Checkpoints with one of these digests, as a whole or in a file, originals before replays.

        A digest may be shortened. Of several files of one checkpoint, the first by path.
        """


def holds(condition: Condition, look: Callable[[Quantity], Value | tuple[str, ...] | None]) -> bool | None:
    """Whether the condition is true; None where it is neither. ``look`` gives a run's values."""
    match condition:
        case Comparison(of, op, value):
            return _compared(look(of), op, value)
        case Not(part):
            held = holds(part, look)
            return None if held is None else not held
        case And(parts):
            return _decided([holds(part, look) for part in parts], by=False)
        case Or(parts):
            return _decided([holds(part, look) for part in parts], by=True)


def ordered(runs: Iterable[RunSummary], order: Order, look: Callable[[RunSummary], Value | None]) -> list[RunSummary]:
    """The runs, which come in the order in which they started, in this order."""
    numbers: list[tuple[float, RunSummary]] = []
    texts: list[tuple[str, RunSummary]] = []
    without: list[RunSummary] = []
    for run in runs:
        value = look(run)
        if value is None:
            without.append(run)
        elif isinstance(value, str):
            texts.append((value, run))
        else:
            numbers.append((value, run))
    numbers.sort(key=itemgetter(0), reverse=order.descending)
    texts.sort(key=itemgetter(0), reverse=order.descending)
    return [run for _, run in numbers] + [run for _, run in texts] + without


def pattern_parts(pattern: str) -> list[str]:
    """What stands between the stars of a pattern for ``~``."""
    return pattern.split("*")


def names_ending(name: str, paths: Mapping[str, bool]) -> dict[str, bool]:
    """The paths that are ``name`` or end with it."""
    return {path: number for path, number in paths.items() if path == name or path.endswith(f".{name}")}


def shortened(digest: str) -> tuple[str, str]:
    """First and, itself excluded, last of the digests that begin with this."""
    digest = digest.lower()
    return digest, f"{digest}g"


_OPERATORS: Final = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_CONTRARY: Final[dict[Op, Op]] = {"!=": "=", "!~": "~"}


def _compared(actual: Value | tuple[str, ...] | None, op: Op, value: Value) -> bool | None:
    if isinstance(actual, tuple):
        if op in _CONTRARY:
            return not any(_compared(one, _CONTRARY[op], value) for one in actual)
        return any(_compared(one, op, value) for one in actual)
    if actual is None or isinstance(actual, str) != isinstance(value, str) or actual != actual:
        return None
    if op in ("~", "!~"):
        return bool(_regex(str(value)).fullmatch(str(actual))) == (op == "~")
    compare: Callable[[Value, Value], bool] = _OPERATORS[op]
    return compare(actual, value)


@lru_cache(maxsize=64)
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern_parts(pattern))), re.DOTALL)


def _decided(held: list[bool | None], *, by: bool) -> bool | None:
    """One part that is ``by`` decides; else one that is neither leaves it open."""
    return by if by in held else None if None in held else not by
