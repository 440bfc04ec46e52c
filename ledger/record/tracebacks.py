"""The Python traceback in a console that tells why a command failed. Pure text, no guess at what it means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_RANK: Final = re.compile(r"\[((?:rank|default)\d+)\]: ?")
"""What torch puts before each line of a rank's traceback, and torchrun before each line of a worker."""
_START: Final = "Traceback (most recent call last):"
_GROUP_START: Final = "Exception Group Traceback (most recent call last):"
_SYNTAX: Final = re.compile(r'  File ".*", line \d+$')
_CHAINED: Final = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
_EXCEPTION: Final = re.compile(r"[A-Za-z_][\w.]*(?::|$)")
_WRAPPERS: Final = re.compile(
    r"(?:torch\.distributed\.elastic\.[\w.]*(?:ChildFailedError|SignalException)|"
    r"(?:subprocess\.)?CalledProcessError|torch\.multiprocessing\.spawn\.Process\w+Exception)\b"
)
"""These tell that another process failed, whose own traceback says why."""
_CONSEQUENCES: Final = re.compile(
    r"DistBackendError|DistNetworkError|DistStoreError|Connection (?:closed|reset) by (?:peer|remote)|"
    r"ConnectionResetError|BrokenPipeError|SIGTERM|KeyboardInterrupt|Gloo|NCCL",
    re.IGNORECASE,
)
"""What the other ranks say when one has gone."""


@dataclass(frozen=True)
class _Traceback:
    rank: str | None
    line: int
    text: str

    @property
    def exception(self) -> str:
        """Its last line that is not indented: the exception and its message."""
        return next((line for line in reversed(self.text.splitlines()) if line[:1].strip()), "")


def root_cause(console: str) -> str | None:
    """The traceback that tells why a failed command failed, chained exceptions included; None without any.

    Where one process printed several, that is the last: earlier ones were survived. Where several processes
    did (torchrun), it is the first that is not the consequence of another's end, and never the launcher's
    own.
    """
    found = sorted(_tracebacks(console), key=lambda t: t.line)
    own = [t for t in found if not _WRAPPERS.search(t.exception)]
    if not own:
        return found[-1].text if found else None
    if len(own) == len(found) and len({t.rank for t in own}) == 1:
        return own[-1].text
    return next((t for t in own if not _CONSEQUENCES.search(t.exception)), own[0]).text


def last_line(console: str) -> str | None:
    """The last line with anything on it."""
    lines = (_ANSI.sub("", line).strip() for line in reversed(re.split(r"[\r\n]+", console)))
    return next((line for line in lines if line), None)


def _tracebacks(console: str) -> list[_Traceback]:
    by_rank: dict[str | None, list[tuple[int, str]]] = {}
    for number, line in enumerate(_ANSI.sub("", console).splitlines()):
        mark = _RANK.match(line)
        by_rank.setdefault(mark[1] if mark else None, []).append((number, line[mark.end() :] if mark else line))
    return [found for rank, lines in by_rank.items() for found in _of_one(rank, lines)]


def _of_one(rank: str | None, lines: list[tuple[int, str]]) -> list[_Traceback]:
    """Complete tracebacks in the lines of one process."""
    found: list[_Traceback] = []
    at = 0
    while at < len(lines):
        end = _end(lines, at) if _begins(lines[at][1]) else None
        if end is None:
            at += 1
            continue
        first = at
        while (after := _chained(lines, end)) is not None:
            end = after
        found.append(_Traceback(rank, lines[first][0], "\n".join(line for _, line in lines[first:end])))
        at = end
    return found


def _begins(line: str) -> bool:
    return line.startswith(_START) or line.lstrip(" +|").startswith(_GROUP_START) or bool(_SYNTAX.match(line))


def _end(lines: list[tuple[int, str]], start: int) -> int | None:
    """Where the traceback that begins at ``start`` is over; None if it breaks off."""
    at = start + 1
    if lines[start][1].lstrip(" +|").startswith(_GROUP_START):
        while at < len(lines) and lines[at][1].startswith("  "):
            at += 1
        return at
    while at < len(lines) and lines[at][1].startswith(" "):
        at += 1
    if at == len(lines) or not _EXCEPTION.match(lines[at][1]):
        return None
    at += 1
    # Some messages have further lines (pydantic); indented ones are taken for that.
    while at < len(lines) and lines[at][1].startswith("  ") and not _begins(lines[at][1]):
        at += 1
    return at


def _chained(lines: list[tuple[int, str]], end: int) -> int | None:
    """Where the traceback that is chained to the one before ``end`` is over; None if none is."""
    at = end
    while at < len(lines) and (not lines[at][1].strip() or lines[at][1].strip() in _CHAINED):
        at += 1
    passed = any(line.strip() in _CHAINED for _, line in lines[end:at])
    return _end(lines, at) if passed and at < len(lines) and _begins(lines[at][1]) else None
