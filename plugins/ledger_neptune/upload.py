"""Giving a Neptune server what it lacks of a run: no delivery that it has, and of one that was cut off no point twice.

The queue on disk says what is sent, and under which names: so a delivery that comes again is the same as the first
time, and a point is there already if its series has come to its step. ``mirror/log`` is sent in a request of its own,
after the rest has arrived; a new run is marked so before anything else.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import Conflict
from ledger_neptune.operations import MARK, is_assignment, is_series
from ledger_neptune.queue import deliveries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ledger_neptune.server import Server

_MOST: Final = 1000
"""Values in one request, as ``neptune sync`` sends them."""
_OWN: Final = "sys/"
"""Where Neptune puts what it knows of a run by itself."""
_TRASHED: Final = "sys/trashed"
_KINDS: Final = {"AssignFloat": "float", "AssignInt": "int", "AssignBool": "bool", "AssignString": "string"}
"""What Neptune calls a field that such an operation makes."""


@dataclass
class There:
    """What the server has of a run, as far as the next delivery depends on it."""

    id: str
    """Neptune's own, not the run's."""
    mark: Mapping[str, Any]
    """``first`` and ``last``: digests of these events; ``events``: how many."""
    kinds: dict[str, str]
    """Of each field and series, by its path."""
    steps: dict[str, float]
    """The last step of each series."""
    offset: int = field(default=0)
    """Bytes of the queue's file of which the server has everything."""


def look(server: Server, run: str, first: str) -> There:
    """What the server has of a run whose first event has this digest; it has the run from now on.

    Raises ``Conflict`` where it has another one under this id.
    """
    from neptune.internal.operation import AssignString

    found = server.made(run)
    there = _there(found, server.attributes(found))
    if there.mark.get("first", first) != first or (not there.mark and _is_used(there)):
        raise _not_ours(server, run)
    if not there.mark:
        there.mark = {"first": first, "events": 0}
        server.execute(there.id, [AssignString(MARK, json.dumps(there.mark))])
    return there


def bring(server: Server, there: There, folder: Path) -> None:
    """Send what the queue has behind the server's mark. Renews ``there``."""
    for end, (*made, mark) in deliveries(folder, there.offset):
        told = json.loads(mark.value)
        if told["events"] == there.mark["events"] and told["last"] != there.mark["last"]:
            raise _not_ours(server, folder.name)
        if told["events"] > there.mark["events"]:
            for portion in portions(_lacking(there, made), _MOST):
                server.execute(there.id, portion)
            server.execute(there.id, [mark])
            there.mark = told
        there.offset = end


def operations_on(server: Server, run: str) -> list[Any] | None:
    """What the server has of a run, as the operations that made it; None where it has no such run."""
    found = server.find(run)
    if found is None:
        return None
    attributes = server.attributes(found)
    if any(each.name == _TRASHED and each.boolProperties.value for each in attributes):
        raise server.in_trash(run)
    there = _there(found, attributes)
    if not there.mark and _is_used(there):
        raise _not_ours(server, run)
    if not there.mark:
        return None
    return [each for attribute in attributes for each in _as_made(server, found, attribute)]


def portions(operations: Iterable[Any], most: int) -> Iterator[list[Any]]:
    """The operations in their order, so many together that none of the lists has more than ``most`` values."""
    portion: list[Any] = []
    left = most
    for operation in operations:
        for part in _cut(operation, most):
            size = _size(part)
            if size > left:
                yield portion
                portion, left = [], most
            portion.append(part)
            left -= size
    if portion:
        yield portion


def _there(found: str, attributes: Sequence[Any]) -> There:
    mark: Any = None
    for each in attributes:
        if each.name == "/".join(MARK) and each.type == "string":
            with suppress(ValueError):
                mark = json.loads(each.stringProperties.value)
    return There(
        found,
        mark if isinstance(mark, dict) and {"first", "events"} <= mark.keys() else {},
        {each.name: each.type for each in attributes},
        {each.name: step for each in attributes if (step := _last_step(each)) is not None},
    )


def _last_step(attribute: Any) -> float | None:
    if attribute.type not in ("floatSeries", "stringSeries"):
        return None
    step: float | None = getattr(attribute, f"{attribute.type}Properties").lastStep
    return step


def _is_used(there: There) -> bool:
    return any(not name.startswith(_OWN) for name in there.kinds)


def _lacking(there: There, made: Sequence[Any]) -> Iterator[Any]:
    """What the server does not have of a delivery. What must be deleted first is told from its own fields."""
    from neptune.internal.operation import DeleteAttribute

    for operation in made:
        path = "/".join(operation.path)
        if is_assignment(operation):
            kind = _KINDS[type(operation).__name__]
            if there.kinds.get(path, kind) != kind:
                yield DeleteAttribute(operation.path)
            there.kinds[path] = kind
            yield operation
        elif is_series(operation.path):
            fresh = [each for each in operation.values if path not in there.steps or each.step > there.steps[path]]
            if fresh:
                there.steps[path] = fresh[-1].step
                yield type(operation)(operation.path, fresh)
        elif not isinstance(operation, DeleteAttribute):
            yield operation


def _cut(operation: Any, most: int) -> Iterator[Any]:
    if _size(operation) <= most:
        yield operation
        return
    for start in range(0, len(operation.values), most):
        yield type(operation)(operation.path, operation.values[start : start + most])


def _size(operation: Any) -> int:
    return len(operation.values) if is_series(operation.path) else 1


def _as_made(server: Server, found: str, attribute: Any) -> Iterator[Any]:
    """The operations that make a field or series; nothing for one that is none of this mirror's."""
    from neptune.internal import operation as kinds

    path, kind = attribute.name.split("/"), attribute.type
    if is_series(path) and kind in ("floatSeries", "stringSeries"):
        series: Any = kinds.LogFloats if kind == "floatSeries" else kinds.LogStrings
        points = server.points(found, path, kind)
        yield series(path, [series.ValueType(each.value, each.step, each.timestampMillis / 1000) for each in points])
    elif kind == "stringSet":
        yield kinds.AddStrings(path, attribute.stringSetProperties.values)
    for name, known in _KINDS.items():
        if kind == known:
            yield getattr(kinds, name)(path, getattr(attribute, f"{kind}Properties").value)


def _not_ours(server: Server, run: str) -> Conflict:
    run = run.removeprefix("run__")
    return Conflict(
        f"Neptune at {server.address} has another run under the custom id {run}",
        mend="set another [plugin.neptune] project, or delete that run there for good, also from the trash",
    )
