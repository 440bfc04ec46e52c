"""The Merkle tree over a whole log, held as the roots of its chunks: 32 bytes for 4,096 events.

Chunks are aligned subtrees, so that they can be hashed apart from each other and put together, and every subtree
that a proof names is made of whole chunks or lies within one, whose leaves are then read again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.trust.merkle import consistency_ranges, inclusion_ranges, root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHUNK: Final = 4096
"""Leaves of a chunk, a power of two."""


class LogTree:
    """The tree over the first ``size`` events of a log; leaf ``i`` is the event with global position ``i + 1``."""

    def __init__(self, size: int, chunks: Sequence[bytes], leaves: Callable[[int, int], Sequence[bytes]]) -> None:
        """``chunks`` are the roots of ⌈size / CHUNK⌉ chunks; ``leaves(start, end)`` gives leaf hashes again."""
        self.size = size
        self._chunks = chunks
        self._leaves = leaves

    def root(self, size: int | None = None) -> bytes:
        """Hash of the tree; of the tree that it was at ``size``, where that is given."""
        return self._hash(0, self.size if size is None else size)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Proof that leaf ``index`` is in the tree that this one was at ``size``."""
        return [self._hash(start, end) for start, end in inclusion_ranges(index, size)]

    def consistency(self, first: int) -> list[bytes]:
        """Proof that this tree extends the one that it was at ``first``."""
        return [self._hash(start, end) for start, end in consistency_ranges(first, self.size)]

    def _hash(self, start: int, end: int) -> bytes:
        if start % CHUNK:  # a subtree that does not begin with a chunk lies within one
            return root(self._leaves(start, end))
        hashes = [*self._chunks[start // CHUNK : end // CHUNK]]
        if rest := end % CHUNK:
            hashes.append(self._chunks[-1] if end == self.size else root(self._leaves(end - rest, end)))
        return root(hashes)
