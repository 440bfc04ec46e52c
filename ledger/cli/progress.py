"""The progress of a training on the terminal, drawn from the facts as they are committed.

Only the parent process draws; what the training prints scrolls by above the bar. Where standard error is no
terminal nothing is drawn, and what the training prints passes through untouched.
"""

from __future__ import annotations

import io
import sys
import threading
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, Final, Self

from ledger.cli import render
from ledger.events import MetricsLogged

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.progress import Progress, TaskID

    from ledger.codec import Recorded

_WINDOW: Final = 32
"""Facts over which the pace is measured."""
_LONGEST_LINE: Final = 1 << 16


class Pace:
    """Where a training is and how fast it goes, by the times in its own facts."""

    def __init__(self, total: float | None) -> None:
        self.total = total
        self.step: float | None = None
        self.loss: tuple[str, float] | None = None
        self._seen: list[tuple[float, float]] = []

    def see(self, recorded: Recorded) -> None:
        """Take in a fact of the run; those of other ranks than the first say nothing new."""
        event = recorded.event
        if not isinstance(event, MetricsLogged) or recorded.metadata.rank or not event.step:
            return
        newest = max(event.step)
        if self.step is not None and newest <= self.step:
            return
        self.step = newest
        self._seen = [*self._seen, (event.step[0], event.time[0]), (event.step[-1], event.time[-1])][-_WINDOW:]
        name = next((n for n in event.values if n.endswith("loss")), None)
        last = next((v for v in reversed(event.values[name]) if v is not None), None) if name else None
        if name and last is not None:
            self.loss = (name, last)

    @property
    def steps_per_second(self) -> float | None:
        """None until two facts have come."""
        if not self._seen:
            return None
        (first, begin), (last, end) = self._seen[0], self._seen[-1]
        return (last - first) / (end - begin) if last > first and end > begin else None

    @property
    def seconds_left(self) -> float | None:
        """None where the end or the pace is not known."""
        pace = self.steps_per_second
        if self.total is None or self.step is None or not pace:
            return None
        return max(0.0, self.total - self.step) / pace

    @property
    def words(self) -> list[str]:
        """``120/200 steps``, ``train/loss 2.31``, ``8.1 steps/s``, ``ETA 10.0 s``, as far as they are known."""
        if self.step is None:
            return ["starting"]
        of = f"/{render.number(self.total)}" if self.total else ""
        pace, left = self.steps_per_second, self.seconds_left
        parts = [f"{render.number(self.step)}{of} steps"]
        parts += [f"{self.loss[0]} {self.loss[1]:.4g}"] if self.loss else []
        parts += [f"{pace:.3g} steps/s"] if pace else []
        parts += [f"ETA {render.duration(left)}"] if left else []
        return parts


class Bar:
    """Shows the pace of one run; a context manager around the call that carries the run out.

    With ``talk`` all that the command prints goes to standard error: standard output is for something else.
    """

    def __init__(self, total: float | None = None, *, talk: bool = False) -> None:
        self._pace = Pace(total)
        self._talk = talk
        self._name = ""
        self._note = ""
        self._stack = ExitStack()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def start(self, name: str) -> None:
        """The run has its name."""
        self._name = name
        self._draw()

    def watch(self, recorded: Recorded) -> bool:
        """Take in a fact of the run; never asks for its end."""
        if self._progress is not None:
            self._pace.see(recorded)
            self._draw()
        return True

    def note(self, text: str) -> None:
        """Something to say beside the pace."""
        self._note = text
        self._draw()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._progress = self._stack.enter_context(_new_progress())
            self._task = self._progress.add_task("", total=self._pace.total, words="starting")
            above = _Above(self._progress.console.print)
            self._stack.callback(above.flush_rest)
            # What records the command looks for the bytes below these streams and writes there.
            self._stack.enter_context(redirect_stderr(_text(above)))
            if sys.stdout.isatty():
                self._stack.enter_context(redirect_stdout(_text(above)))
        if self._talk:
            self._stack.enter_context(redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._progress = None

    def _draw(self) -> None:
        if self._progress is None or self._task is None:
            return
        step, *rest = self._pace.words
        words = render.DOT.join(part for part in (step, self._note, *rest) if part)
        self._progress.update(self._task, description=self._name, completed=self._pace.step or 0, words=words)


class _Above(io.RawIOBase):
    """Bytes for the terminal, brought out line by line above the bar, their colours kept."""

    def __init__(self, show: Callable[..., None]) -> None:
        self._show = show
        self._rest = b""
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, content: Any, /) -> int:
        chunk = bytes(content)
        with self._lock:
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > _LONGEST_LINE:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                self._bring_out(line)
        return len(chunk)

    def flush_rest(self) -> None:
        """Bring out a last line that has no end."""
        with self._lock:
            if self._rest:
                self._bring_out(self._rest)
            self._rest = b""

    def _bring_out(self, line: bytes) -> None:
        from rich.text import Text

        # A bar of the command's own overwrites its line with carriage returns: the last one is left.
        shown = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        self._show(Text.from_ansi(shown), soft_wrap=True, highlight=False)


def _text(above: _Above) -> io.TextIOWrapper:
    return io.TextIOWrapper(above, encoding="utf-8", errors="replace", write_through=True)  # type: ignore[arg-type]


def _new_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[words]}", markup=False),
        console=Console(file=sys.stderr),  # the stream of now: `stderr=True` would look it up, and find ours
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
    )
