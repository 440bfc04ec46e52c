"""From a model back to all that it came from, and from data on to all that came of them. Pure.

Content ties runs together: a checkpoint or an artifact of one run that another run's data holds, file by file, is what
that run started from. Only what was written before the data were committed can have been read, a file that the writer
had only passed on from data of its own was not made by it, and empty files tell nothing.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ledger.errors import LedgerError
from ledger.events import ArtifactWritten, CheckpointWritten
from ledger.hooks.uris import scheme, without_credentials
from ledger.store.base import run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ledger.codec import Recorded
    from ledger.events import DataCommitted
    from ledger.read.state import Attempt, RunState
    from ledger.store.projections.query import WrittenCheckpoint

SHORTENED: Final = re.compile(r"[0-9a-fA-F]{8,64}")
"""A digest, or as much of one as says which is meant."""


@dataclass(frozen=True)
class Origin:
    """A checkpoint or an artifact, and the run that wrote it."""

    run_id: str
    run: str
    written: CheckpointWritten | ArtifactWritten
    position: int
    """Of the fact, in the log as a whole."""
    recorded_at: str
    file: str | None = None
    """The file of it that matched, where a single file was asked about."""

    @property
    def checkpoint(self) -> CheckpointWritten | None:
        """None for an artifact."""
        return self.written if isinstance(self.written, CheckpointWritten) else None

    @property
    def name(self) -> str:
        """``step-500``, or the path of the artifact."""
        return self.written.name if isinstance(self.written, CheckpointWritten) else self.written.path


@dataclass(frozen=True)
class Use:
    """A data set that a run read."""

    run_id: str
    run: str
    data: DataCommitted
    position: int
    """Of the fact, in the log as a whole."""
    host: str
    """That it was read on."""
    files: tuple[str, ...] = ()
    """Of the data, those that are meant, where not all of them are; ``.`` is a single file."""


@dataclass(frozen=True)
class Descent:
    """A run's data hold what another run wrote."""

    use: Use
    origin: Origin


@dataclass
class Ancestry:
    """All that is behind a run, through the runs whose models it read."""

    runs: dict[str, RunState] = field(default_factory=dict)
    """By UUID: the run itself, then the nearest."""
    descents: list[Descent] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    """What could not be looked into, and why: beyond it there may be more."""


@dataclass(frozen=True)
class Cause:
    """Why a run is affected: by the data that it read, by what another wrote, or as a replay."""

    use: Use | None = None
    origin: Origin | None = None
    """The checkpoint or artifact of an affected run that the data hold; None where they are what was asked about."""
    replay_of: str | None = None
    """Name of the affected run that it replays."""


@dataclass
class Affected:
    """A run that the data went into, and what it wrote."""

    run_id: str
    run: str
    causes: list[Cause] = field(default_factory=list)
    written: list[Origin] = field(default_factory=list)
    """Its checkpoints and artifacts in the order of the log, deleted ones too."""
    deleted: frozenset[tuple[str, str]] = frozenset()
    """URI and digest of checkpoints that are gone."""
    attempts: int = 1


@dataclass
class Impact:
    """Every run that some data went into."""

    commits: dict[str, DataCommitted] = field(default_factory=dict)
    """The states of the data that were meant, by digest."""
    runs: dict[str, Affected] = field(default_factory=dict)
    """By UUID, the nearest to the data first."""
    gaps: list[str] = field(default_factory=list)


def origin(match: WrittenCheckpoint, recorded: Recorded) -> Origin:
    """What the store found by a digest, with the fact it stands for."""
    if not isinstance(recorded.event, CheckpointWritten):
        raise LedgerError(
            f"event {match.position} is no checkpoint: the projections do not go with the log",
            mend="`ledger db rebuild` folds them again",
        )
    return product(recorded, match.run, match.file)


def product(recorded: Recorded, run: str, file: str | None = None) -> Origin:
    """What a ``checkpoint.written`` or ``artifact.written`` tells of."""
    written = recorded.event
    assert isinstance(written, CheckpointWritten | ArtifactWritten)  # noqa: S101 - asked for by type
    place, at = recorded.global_position, recorded.recorded_at
    return Origin(run_id(recorded.stream), run, written, place, at, file)


def checkpoint_named(written: Sequence[CheckpointWritten], which: str) -> CheckpointWritten | None:
    """The last of these that ``which`` means: ``best``, ``last``, a name or a step."""
    if which == "last":
        return written[-1] if written else None
    return next((c for c in reversed(written) if _means(c, which)), None)


def _means(written: CheckpointWritten, which: str) -> bool:
    if which == "best" or which == written.name:
        return written.best or which == written.name
    with suppress(ValueError):
        return written.step == float(which)
    return False


def files_of(written: CheckpointWritten | ArtifactWritten, contents: frozenset[str]) -> frozenset[str]:
    """Digests that data may hold it under, as a whole or in part; ``contents`` are those in an artifact's manifest."""
    if isinstance(written, CheckpointWritten):
        return frozenset((written.digest, *(file.digest for file in written.files if file.bytes)))
    return contents | {written.digest}


def names_data(target: str, data: DataCommitted) -> bool:
    """Whether ``target`` is the URI of the data, whatever the version, or their commit or digest, maybe shortened."""
    short = target.lower()
    return (
        target in (data.uri, data.commit)
        or _place(target) in (_place(data.uri), _versionless(data.uri))
        or (bool(SHORTENED.fullmatch(target)) and (data.commit.startswith(short) or data.digest.startswith(short)))
    )


def shown(target: str) -> str:
    """``target`` fit to be printed: of a URI, nothing that may be a password or a key."""
    return without_credentials(target) if "://" in target else target


def _place(uri: str) -> str:
    """Without options."""
    return shown(uri).rstrip("/")


def _versionless(uri: str) -> str:
    """Also without the version that it ends with, if it does; in the name of a local file an ``@`` is a letter."""
    place = _place(uri)
    return place if scheme(uri) in (None, "file") else (place.rpartition("@")[0] or place).rstrip("/")


# --- which steps -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """Steps of the effective history that one attempt made: above ``after``, up to ``until``."""

    attempt: Attempt
    after: float
    until: float


def spans(state: RunState) -> list[Span]:
    """Who made which steps of the history that counts, first steps first.

    A later attempt takes back what lies above the step that it went on from. The part that a replay left out, because
    it began at a checkpoint of its original, it did not make.
    """
    skipped = (state.started.segment or (None, None))[0] or 0.0
    until, found = reached(state), []
    for attempt in reversed(state.attempts):
        after = (attempt.resumed.step if attempt.resumed else None) or 0.0
        if after < until:
            found.append(Span(attempt, max(after, skipped), until))
        until = min(until, after)
    return [span for span in reversed(found) if span.after < span.until]


def reached(state: RunState) -> float:
    """The highest step that is known to have been made and not taken back; 0 where none is."""
    steps = [state.last_step, getattr(state.ended, "step", None)]
    steps += [written.step for written in state.effective(state.written)]
    steps += [fingerprint.step for fingerprint in state.fingerprints]
    return max((step for step in steps if step is not None), default=0.0)


# --- forward ---------------------------------------------------------------------------------------------------


def spread(
    impact: Impact,
    causes: Iterable[tuple[str, str, Cause]],
    replays: Mapping[str, Sequence[tuple[str, str]]],
    follow: Callable[[list[Affected]], Iterable[tuple[str, str, Cause]]],
) -> None:
    """Add to ``impact`` the runs that ``causes`` name (UUID, name, why), their replays, and whatever ``follow`` finds.

    ``replays`` are UUID and name of the replays of each run. ``follow`` is asked once about every run, as many at a
    time as are new; so it ends, however the runs depend on each other.
    """
    while new := _added(impact, causes, replays):
        causes = follow(new)


def _added(
    impact: Impact, causes: Iterable[tuple[str, str, Cause]], replays: Mapping[str, Sequence[tuple[str, str]]]
) -> list[Affected]:
    new: list[Affected] = []
    waiting = deque(causes)
    while waiting:
        uuid, name, cause = waiting.popleft()
        affected = impact.runs.get(uuid)
        if affected is None:
            affected = impact.runs[uuid] = Affected(uuid, name)
            new.append(affected)
            waiting += [(replay, its, Cause(replay_of=name)) for replay, its in replays.get(uuid, ())]
        affected.causes.append(cause)
    return new
