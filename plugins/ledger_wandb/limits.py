"""What W&B cannot hold as it is in the log, and what is shown in its place. Pure; told in docs/wandb.md."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ledger.hooks.pages import Adaptation, Page

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ledger.hooks.pages import Point, Scalar

OURS: Final = "ledger/"
"""What begins so in a run's history and summary is Ledger's own."""
_TAG: Final = 64
_ESCAPE: Final = "logged:"
_EXACT: Final = 2**53

_NAME_RULE: Final = f"a name that is empty or begins with _, {OURS} or {_ESCAPE} is shown with {_ESCAPE} before it"
_TAG_RULE: Final = f"a tag has 1 to {_TAG} characters: a longer one is cut and ends with a digest of the whole"
_POINT_RULE: Final = "a zero has no sign, and a step beyond 2^53 is the nearest number that W&B has"
_NUMBER_RULE: Final = (
    "outside of the history, a whole number beyond 2^53 and what is no finite number are text; a zero has no sign"
)


def adapt(page: Page) -> tuple[Page, Sequence[Adaptation]]:
    """See ``ledger.hooks.ports.Mirror.adapt``."""
    metrics = {point.metric: _name(point.metric) for point in page.points}
    keys = {key: _name(key) for key in page.config}
    tags = {tag: _tag(tag) for tag in page.tags}
    config = {key: _scalar(value) for key, value in page.config.items()}
    fields = {key: _scalar(value) for key, value in page.fields.items()}
    told = [
        *_told("metric ", _NAME_RULE, metrics),
        *(Adaptation("metric " + name, _POINT_RULE) for name in _not_as_they_are(page.points)),
        *_told("config ", _NAME_RULE, keys),
        *_told("tag ", _TAG_RULE, tags),
        *(Adaptation("config " + key, _NUMBER_RULE) for key, value in config.items() if value is not page.config[key]),
        *(Adaptation("field " + key, _NUMBER_RULE) for key, value in fields.items() if value is not page.fields[key]),
    ]
    adapted = Page(
        config={keys[key]: value for key, value in config.items()},
        fields=fields,
        tags=tuple(tags.values()),
        points=tuple(_point(point, metrics[point.metric]) for point in page.points),
    )
    return adapted, told


def _told(kind: str, rule: str, names: Mapping[str, str]) -> list[Adaptation]:
    return [Adaptation(kind + name, rule) for name, shown in names.items() if shown != name]


def _scalar(value: Scalar) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, int) and abs(value) > _EXACT:
        return str(value)
    return 0.0 if _is_negative_zero(value) else value


def _is_negative_zero(value: Scalar) -> bool:
    return isinstance(value, float) and value == 0 and math.copysign(1, value) < 0


def _not_as_they_are(points: Iterable[Point]) -> Iterable[str]:
    """Metrics with points that ``_point`` changes."""
    return dict.fromkeys(
        p.metric
        for p in points
        if _is_negative_zero(p.value) or _is_negative_zero(p.step) or float(p.step) != p.step  # int: exact
    )


def _point(point: Point, metric: str) -> Point:
    return replace(point, metric=metric, step=point.step + 0.0, value=point.value + 0.0)


def _name(name: str) -> str:
    return _ESCAPE + name if not name or name.startswith(("_", OURS, _ESCAPE)) else name


def _tag(tag: str) -> str:
    if 0 < len(tag) <= _TAG:
        return tag
    digest = hashlib.sha256(tag.encode()).hexdigest()[:16]
    return f"{tag[: _TAG - len(digest) - 1]}-{digest}"
