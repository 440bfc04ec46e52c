"""How a run stands, as lists show it, and what else is kept of it beside the log."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ledger.store.base import run_id

Status = Literal["running", "completed", "failed", "interrupted"]
Value = float | str
"""A value of a configuration: a number, or the text of anything else."""


@dataclass(slots=True)
class RunSummary:
    """How a run stands: one line of `ledger ls`."""

    stream: str
    opened: int
    """Global position of its first event: the order in which runs started."""
    name: str
    kind: str
    started_at: str
    host: str
    """Of the latest attempt, as are ``pid`` and ``process_started``."""
    pid: int
    process_started: str
    status: Status = "running"
    ended_at: str | None = None
    ended_step: float | None = None
    """The step that its end names."""
    reached: float | None = None
    """The highest step with a value that no later attempt took back."""
    attempts: int = 1
    project: str | None = None
    user: str | None = None
    replay_of: str | None = None
    """UUID of the original."""
    segment: tuple[float | None, float | None] | None = None
    """Of a replay of a part, as ``RunStarted`` has it."""
    verdict: str | None = None
    """Of the latest replay."""
    tags: tuple[str, ...] = ()
    headline: str | None = None
    """The metric to show where only one fits."""
    rank: int | None = None
    """Whose metrics count: the lowest rank that logged any, -1 for a process without a rank; None before that."""
    resumed: dict[int, float | None] = field(default_factory=dict)
    """The step that each attempt after the first resumed from; None means from the start."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Last values; only where the list was asked for them, else at most that of ``headline``."""
    original: str | None = None
    """Name of the run that it replays."""
    asked: tuple[Value | None, ...] = ()
    """Values of what the list was filtered and sorted by."""

    @property
    def id(self) -> str:
        """The run's UUID."""
        return run_id(self.stream)

    @property
    def step(self) -> float | None:
        """The step that it ended at, or has reached."""
        return self.reached if self.ended_step is None else self.ended_step

    def limit(self, attempt: int) -> float:
        """The last step of an attempt that counts: the lowest that any later attempt resumed from."""
        later = (-math.inf if step is None else step for number, step in self.resumed.items() if number > attempt)
        return min(later, default=math.inf)


class KeptCheckpoint(NamedTuple):
    """A checkpoint that a run wrote, found by the digest of the whole or of a file."""

    position: int
    """Global position of the fact, which holds the rest."""
    uri: str
    digest: str
    deleted: bool
    files: tuple[tuple[str, str], ...]
    """Path and digest of each file."""


class CommittedData(NamedTuple):
    """Data that a run read."""

    name: str
    uri: str
    commit: str
    digest: str
