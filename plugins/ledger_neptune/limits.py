"""What Neptune cannot hold as it is in the log, and what is shown in its place. Pure; told in docs/neptune.md."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ledger.hooks.pages import Adaptation, Page

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ledger.hooks.pages import Point, Scalar

ATTEMPT: Final = "attempt-"
"""The last part of a series' path begins so."""
_TEXT: Final = 16_384
_PATH: Final = 900
_EXACT: Final = 2**53

_NAME_RULE: Final = (
    f"in names % is %25, an empty part between slashes %00, {ATTEMPT} %61ttempt-, in keys of the configuration "
    f"/ is %2F; a name of more than {_PATH} bytes is cut and ends with a digest of the whole"
)
_NUMBER_RULE: Final = "a whole number beyond 2^53, and what is no finite number, is text in a field"
_TEXT_RULE: Final = f"a text of more than {_TEXT} characters is cut and ends with a digest of the whole"
_NOT_FINITE_RULE: Final = "NaN and the infinities are in a series of texts beside that of the numbers"
_ORDER_RULE: Final = (
    "where its steps do not rise, or its times go back, another series begins: attempt-1.2 after attempt-1"
)
_TIME_RULE: Final = "a server has times in whole milliseconds: what is beyond is cut off"


def adapt(page: Page) -> tuple[Page, Sequence[Adaptation]]:
    """See ``ledger.hooks.ports.Mirror.adapt``."""
    metrics = {point.metric: _path(point.metric) for point in page.points}
    fields = {key: _path(key) for key in page.fields}
    keys = {key: _part(key.replace("%", "%25").replace("/", "%2F")) for key in page.config}
    told = [
        *_renamed("metric ", metrics),
        *_renamed("config ", keys),
        *_renamed("field ", fields),
        *_changed("config ", page.config),
        *_changed("field ", page.fields),
        *_about_points(page.points),
    ]
    adapted = Page(
        config={keys[key]: _scalar(value) for key, value in page.config.items()},
        fields={fields[key]: _scalar(value) for key, value in page.fields.items()},
        tags=page.tags,
        points=tuple(replace(point, metric=metrics[point.metric]) for point in page.points),
    )
    return adapted, told


def adapt_for_server(page: Page) -> tuple[Page, Sequence[Adaptation]]:
    """The same for a page that is kept by a server and not in a file."""
    adapted, told = adapt(page)
    points = tuple(replace(point, time=int(point.time * 1000) / 1000) for point in adapted.points)
    cut = dict.fromkeys(
        point.metric for point, shown in zip(page.points, points, strict=True) if point.time != shown.time
    )
    return replace(adapted, points=points), [*told, *(Adaptation(f"metric {metric}", _TIME_RULE) for metric in cut)]


def follows(last: tuple[float, float] | None, point: Point) -> bool:
    """Whether a point can be put behind the last one of a series, whose step and time are given."""
    return last is None or (point.step > last[0] and point.time >= last[1])


def _about_points(points: Sequence[Point]) -> Iterator[Adaptation]:
    """Adaptations that change where a point is kept, not what is shown of it."""
    last: dict[tuple[str, int, bool], tuple[float, float]] = {}
    found: dict[tuple[str, str], None] = {}
    for point in points:
        finite = math.isfinite(point.value)
        if not finite:
            found[point.metric, _NOT_FINITE_RULE] = None
        series = (point.metric, point.attempt, finite)
        if not follows(last.get(series), point):
            found[point.metric, _ORDER_RULE] = None
        last[series] = (point.step, point.time)
    return (Adaptation(f"metric {metric}", rule) for metric, rule in found)


def _renamed(kind: str, names: Mapping[str, str]) -> Iterator[Adaptation]:
    return (Adaptation(kind + name, _NAME_RULE) for name, shown in names.items() if shown != name)


def _changed(kind: str, table: Mapping[str, Scalar]) -> Iterator[Adaptation]:
    for key, value in table.items():
        if _scalar(value) is not value:
            yield Adaptation(kind + key, _TEXT_RULE if isinstance(value, str) else _NUMBER_RULE)


def _scalar(value: Scalar) -> Scalar:
    if isinstance(value, str):
        return _cut(value, _TEXT) if len(value) > _TEXT else value
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return str(value) if isinstance(value, int) and abs(value) > _EXACT else value


def _path(name: str) -> str:
    parts = [part.replace("%", "%25") or "%00" for part in name.split("/")]
    return _part("/".join("%61" + part[1:] if part.startswith(ATTEMPT) else part for part in parts))


def _part(name: str) -> str:
    """A path, or a part of one, that is neither empty nor too long."""
    name = name or "%00"
    if len(name.encode()) <= _PATH:
        return name
    return _cut(name, _PATH // 4)


def _cut(text: str, length: int) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text[: length - len(digest) - 1]}-{digest}"
