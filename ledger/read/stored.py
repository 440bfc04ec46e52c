"""A run out of the log: its facts at once, its metrics when somebody asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.codec import METRICS
from ledger.read.curves import Figures
from ledger.read.state import FACTS, fold
from ledger.store.base import run_id
from ledger.store.projections.query import FIELDS, Comparison, RunQuery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.codec import Recorded
    from ledger.read.state import RunState
    from ledger.store.base import EventStore


def read_run(store: EventStore, stream: str) -> RunState:
    """The state of the run with this stream. Its series are read from ``store`` when they are asked for."""
    # Looked up first: what is appended while the facts are read may be folded, but is not claimed to be.
    version, _ = store.head(stream)
    state = fold(store.read(stream, types=FACTS), _Stored(store, stream))
    state.version = max(state.version, version)
    return state


@dataclass(frozen=True)
class _Stored:
    """The metrics of one run, in the log and in its projections. See ``Curves``."""

    store: EventStore
    stream: str

    def add(self, recorded: Recorded) -> None:
        """It is in the log: nothing is to be kept."""

    def batches(self) -> Iterator[Recorded]:
        """See ``Curves.batches``."""
        return self.store.read(self.stream, types=(METRICS,))

    def figures(self) -> Figures:
        """See ``Curves.figures``."""
        this = Comparison(FIELDS["id"], "=", run_id(self.stream))
        (summary,) = self.store.projections.runs(RunQuery(where=this))
        return Figures(self.store.projections.metrics([self.stream])[self.stream], summary.reached)
