"""The work that every contestant is given: the same numbers, from one seed, prepared before any clock starts."""

from __future__ import annotations

import math
import random
import struct
from typing import Final

METRICS: Final = ("train/loss", "train/accuracy", "grad_norm", "lr", "tokens")


def steps(count: int) -> list[dict[str, float]]:
    """What a training loop logs at each step: three float32 measurements, a schedule and a counter."""
    draw = random.Random(7)
    rows = []
    for step in range(count):
        noise = draw.gauss(0, 0.05)
        loss = 1.5 + 2.5 * math.exp(-step / 800) + noise
        measured = (loss, min(1.0, max(0.0, 0.9 - loss / 8 + noise / 4)), abs(draw.gauss(0.8, 0.2)))
        lr = 3e-4 * 0.5 * (1 + math.cos(math.pi * step / count))
        rows.append(dict(zip(METRICS, (*map(_float32, measured), lr, 32768.0 * (step + 1)), strict=True)))
    return rows


def series_value(step: int) -> float:
    """The value of the series that is read back: one that no tool need round, TensorBoard keeps float32."""
    return _float32(step / 7)


def _float32(value: float) -> float:
    """As ``tensor.item()`` gives it: a double with the precision of a float32."""
    return float(struct.unpack("f", struct.pack("f", value))[0])
