"""What TensorBoard cannot hold as it is in the log, and what it is shown instead. Pure."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ledger.hooks.pages import Adaptation, Page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.hooks.pages import Point, Scalar

TEXTS: Final = "TensorBoard shows text: what is a number or a truth value is written as Python writes it"
STEPS: Final = (
    "TensorBoard's steps are integers of 64 bits: rounded down; of several values at one step its usual reader shows "
    "the last, --load_fast=false all of them"
)
VALUES: Final = "TensorBoard's values have 32 bits: rounded, and what is too large for them is infinite"
_LAST_STEP: Final = 2**63 - 1


def adapt(page: Page) -> tuple[Page, list[Adaptation]]:
    """The page as TensorBoard can show it, and what became of what."""
    told: dict[Adaptation, None] = {}
    adapted = Page(
        config=_texts(page.config, told),
        fields=_texts(page.fields, told),
        tags=page.tags,
        points=tuple(_point(point, told) for point in page.points),
    )
    return adapted, list(told)


def _texts(facts: Mapping[str, Scalar], told: dict[Adaptation, None]) -> dict[str, Scalar]:
    if any(not isinstance(value, str) for value in facts.values()):
        told[Adaptation("configuration and fields", TEXTS)] = None
    return {key: str(value) for key, value in facts.items()}


def _point(point: Point, told: dict[Adaptation, None]) -> Point:
    step, value = _step(point.step), _value(point.value)
    if step != point.step or math.copysign(1, step) != math.copysign(1, point.step):
        told[Adaptation(point.metric, STEPS)] = None
    if value != point.value and not math.isnan(value):
        told[Adaptation("all metrics", VALUES)] = None
    return replace(point, step=step, value=value)


def _step(step: float) -> int:
    if not math.isfinite(step):
        return _LAST_STEP if step > 0 else -_LAST_STEP
    return min(max(math.floor(step), -_LAST_STEP), _LAST_STEP)


def _value(value: float) -> float:
    try:
        single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return single
