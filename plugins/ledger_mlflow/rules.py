"""What MLflow cannot hold as it is in the log, and what it is shown instead. Pure."""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ledger.hooks.pages import Adaptation, Page

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ledger.hooks.pages import Point, Scalar

PARAM_LENGTH: Final = 6000
"""Characters of a parameter; MLflow cuts what is longer without a word."""
TAG_LENGTH: Final = 8000
"""The same of a tag."""
_NAME_LENGTH: Final = 200
"""MLflow takes 250 characters; tags of Ledger's own have a word before the name."""
_TAKEN: Final = re.compile(r"[/\w.\- :]+")
_REFUSED: Final = re.compile(r"[^/\w.\- :]")
_LAST_STEP: Final = 2**63 - 1

TEXTS: Final = "MLflow's parameters and tags are text: what is a number or a truth value is written as Python writes it"
NAMES: Final = (
    "MLflow's names have letters, digits, spaces and _ - . : / only, no empty part between slashes, and are not long: "
    "what it refuses becomes _, and a part of the SHA-256 of the name follows"
)
LONG: Final = (
    f"MLflow holds {PARAM_LENGTH} characters of a parameter and {TAG_LENGTH} of a tag, and no NUL: "
    "beginning and end are kept, with the length and the SHA-256 of the whole between them"
)
TIMES: Final = "MLflow counts time in whole milliseconds since 1970: rounded"
ATTEMPTS: Final = "MLflow's curves know no attempts: points of all attempts are in one curve, told apart by their times"
STEPS: Final = "MLflow's steps are integers of 64 bits: rounded down"
INFINITE: Final = "MLflow has no infinities: the largest number of that sign stands for them"
ZERO: Final = "MLflow's zero has no sign"
AGAIN: Final = (
    "MLflow keeps a parameter as it was first set: what it was set to last is the tag ledger.config/ and its name"
)
KEPT: Final = "this MLflow server refuses it: a tag ledger.refused/… keeps it as text"


def adapt(page: Page) -> tuple[Page, list[Adaptation]]:
    """The page as MLflow can show it, and what became of what."""
    told: dict[Adaptation, None] = {}
    adapted = Page(
        config=_facts(page.config, "parameter ", PARAM_LENGTH, told),
        fields=_facts(page.fields, "", TAG_LENGTH, told),
        tags=tuple(_text(tag, f"tag {tag[:40]}", TAG_LENGTH, told) for tag in page.tags),
        points=tuple(_point(point, told) for point in page.points),
    )
    return adapted, list(told)


def name(text: str) -> str:
    """A name that MLflow takes: another one for every other text."""
    if _TAKEN.fullmatch(text) and len(text) <= _NAME_LENGTH and _is_normal(text):
        return text
    parts = _REFUSED.sub("_", text).split("/")
    kept = "/".join(part for part in parts if part not in ("", ".", ".."))
    return f"{kept[: _NAME_LENGTH - 10].lstrip('.') or '_'}.{_digest(text)[:8]}"


def milliseconds(seconds: Scalar) -> int:
    """A time as MLflow has it."""
    return round(float(seconds) * 1000)


def _is_normal(text: str) -> bool:
    return posixpath.normpath(text) == text and not text.startswith((".", "/"))


def _facts(facts: Mapping[str, Scalar], kind: str, limit: int, told: dict[Adaptation, None]) -> dict[str, Scalar]:
    adapted: dict[str, Scalar] = {}
    for key, value in facts.items():
        if not isinstance(value, str):
            told[Adaptation("parameters and fields", TEXTS)] = None
        adapted[_name(key, kind, told)] = _text(str(value), kind + key, limit, told)
    return adapted


def _name(text: str, kind: str, told: dict[Adaptation, None]) -> str:
    shown = name(text)
    if shown != text:
        told[Adaptation(f"{kind}{text[:_NAME_LENGTH]!r}", f"{NAMES}: {shown}")] = None
    return shown


def _text(text: str, what: str, limit: int, told: dict[Adaptation, None]) -> str:
    if len(text) <= limit and "\0" not in text:
        return text
    told[Adaptation(what or "''", LONG)] = None
    note = f"\n… {len(text)} characters, SHA-256 {_digest(text)} …\n"
    ends = (limit - len(note)) // 2
    whole = text.replace("\0", "\N{SYMBOL FOR NULL}")
    return whole[:ends] + note + whole[max(len(whole) - ends, ends) :]


def _point(point: Point, told: dict[Adaptation, None]) -> Point:
    time = max(milliseconds(point.time), 0) / 1000
    metric = _name(point.metric, "metric ", told)
    shown = replace(point, metric=metric, step=_step(point.step), time=time, value=_value(point.value), attempt=1)
    for what, rule in _told_of(point, shown):
        told[Adaptation(what, rule)] = None
    return shown


def _told_of(point: Point, shown: Point) -> Iterator[tuple[str, str]]:
    if shown.time != point.time:
        yield "all metrics", TIMES
    if shown.attempt != point.attempt:
        yield "all metrics", ATTEMPTS
    if shown.step != point.step or math.copysign(1, point.step) != math.copysign(1, shown.step):
        yield point.metric, STEPS
    if math.isinf(point.value):
        yield point.metric, INFINITE
    if point.value == 0 and math.copysign(1, point.value) < 0:
        yield point.metric, ZERO


def _step(step: float) -> int:
    if not math.isfinite(step):
        return _LAST_STEP if step > 0 else -_LAST_STEP
    return min(max(math.floor(step), -_LAST_STEP), _LAST_STEP)


def _value(value: float) -> float:
    # Adding zero takes the sign from a zero; it changes nothing else.
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else value + 0.0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
