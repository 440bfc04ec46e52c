"""The end of a file of lines, read from behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import BinaryIO

_CHUNK: Final = 1 << 16


def whole_end(file: BinaryIO) -> tuple[int, bytes]:
    """Where the last whole line ends, and that line without its end; ``(0, b"")`` where there is none."""
    size = file.seek(0, os.SEEK_END)
    chunk = _CHUNK
    while True:
        start = max(0, size - chunk)
        file.seek(start)
        whole, newline, _ = file.read(size - start).rpartition(b"\n")
        if start == 0 or b"\n" in whole:
            return (start + len(whole) + 1, whole.rpartition(b"\n")[2]) if newline else (0, b"")
        chunk *= 2
