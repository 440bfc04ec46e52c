"""A file that is in memory, as a stream."""

from __future__ import annotations

import io
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Raw: TypeAlias = bytearray | memoryview


class LentFile(io.RawIOBase):
    """Buffers of bytes, one after the other."""

    def __init__(self, buffers: Sequence[memoryview]) -> None:
        self._buffers = [buffer.cast("B") for buffer in buffers if buffer.nbytes]
        self._starts = [*accumulate(map(len, self._buffers), initial=0)]
        self._at = 0
        self.size = self._starts[-1]
        """In bytes."""

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """As in ``io.IOBase``."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """As in ``io.IOBase``."""
        return self._at

    def readinto(self, target: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill ``target`` as far as there is anything."""
        view = memoryview(target)
        while len(view) and len(rest := self._rest()):
            count = min(len(view), len(rest))
            view[:count] = rest[:count]
            view = view[count:]
            self._at += count
        return len(target) - len(view)

    def take(self, size: int) -> Raw:
        """The next ``size`` bytes, which must be there: where they lie in one buffer they are not copied."""
        rest = self._rest()
        if len(rest) >= size:
            self._at += size
            return rest[:size]
        raw = bytearray(size)
        self.readinto(raw)
        return raw

    def _rest(self) -> memoryview:
        """What is left of the buffer that comes next."""
        number = bisect_right(self._starts, self._at) - 1
        if number == len(self._buffers):
            return memoryview(b"")
        return self._buffers[number][self._at - self._starts[number] :]
