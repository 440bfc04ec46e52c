"""Questions to the projections as SQL. What a user typed travels as bound parameters only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, String, and_, case, exists, false, func, literal, not_, or_, select, type_coerce

from ledger.store.base import run_stream
from ledger.store.projections.query import And, Comparison, Condition, Config, Field, Metric, Not, Or, pattern_parts
from ledger.store.projections.tables import CONFIG, DATA, METRIC, SUMMARY, TAG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Select

    from ledger.store.projections.query import Op, Order, Quantity, RunQuery
    from ledger.store.projections.summary import Value

ORIGINAL: Final = SUMMARY.alias("original")
_ID: Final = func.substr(SUMMARY.c.stream, len(run_stream("")) + 1)
_COLUMNS: Final[dict[str, ColumnElement[Any]]] = {
    "name": SUMMARY.c.name,
    "id": type_coerce(_ID, SUMMARY.c.stream.type),
    "kind": SUMMARY.c.kind,
    "started": SUMMARY.c.started_at,
    "ended": SUMMARY.c.ended_at,
    "step": func.coalesce(SUMMARY.c.ended_step, SUMMARY.c.reached),
    "attempts": SUMMARY.c.attempts,
    "project": SUMMARY.c.project,
    "user": SUMMARY.c.user,
    "host": SUMMARY.c.host,
    "verdict": SUMMARY.c.verdict,
}


class Asking:
    """The SQL of one query."""

    def __init__(self, query: RunQuery, dialect: str) -> None:
        self._query = query
        self._like = _glob if dialect == "sqlite" else _like
        dead = (SUMMARY.c.status == "running") & SUMMARY.c.stream.not_in(sorted(query.living))
        self.status: ColumnElement[str] = case((dead, "interrupted"), else_=SUMMARY.c.status)

    def arranged(self, runs: Select[Any]) -> Select[Any]:
        """``runs`` filtered, in the order that was asked for, no more than that."""
        query = self._query
        if query.where is not None:
            runs = runs.where(self._condition(query.where))
        if query.order:
            runs = runs.order_by(*self._order(query.order), SUMMARY.c.opened)
        else:
            # The last so many: the caller turns them around.
            runs = runs.order_by(SUMMARY.c.opened if query.limit is None else SUMMARY.c.opened.desc())
        return runs if query.limit is None else runs.limit(query.limit)

    def asked(self) -> Iterator[ColumnElement[Any]]:
        """Two columns for each value that the query asks for: as a number, and as a text."""
        for number, quantity in enumerate(self._query.asked):
            for kind, column in zip(("number", "text"), self._scalar(quantity), strict=True):
                yield column.label(f"asked_{kind}_{number}")

    def _condition(self, condition: Condition) -> ColumnElement[bool]:
        match condition:
            case And(parts):
                return and_(*map(self._condition, parts))
            case Or(parts):
                return or_(*map(self._condition, parts))
            case Not(part):
                return not_(self._condition(part).self_group())
            case Comparison(Field(name, "texts"), op, value):
                return self._any_text(name, op, str(value))
            case Comparison(Field("id"), "=", value):
                return SUMMARY.c.stream == run_stream(str(value))  # by the key
            case Comparison(of, op, value):
                return self._compared(self._scalar(of)[isinstance(value, str)], op, value)

    def _scalar(self, quantity: Quantity) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        """The quantity as a number, and as a text; one of them is NULL."""
        match quantity:
            case Metric(name, which):
                value = select(METRIC.c[which]).where(METRIC.c.stream == SUMMARY.c.stream, METRIC.c.name == name)
                return value.correlate(SUMMARY).scalar_subquery(), _nothing()
            case Config(path):
                here = (CONFIG.c.stream == SUMMARY.c.stream) & (CONFIG.c.path == path)
                number, text = (
                    select(column).where(here).scalar_subquery() for column in (CONFIG.c.number, CONFIG.c.text)
                )
                return number, text
            case Field(name, kind):
                column = self.status if name == "status" else _COLUMNS[name]
                return (column, _nothing()) if kind == "number" else (_nothing(), column)

    def _order(self, order: Order) -> Iterator[ColumnElement[Any]]:
        number, text = self._scalar(order.by)
        yield and_(number.is_(None), text.is_(None))
        yield number.is_(None)
        for column in (number, text):
            yield column.desc() if order.descending else column.asc()

    def _any_text(self, name: str, op: Op, value: str) -> ColumnElement[bool]:
        if op in ("!=", "!~"):
            return not_(self._any_text(name, "=" if op == "!=" else "~", value).self_group())

        def fits(*columns: ColumnElement[Any]) -> ColumnElement[bool]:
            return or_(false(), *(self._compared(column, op, value) for column in columns))

        if name == "tag":
            return exists().where(TAG.c.stream == SUMMARY.c.stream, fits(TAG.c.tag))
        if name == "data":
            columns = (DATA.c.name, DATA.c.uri, DATA.c.commit, DATA.c.digest)
            return exists().where(DATA.c.stream == SUMMARY.c.stream, fits(*columns))
        return func.coalesce(fits(SUMMARY.c.replay_of), false()) | func.coalesce(fits(ORIGINAL.c.name), false())

    def _compared(self, column: ColumnElement[Any], op: Op, value: Value) -> ColumnElement[bool]:
        match op:
            case "~":
                return self._like(column, str(value))
            case "!~":
                return not_(self._like(column, str(value)).self_group())
            case "=":
                return column == value
            case "!=":
                return column != value
            case "<":
                return column < value
            case "<=":
                return column <= value
            case ">":
                return column > value
            case ">=":
                return column >= value


def _nothing() -> ColumnElement[Any]:
    return literal(None, String)


def _glob(column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    # SQLite's LIKE does not tell a from A.
    escaped = (part.replace("[", "[[]").replace("?", "[?]") for part in pattern_parts(pattern))
    return column.op("GLOB", is_comparison=True)("*".join(escaped))


def _like(column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    escaped = (part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for part in pattern_parts(pattern))
    return column.like("%".join(escaped), escape="\\")
