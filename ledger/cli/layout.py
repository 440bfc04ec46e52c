"""Text in columns, as wide as a terminal has room: how wide text is, and how it is folded or cut. Pure.

Rich could do it, at half a millisecond a row; a list may have ten thousand.
"""

from __future__ import annotations

import textwrap
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NARROWEST: Final = 8
"""No column is folded to less; if all are that narrow, the terminal is too small for the table."""


def width(text: str) -> int:
    """Cells that ``text`` takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # a Chinese character takes two

    return cell_len(text)


def breadth(texts: Sequence[str]) -> int:
    """Cells that the widest of some texts takes."""
    return max(map(len if "".join(texts).isascii() else width, texts))


def aligned(texts: Sequence[str], room: int, *, right: bool = False) -> list[str]:
    """The texts, with spaces up to ``room`` cells."""
    if "".join(texts).isascii():
        return [text.rjust(room) for text in texts] if right else [text.ljust(room) for text in texts]
    spaces = [" " * (room - width(text)) for text in texts]
    return [space + text if right else text + space for text, space in zip(texts, spaces, strict=True)]


def wrapped(lines: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[Sequence[str]]:
    """The lines of a table; one with a cell that is wider than its column goes on below itself."""
    tight = [
        i
        for i, texts in enumerate(zip(*lines, strict=True))
        if breadth(texts) > widths[i] or any("\n" in text for text in texts)
    ]
    for line in lines:
        if any(width(line[i]) > widths[i] or "\n" in line[i] for i in tight):
            yield from zip_longest(*map(folded, line, widths), fillvalue="")
        else:
            yield line


def folded(text: str, room: int) -> list[str]:
    """``text`` in lines of at most ``room`` cells, broken between words where it can be."""
    lines = []
    for line in text.split("\n"):
        if width(line) <= room:
            lines.append(line)
        elif line.isascii():
            lines += textwrap.wrap(line, room, break_on_hyphens=False) or [""]
        else:
            from rich.cells import chop_cells

            lines += chop_cells(line, room)
    return lines


def cut(text: str, room: int) -> str:
    """``text``, or as much of it as ``room`` cells hold, an ellipsis at the end."""
    if width(text) <= room:
        return text
    if text.isascii():
        return text[: room - 1] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(text, room - 1) + "…"


def fitted(widths: Sequence[int], yielding: Sequence[bool], room: int) -> list[int]:
    """Widths of columns that together fit into ``room`` cells, as far as that can be.

    First those that ``yielding`` names give way, the widest of them first, then the others, but never the first one:
    it says what a row is about.
    """
    found = list(widths)
    for turn in ([i for i, gives in enumerate(yielding) if gives], range(1, len(found))):
        while sum(found) > room and (broad := [i for i in turn if found[i] > _NARROWEST]):
            widest = max(broad, key=lambda i: found[i])
            found[widest] -= 1
    return found
