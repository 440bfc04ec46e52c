"""Which samples a step reads: a pure function of seed, step and share.

There is no loader and so no position to save: an epoch is a permutation that can be asked for any of its
places alone. It is a Feistel network over the smallest square domain, walked until it falls into range (Black
and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"), in integer arithmetic of our own: NumPy promises
its random streams for no other version of NumPy (NEP 19), and an audit may run under one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices = NDArray[np.uint64]

ROUNDS: Final = 8


def step_places(seed: int, step: int, batch: int, total: int) -> Indices:
    """Places in the data of the samples that ``step``, counted from 1, reads.

    Epoch follows epoch without a gap.
    """
    positions = np.arange((step - 1) * batch, step * batch, dtype=np.uint64)
    epochs = positions // np.uint64(total)
    places = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        places[here] = permute(positions[here] % np.uint64(total), total, f"{seed}/{epoch}")
    return places


def share(places: Indices, *, share: int, shares: int, accumulation: int) -> Indices:
    """One of the ``shares`` of a step, an array of [accumulation, samples]."""
    return places.reshape(accumulation, shares, -1)[:, share]


def positions(seed: int, place: int, steps: int, batch: int, total: int) -> list[int]:
    """Where in the order of reading, counted from 0, the first ``steps`` steps read the sample at ``place``.

    The inverse of ``step_places``, one look for each epoch.
    """
    end = steps * batch
    at = np.array([place], dtype=np.uint64)
    found = (epoch * total + int(unpermute(at, total, f"{seed}/{epoch}")[0]) for epoch in range(-(-end // total)))
    return [position for position in found if position < end]


def share_of(position: int, *, batch: int, shares: int, accumulation: int) -> int:
    """The share of its step that a position belongs to; see ``share``."""
    return position % batch // (batch // (shares * accumulation)) % shares


def permute(index: Indices, size: int, key: str) -> Indices:
    """Where the permutation of ``range(size)`` that belongs to ``key`` takes each of ``index``."""
    half, keys = _domain(size, key)
    result = _feistel(index, half, keys)
    while (outside := result >= size).any():
        result[outside] = _feistel(result[outside], half, keys)
    return result


def unpermute(index: Indices, size: int, key: str) -> Indices:
    """What ``permute`` takes to each of ``index``."""
    half, keys = _domain(size, key)
    result = _unfeistel(index, half, keys)
    while (outside := result >= size).any():
        result[outside] = _unfeistel(result[outside], half, keys)
    return result


def _domain(size: int, key: str) -> tuple[np.uint64, Indices]:
    """Bits of half an index, and the keys of the rounds."""
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    return half, np.frombuffer(hashlib.sha512(key.encode()).digest(), dtype="<u8", count=ROUNDS).astype(np.uint64)


def _feistel(index: Indices, half: np.uint64, keys: Indices) -> Indices:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = index >> half, index & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _unfeistel(index: Indices, half: np.uint64, keys: Indices) -> Indices:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = index >> half, index & mask
    for key in keys[::-1]:
        left, right = right ^ (_mix(left ^ key) & mask), left
    return (left << half) | right


def _mix(x: Indices) -> Indices:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
