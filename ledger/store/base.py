"""The append-only log: the port that every store implements.

The words are message-db's and KurrentDB's: a *stream* has gapless *positions*, the log as a whole has
*global positions*, a writer may state the *expected version* of a stream: the position of its last event, -1
for a stream that does not exist yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from ledger.codec import Draft, Recorded
    from ledger.store.cursors import Cursors
    from ledger.store.projections.checking import Difference
    from ledger.store.projections.query import Projections
    from ledger.store.scan import Scan

ANY: Final = -2
"""Append wherever the stream stands."""
NO_STREAM: Final = -1
"""Append only if the stream does not exist yet."""
LEDGER_STREAM: Final = "ledger"
"""The ledger's own stream: facts about the log as a whole."""
_RUN: Final = "run-"


@dataclass(frozen=True, slots=True)
class JournalSpan:
    """The bytes of a writer's journal that an append carries into the log."""

    journal: str
    """The journal's own id."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A writer's word that it lives, good for a while."""

    holder: str
    attempt: int
    left: float
    """Seconds until it ends, by the clock of the database; negative once it has ended."""


def run_stream(run_id: str) -> str:
    """The stream of the run with this UUID."""
    return _RUN + run_id


def run_id(stream: str) -> str:
    """The UUID of the run with this stream."""
    return stream.removeprefix(_RUN)


class EventStore(Protocol):
    """An append-only log. Any thread may call any method; other processes may hold the same log."""

    def append(
        self,
        stream: str,
        drafts: Sequence[Draft],
        *,
        expected_version: int = ANY,
        span: JournalSpan | None = None,
    ) -> list[Recorded]:
        """Append all of ``drafts``, or none; durable when it returns.

        Appends are serialised over the whole log: global positions are gapless from 1 and become visible in
        order, so a reader that tails the log misses nothing. Drafts whose ``event_id`` the stream already holds
        are returned as they are stored, and nothing is appended twice; so a writer that does not know whether an
        append arrived repeats it.

        Where all of them are stored, neither version nor attempt is looked at: the append did happen.

        With ``span`` the log's place in that journal moves from ``start`` to ``end`` in the same transaction, so
        that what a journal holds is appended exactly once, whoever carries it over and however often.

        Raises ``ConcurrentAppend`` where the stream is not at ``expected_version``, ``FencedAttempt`` where
        a new draft carries an attempt older than one that the stream has seen, ``JournalMoved`` where the log's
        place in the journal is not ``span.start``, ``Conflict`` where another stream holds an ``event_id``,
        ``StoreUnavailable`` where the log cannot be written.
        """

    def journal_position(self, journal: str) -> int:
        """How far the log has taken over this journal; 0 for one that it has not heard of.

        Raises ``IntegrityError`` where what is kept about it was changed, as does ``append`` with a span of it.
        """

    def renew_lease(self, stream: str, holder: str, attempt: int, seconds: float) -> None:
        """Say that the attempt's writer lives, and will for ``seconds`` unless it says so again.

        Raises ``FencedAttempt`` where a newer attempt holds the lease.
        """

    def lease(self, stream: str) -> Lease | None:
        """The lease of the newest attempt that ever took one; None where none did."""

    def read(
        self, stream: str, *, after: int = -1, limit: int | None = None, types: Collection[str] | None = None
    ) -> Iterator[Recorded]:
        """Events of one stream with a position above ``after``, in order; only ``types`` if given.

        A stream nobody wrote is empty.
        """

    def read_all(
        self, *, after: int = 0, limit: int | None = None, types: Collection[str] | None = None
    ) -> Iterator[Recorded]:
        """Events of all streams with a global position above ``after``, in order; only ``types`` if given."""

    def subscribe(self, *, after: int = 0, stream: str | None = None, poll: float = 0.1) -> Iterator[Recorded | None]:
        """Events above ``after`` as they are committed, for ever; None whenever it has caught up.

        ``poll`` is the longest time in seconds between two looks at the log. The caller ends it by closing
        the iterator.
        """

    def name_run(self, stream: str) -> str:
        """The name of the run with this stream: the ``run-<n>`` it has, or the next number, never reused."""

    def find_streams(self, reference: str) -> list[str]:
        """Streams of the runs that ``reference`` may mean, sorted; none where it means none.

        It is a name (``run-42``), a stream, a UUID or at least four characters that one begins with, or
        ``latest``: of the runs with events, the one that was named last.
        """

    def head(self, stream: str) -> tuple[int, str]:
        """Version of a stream and digest of its last event; ``(-1, GENESIS)`` for one that nobody wrote."""

    @property
    def projections(self) -> Projections:
        """What is kept beside the log for lists and searches, up to date with every append that has returned."""

    @property
    def cursors(self) -> Cursors:
        """How far the runs were delivered to other trackers."""

    def differences(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Difference]:
        """Rows of the projections that are not what the log, folded again, comes to; nothing is changed.

        Appends go on meanwhile. ``progress`` is told now and then how many events of how many are done.
        """

    def rebuild(self, progress: Callable[[int, int], None] | None = None) -> dict[str, int]:
        """Throw the projections away and fold them again from the log, unless they are sound; appends wait.

        Returns how many rows of each table were wrong. ``progress`` is told now and then how many events of how many
        are done, of the search for them first.
        """

    def scan(self) -> Scan:
        """The log row by row as it is stored, for whoever checks it and believes nothing."""

    def close(self) -> None:
        """Let go of files and connections; calling it twice is fine."""
