"""What the words of a filter mean in a ledger: facts about runs, metrics, configured values; numbers and times."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from ledger.read.where import Expression
from ledger.store.projections.query import FIELDS, And, Comparison, Config, Field, Metric, Not, Or, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ledger.errors import UsageError
    from ledger.read.where import Token, Written
    from ledger.store.projections.query import Condition, Names, Op, Quantity

_ALSO: Final = {
    "run": "name", "steps": "step", "tags": "tag", "started_at": "started", "ended_at": "ended", "attempt": "attempts",
}  # fmt: skip
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{8,63}")
_EQUALITY: Final = ("=", "!=")
_PATTERN: Final = ("~", "!~")


class Reading:
    """One filter or order, read with what a ledger has.

    A name is a fact about the run (``FIELDS``), or a configured value by its path or the unique end of one, or a
    metric, of which the last value is meant. One that is both a configured value and a metric means what was
    configured. ``config.NAME`` and ``metric.NAME`` say which one is meant.
    """

    def __init__(self, text: str, find: Callable[[str | None], Names]) -> None:
        """``find`` is ``Projections.find``."""
        self._expression = Expression(text)
        self._find = find
        self.asked: dict[str, Quantity] = {}
        """Metrics and configured values that are mentioned, by what to call them."""
        self.notes: list[str] = []
        """Which of two meanings was taken."""

    def condition(self) -> Condition:
        """The filter. Raises ``UsageError``."""
        return self._expression.condition(self._comparison)

    def order(self, *, descending: bool) -> Order:
        """The order by this quantity. Raises ``UsageError``."""
        written = self._expression.quantity()
        by = self._quantity(written)
        if isinstance(by, Field) and by.kind == "texts":
            raise self._wrong(written.name, f"runs have no order by {by.name}: a run may have several")
        return Order(by, descending)

    def _comparison(self, written: Written, op: Op, value: Token) -> Condition:
        number = _number(value)
        of = self._quantity(written, number is not None and op not in _PATTERN)
        if isinstance(of, Field) and of.kind == "time":
            return self._at_time(of, op, value)
        if isinstance(of, Metric) or (isinstance(of, Field) and of.kind == "number"):
            if op in _PATTERN:
                raise self._wrong(value, f"{written.name.text} is a number, and {op} is for text")
            if number is None:
                raise self._wrong(value, f"{written.name.text} is a number, and {value.text!r} is none")
            return Comparison(of, op, number)
        if isinstance(of, Config) and number is not None and op not in _PATTERN:
            return Comparison(of, op, number)
        if of == FIELDS["data"] and op in _EQUALITY and _DIGEST.fullmatch(value.text):
            found = Or((Comparison(of, "=", value.text), Comparison(of, "~", f"{value.text.lower()}*")))
            return found if op == "=" else Not(found)
        return Comparison(of, op, value.text)

    def _quantity(self, written: Written, number: bool = False) -> Quantity:
        """What is meant, where it is to be compared with a ``number`` or not."""
        name = written.name.text
        if written.which:
            if name not in self._find(name).metrics:
                raise self._unknown(written.name, sorted(self._find(None).metrics), "a metric")
            word = {"last": "last", "lowest": "min", "highest": "max"}[written.which]
            return self._ask(f"{word}({name})", Metric(name, written.which))
        if field := FIELDS.get(_ALSO.get(name, name)):
            return field
        kind, _, bare = name.partition(".")
        if kind == "config" and (configs := self._find(bare).configs):
            return self._configured(written.name, bare, configs)
        if kind == "metric" and bare in self._find(bare).metrics:
            return self._ask(bare, Metric(bare))
        known = self._find(name)
        if number and known.metrics:  # where a configuration has only text, a metric must be meant
            known = known._replace(configs={path: has for path, has in known.configs.items() if has})
        if known.configs:
            found = self._configured(written.name, name, known.configs)
            if known.metrics:
                path = found.path
                self.notes.append(f"{name} means the configured {path}; metric.{name} is the metric of that name")
            return found
        if known.metrics:
            return self._ask(name, Metric(name))
        everything = self._find(None)
        raise self._unknown(
            written.name, [*FIELDS, *sorted({*everything.metrics, *everything.configs})], "anything called"
        )

    def _configured(self, token: Token, name: str, paths: Collection[str]) -> Config:
        """The value at this path, or at the only one that ends with it."""
        if name not in paths and len(paths) > 1:
            found = sorted(paths)
            raise self._wrong(token, f"{name} may mean {', '.join(found)}", "write " + " or ".join(found))
        path = name if name in paths else next(iter(paths))
        config = Config(path)
        self._ask(path, config)
        return config

    def _ask(self, label: str, quantity: Quantity) -> Quantity:
        self.asked[label] = quantity
        return quantity

    def _at_time(self, of: Field, op: Op, value: Token) -> Condition:
        """A time is a moment; equal to a day, or a minute, is what lies within it."""
        span = _span(value.text)
        if span is None or op in _PATTERN:
            raise self._wrong(value, f"{of.name} is a time, such as 2026-01-31 or '2026-01-31 18:30'")
        begin, end = span
        if op not in _EQUALITY:
            return Comparison(of, op, begin)
        within = And((Comparison(of, ">=", begin), Comparison(of, "<", end)))
        return within if op == "=" else Not(within)

    def _unknown(self, token: Token, names: list[str], what: str) -> UsageError:
        near = difflib.get_close_matches(token.text, names, n=3, cutoff=0.5)
        # The last part may be all that somebody remembers.
        near += [name for name in names if name.endswith(f"/{token.text}") and name not in near][:3]
        mend = f"did you mean {' or '.join(near)}?" if near else None
        return self._wrong(token, f"no run of this ledger has {what} {token.text!r}", mend)

    def _wrong(self, token: Token, what: str, mend: str | None = None) -> UsageError:
        return self._expression.wrong(token.at, what, mend)


def _number(value: Token) -> float | None:
    return float(value.text) if value.kind == "word" and _NUMBER.fullmatch(value.text) else None


_UNITS: Final = ("hours", "minutes", "seconds")
"""What a time of day names, by the colons in it."""


def _span(text: str) -> tuple[str, str] | None:
    """First moment and end of the time, in the reader's own zone unless it names one; as the log writes moments."""
    try:
        begin = datetime.fromisoformat(text)
        return _moment(begin), _moment(begin + _length(text))
    except (ValueError, OverflowError):
        return None


def _length(text: str) -> timedelta:
    """The span of time that a text names: a day, unless it names an hour, a minute, a second or less."""
    clock = re.search(r"\d[ T]([\d:.,]+)", text)
    if clock is None:
        return timedelta(days=1)
    if "." in clock[1] or "," in clock[1]:
        return timedelta(microseconds=1)
    return timedelta(**{_UNITS[min(clock[1].count(":"), 2)]: 1})


def _moment(when: datetime) -> str:
    """Also of a time without a zone, which is the reader's."""
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
