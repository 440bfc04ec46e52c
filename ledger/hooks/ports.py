"""The protocols that a plugin implements. Small on purpose: the whole surface needed, and no more.

Conformance kits for them ship in ``ledger.testing``; an implementer's test file is a few empty subclasses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ledger.codec import Recorded
    from ledger.errors import LedgerError
    from ledger.events import DataCommit, Stored, World
    from ledger.files import Lent
    from ledger.hooks.pages import Adaptation, Page


@dataclass(frozen=True)
class Availability:
    """Whether pinned data can still be had, and if not, why, naming the files concerned."""

    available: bool
    reason: str = ""

    @classmethod
    def lacking(cls, error: LedgerError) -> Availability:
        """That it cannot be had, because of ``error``."""
        return cls(False, f"{error}: {error.mend}" if error.mend else str(error))


@runtime_checkable
class DataSource(Protocol):
    """Data that can be pinned to an immutable state and fetched again.

    Called by the process that starts or replays a run, never by a training rank, except ``open``:
    ``pin`` once when a run starts; ``check`` when a replay is planned; ``fetch`` when it is executed; ``open``
    by whoever reads the data in place. Any failure propagates: nothing is ever trained on unknown data.
    """

    name: str
    """The plugin's name; a replay asks the same plugin again."""
    version: str

    def pin(self, uri: str) -> DataCommit:
        """Resolve ``uri`` to an immutable commit with the digest of the full content.

        Raises ``DataUnavailable`` where the data cannot be read, ``UsageError`` for a malformed URI.
        """

    def fetch(self, commit: DataCommit, dest: Path) -> None:
        """Materialise the commit at ``dest``, which must not exist: a file for a single file, else a directory.

        Verifies the digest before ``dest`` appears under its name. Raises ``DataUnavailable`` where the content is
        gone or has changed, naming what changed.
        """

    def open(self, commit: DataCommit) -> tuple[Any, str]:
        """An fsspec filesystem and the path in it under which the commit can be read in place."""

    def check(self, commit: DataCommit) -> Availability:
        """Whether ``fetch`` would succeed, without moving the data."""


@runtime_checkable
class Committing(Protocol):
    """A source over data that can be changed without being committed. Optional."""

    def commit(self, uri: str, message: str) -> None:
        """Commit what is uncommitted at ``uri``, for the ``pin`` that follows; where there is nothing, do nothing."""


@dataclass(frozen=True)
class Garbage:
    """Something in a store that nothing refers to."""

    path: str
    """Relative to the store."""
    bytes: int
    reason: str


@runtime_checkable
class CheckpointStore(Protocol):
    """A place for checkpoints. Called by rank 0 only, in this order: ``write`` … ``list`` … ``read`` … ``delete``.

    All operations verify by digest and are idempotent. A checkpoint is visible either whole or not at all.
    """

    def write(self, directory: Path, key: str, base: Stored | None = None) -> Stored:
        """Store all files of ``directory`` under ``key``, durably, and read them back before returning.

        ``key`` is relative, its segments plain names. Writing the same content again returns the same ``Stored``;
        other content under a key that is taken raises ``Conflict``. Where a ``base`` is given, content may be stored
        as the difference to that checkpoint of the same store, which must then be kept: ``bases`` names it.
        """

    def read(self, stored: Stored, dest: Path) -> None:
        """Copy the checkpoint to the new directory ``dest``.

        Raises ``CheckpointUnavailable`` where it is gone, ``DigestMismatch`` naming the file that is not what was
        stored; ``dest`` then does not exist.
        """

    def list(self, prefix: str) -> Iterator[Stored]:
        """The whole checkpoints below ``prefix``, by key."""

    def delete(self, stored: Stored) -> None:
        """Remove the checkpoint, and of its content what no other checkpoint needs; one that is gone is fine."""

    def sweep(self, *, dry: bool) -> Iterator[Garbage]:
        """What no checkpoint needs: unfinished writes and content left over; removed unless ``dry``.

        Nothing that a writer at work may still refer to is touched, whatever process or host it runs in.
        """


@runtime_checkable
class Borrowing(Protocol):
    """A store that can read files out of memory. Optional: for any other they are written to the directory first."""

    def write_lent(self, directory: Path, lent: Lent, key: str, base: Stored | None = None) -> Stored:
        """``write`` of a directory that has the ``lent`` files as well, which are in memory.

        Nobody changes them before this returns, and it keeps none of them.
        """


@runtime_checkable
class Probing(Protocol):
    """A store that can try itself before anything depends on it. Optional."""

    def check(self) -> None:
        """Raise ``Unavailable``, with the mend, where a checkpoint could not be stored now."""


@runtime_checkable
class Engine(Protocol):
    """How one step of training is carried out over the processes of a world. Every rank makes every call."""

    def step(self, batch: Any) -> dict[str, float]:
        """Forward, backward and update on this rank's share of a global batch; metrics of the global batch."""

    def evaluate(self, batch: Any) -> dict[str, float]:
        """Metrics of the global batch, without gradients and without moving any random state."""

    def save(self, directory: Path) -> Callable[[], None]:
        """Take the state of model, optimizer and schedule as it is now; what is returned writes it.

        A collective. Each rank calls what it got once, from any thread and while training goes on: it writes this
        rank's files into ``directory``, which all ranks see, and makes no collective call. Until it has returned
        ``save`` is not called again, so that buffers can be reused. An engine that can only write at once does so
        and returns a function that does nothing.
        """

    def load(self, directory: Path) -> None:
        """Restore what ``save`` wrote, bit for bit; a collective."""

    def close(self) -> None:
        """Leave the process group; calling it twice is fine."""


@runtime_checkable
class Mirror(Protocol):
    """Another tracker that is kept up to date from the log, by a process of its own, never by the one that trains.

    Making one connects to nothing and imports no client. For each run: ``deliver`` … ``deliver``, batches of that
    one run's events in the order of the log; ``shows`` when somebody asks whether the tracker equals the log;
    ``close`` at the end. One process at a time delivers a run; a process that died is followed by another with a new
    mirror, which may be given again what the last one was given since the cursor was last moved.
    """

    name: str
    """What ``ledger mirror --to`` calls it."""
    target: str
    """Where it delivers to, without credentials: another target is caught up from the beginning."""

    def deliver(self, batch: Sequence[Recorded]) -> None:
        """Bring events to the tracker; when it returns, the tracker has them for good.

        Events that arrived before, whole or in part, change nothing that the tracker shows. What the tracker refuses
        for good is adapted, never left out in silence. An exception means that none of the batch counts as
        delivered: it will come again. Raises ``Unavailable`` where the tracker cannot be had now, ``Conflict`` where
        it has another run under this run's name.
        """

    def adapt(self, page: Page) -> tuple[Page, Sequence[Adaptation]]:
        """What the tracker is to show for a page, and what was adapted to its limits, by documented rules.

        Pure, and the same for a whole page as for its parts: what two pages come to, added, is what their sum comes to.
        """

    def shows(self, run_id: str) -> Page | None:
        """What the tracker shows of the run with this UUID, read back from it; None where it has no such run."""

    def close(self) -> None:
        """Flush and let go."""


@runtime_checkable
class Noting(Protocol):
    """A mirror of a tracker that may make it adapt what no page tells beforehand: what it refuses. Optional."""

    def noted(self, run_id: str) -> Sequence[Adaptation]:
        """What was adapted so while it was delivered, read back from the tracker; nothing of a run it does not have."""


@dataclass(frozen=True)
class RecipeKey:
    """One key of a recipe, for ``ledger train --help``."""

    key: str
    type: str
    default: str
    help: str


@dataclass(frozen=True)
class Recipe:
    """A recipe, resolved: everything that a run of it needs."""

    config: Mapping[str, Any]
    """The whole configuration as it is recorded; the training processes read it back from the log."""
    command: tuple[str, ...]
    """What each training process executes, before a launcher wraps it."""
    world: World
    data: Mapping[str, str]
    """URI of each data set by name."""
    seed: int | None
    steps: int
    """How many steps the training makes, for progress."""


@runtime_checkable
class Trainer(Protocol):
    """A trainer that ``ledger train`` can run from a recipe. Called in the process of the command line."""

    def describe(self) -> Sequence[RecipeKey]:
        """Every key that a recipe may have."""

    def resolve(self, path: Path, overrides: Sequence[str]) -> Recipe:
        """Read and validate a recipe with ``key=value`` overrides applied; raises ``InvalidRecipe``."""

    def resize(self, config: Mapping[str, Any], processes: int) -> Recipe:
        """The recipe of a recorded configuration for another number of processes, in all else the same.

        Raises ``InvalidRecipe`` where it cannot be shared out among so many.
        """

    def samples(self, config: Mapping[str, Any], data: Mapping[str, Path], step: int) -> list[list[int]]:
        """Identifiers of the training samples that each rank read for ``step``, from the data fetched to ``data``."""

    def readings(self, config: Mapping[str, Any], data: Mapping[str, Path], sample: int) -> list[tuple[int, int]]:
        """The contrary of ``samples``: each step of the whole training that reads the sample, and the rank, in order.

        Ranks that share their samples are all named. Empty for what is no training sample.
        """


@dataclass(frozen=True)
class Launch:
    """A command about to be started: by the recorder for an original, by the executor for a replay."""

    command: tuple[str, ...]
    directory: Path
    environ: Mapping[str, str]
    without: tuple[str, ...] = ()
    """Variables of this process that the command must not see: a replay's original did not have them."""
