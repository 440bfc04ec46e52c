"""How things look: the only place that formats. Data goes to standard output, talk to standard error.

On a terminal there is colour (unless NO_COLOR is set) and the width is respected; piped, columns are plain,
aligned and as wide as what they hold, so that no name or digest is ever cut.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DOT: Final = " · "
NOTHING: Final = "-"
_GAP: Final = "  "
_TYPE_WIDTH: Final = len("parameters.fingerprinted")
_STYLES: Final = {
    "completed": "green",
    "identical": "green",
    "ok": "green",
    "within-tolerance": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "warn": "yellow",
    "not installed": "yellow",
    "failed": "red",
    "fail": "red",
    "diverged": "red",
    "broken": "red",
    "not-replayable": "red",
}
"""Colour of words that say how something stands; the word itself says it too."""
_SIMPLE: Final = ("dumb", "unknown")
"""Terminals without styles."""


@dataclass(frozen=True)
class Column:
    """A column of a table. One that is ``whole`` is never wrapped."""

    title: str
    whole: bool = True
    right: bool = False


# --- data: standard output -----------------------------------------------------------------------------


def json_line(value: Any) -> None:
    """One JSON object on one line."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, allow_nan=False))


def exactly(content: bytes) -> None:
    """Bytes that somebody else checks, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: NaN and infinities as strings, tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def line(text: str) -> None:
    """One line of text, words about states in colour."""
    click.echo(_word(clean(text)))


def title(name: str, state: str) -> None:
    """What a page is about, and how that stands."""
    click.echo(_painted(clean(name), bold=True) + _GAP + _word(state))


def event_line(position: int, recorded_at: str, kind: str, gist: str) -> None:
    """One event of a log: cut to the width of a terminal, whole where it is piped."""
    when = moment(recorded_at)
    room = _room()
    if room is not None and when[:10] == f"{datetime.now().astimezone():%Y-%m-%d}":
        when = when[11:]
    start = f"{position:>5}{_GAP}{when}{_GAP}{kind:<{_TYPE_WIDTH}}{_GAP}"
    shown = (start + clean(gist).replace("\n", " ")).rstrip()
    if room is not None:
        shown = layout.cut(shown, room)
    click.echo(_painted(shown[: len(start)], dim=True) + shown[len(start) :])


def heading(text: str) -> None:
    """Title of what follows, a blank line before it."""
    click.echo("\n" + _painted(clean(text), bold=True))


def fields(pairs: Iterable[tuple[str, str | Sequence[str]]]) -> None:
    """Labels and values, aligned; a value of several lines stands below itself, an empty one is left out."""
    rows = [(label, [value] if isinstance(value, str) else list(value)) for label, value in pairs]
    shown = [(clean(label).replace("\n", " "), value) for label, value in rows if any(value)]
    width = max((len(label) for label, _ in shown), default=0)
    for label, values in shown:
        for number, value in enumerate(values):
            _field(label if number == 0 else "", value, width)


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, indent: int = 0) -> None:
    """A table with one line of titles; columns that are empty in every row are left out."""
    cells = [[clean(cell) for cell in row] for row in rows]
    used = [i for i in range(len(columns)) if any(row[i] for row in cells)]
    if not used:
        return
    columns = [columns[i] for i in used]
    lines = [[column.title for column in columns], *([row[i] or NOTHING for i in used] for row in cells)]
    widths = [layout.breadth(texts) for texts in zip(*lines, strict=True)]
    room = _room()
    if room is not None:
        gaps = indent + len(_GAP) * (len(columns) - 1)
        widths = layout.fitted(widths, [not column.whole for column in columns], room - gaps)
    texts = zip(*layout.wrapped(lines, widths), strict=True)
    shown = map(_column, columns, texts, widths)
    start = " " * indent
    titles, *others = ((start + _GAP.join(line)).rstrip() for line in zip(*shown, strict=True))
    click.echo("\n".join((_painted(titles, dim=True), *others)))


# --- talk: standard error ------------------------------------------------------------------------------


def talk(text: str) -> None:
    """One line for the person at the terminal, never part of the data."""
    click.echo(clean(text), err=True)


# --- words for values ----------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Up to six significant digits; whole numbers as such."""
    if value is None:
        return ""
    whole = isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15)
    return str(int(value)) if whole else f"{value:.6g}"


def steps(segment: tuple[float | None, float | None] | None) -> str:
    """``steps 501 to 1000``: the steps of a part; empty for a whole run."""
    if segment is None:
        return ""
    after, until = segment
    if after is None:
        return f"up to step {number(until)}"
    to = f" to {number(until)}" if until is not None else " to the end"
    first = after + 1 if after == int(after) else None
    return f"steps {number(first)}{to}" if first is not None else f"after step {number(after)}{to}"


def joined(*parts: str) -> str:
    """What there is of ``parts``, by commas."""
    return ", ".join(part for part in parts if part)


def exact(value: Any) -> str:
    """A value of a configuration as it would be written there."""
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """``1 file``, ``12 files``."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def size(amount: int) -> str:
    """Bytes in powers of ten: ``512 B``, ``1.2 MB``."""
    if amount < 1000:
        return f"{amount} B"
    value, units = float(amount), iter(("kB", "MB", "GB", "TB", "PB"))
    unit = ""
    while value >= 999.5 and (unit := next(units, "")):
        value /= 1000
    return f"{value:.3g} {unit}" if unit else f"{amount} B"


def short(digest: str | None) -> str:
    """A digest: its beginning on a terminal, all of it where a program may read along."""
    return (digest[:12] if _on_terminal() else digest) if digest else ""


def duration(seconds: float) -> str:
    """``12.3 s``, ``4 min 05 s``, ``2 h 07 min``, ``3 d 4 h``."""
    if seconds < 59.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def ago(recorded_at: str, now: float | None = None) -> str:
    """A time of the log as people say it: ``just now``, ``3 min ago``, ``yesterday`` …, else the date."""
    seconds = (time.time() if now is None else now) - unix(recorded_at)
    if seconds < 10:
        return "just now"
    for limit, unit, name in (
        (60, 1, "s"),
        (3600, 60, "min"),
        (86_400, 3600, "h"),
        (7 * 86_400, 86_400, "d"),
    ):
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
    return moment(recorded_at)[:10]


def moment(recorded_at: str) -> str:
    """A time of the log in the reader's own zone, to the second."""
    return datetime.fromtimestamp(unix(recorded_at)).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def between(begin: str, end: str | None) -> float:
    """Seconds between two times of the log; until now without an ``end``."""
    return (unix(end) if end else time.time()) - unix(begin)


def unix(recorded_at: str) -> float:
    """A time of the log in Unix seconds."""
    moment = datetime.fromisoformat(recorded_at)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def first_line(text: str) -> str:
    """The first line of a text, for where only one fits."""
    return text.strip().partition("\n")[0]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def key_metric(metrics: Mapping[str, float]) -> str:
    """The metric to show where one fits: a loss, rather of validation than of training, else the first."""
    losses = sorted((name for name in metrics if name.lower().endswith("loss")), key=lambda n: "train" in n.lower())
    name = next(iter(losses or metrics), None)
    return "" if name is None else f"{name} {metrics[name]:.4g}"


def clean(text: str) -> str:
    """``text`` without what would steer the terminal: facts may come from anywhere."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


# --- on a terminal, or not -----------------------------------------------------------------------------


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _room() -> int | None:
    """Cells in a line of the terminal; None where there is none, and lines are as long as they come."""
    return shutil.get_terminal_size().columns if _on_terminal() else None


def _painted(text: str, *, colour: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """``text`` in a style, where there is a terminal that can show it and a user who wants it."""
    if os.environ.get("NO_COLOR"):
        colour = None
    plainly = not (colour or bold or dim) or os.environ.get("TERM") in _SIMPLE or not _on_terminal()
    return text if plainly else click.style(text, fg=colour, bold=bold or None, dim=dim or None)


def _word(text: str) -> str:
    """``text``, in colour if it says how something stands."""
    return _painted(text, colour=_STYLES[text]) if text in _STYLES else text


def _field(label: str, value: str, width: int) -> None:
    start = f"{_GAP}{label:<{width}}{_GAP}"
    room = _room()
    first, *more = layout.folded(clean(value), max(room - len(start), 1)) if room is not None else [clean(value)]
    click.echo((_painted(start, dim=True) + _word(first)).rstrip())
    for line in more:
        click.echo(" " * len(start) + line)


def _column(column: Column, texts: Sequence[str], width: int) -> list[str]:
    """Cells of one column, all as wide, words about states in colour. As a whole: a list may have 10,000 rows."""
    padded = layout.aligned(texts, width, right=column.right)
    words = {word: layout.aligned([word], width, right=column.right)[0] for word in _STYLES.keys() & set(texts)}
    coloured = {padded: padded.replace(word, _word(word)) for word, padded in words.items()}
    return [coloured.get(cell, cell) for cell in padded] if coloured else padded
