"""Streams for tests, without a store: facts in, recorded events out, as a store would have numbered them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.codec import GENESIS, Codec, Metadata, Recorded, chain_digest, metadata_json
from ledger.events import MetricsLogged, Process, RunStarted, TrainingResumed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ledger.events import Event

PROCESS = Process(host="testhost", pid=4242, started="1")


def run_started(**changes: Any) -> RunStarted:
    """A run's first fact, with whatever a test wants otherwise."""
    facts: dict[str, Any] = {
        "name": "run-1",
        "kind": "command",
        "invocation": ("ledger", "run", "--", "python", "train.py"),
        "command": ("python", "train.py"),
        "directory": "/work",
        "seed": 7,
        "process": PROCESS,
    }
    return RunStarted(**(facts | changes))


def resumed(attempt: int, step: float | None) -> TrainingResumed:
    """A new attempt that went on from the checkpoint of ``step``."""
    return TrainingResumed(attempt=attempt, step=step, checkpoint=None, uri=None, process=PROCESS)


def logged(points: Mapping[float, Mapping[str, float]]) -> MetricsLogged:
    """Metrics by step."""
    names = dict.fromkeys(name for values in points.values() for name in values)
    return MetricsLogged(
        step=tuple(points),
        time=tuple(1e9 + step for step in points),
        values={name: tuple(values.get(name) for values in points.values()) for name in names},
    )


def stream(
    facts: Iterable[Event | tuple[int, Event]], *, run_id: str = "0190aaaa", codec: Codec | None = None
) -> list[Recorded]:
    """One run's stream; a fact that one of several ranks wrote comes with that rank before it.

    The attempt of each event is that of the last ``training.resumed`` before it.
    """
    codec = codec or Codec()
    recorded: list[Recorded] = []
    attempt, previous = 1, GENESIS
    for position, written in enumerate(facts):
        rank, fact = written if isinstance(written, tuple) else (None, written)
        if isinstance(fact, TrainingResumed):
            attempt = fact.attempt
        draft = codec.draft(
            fact, Metadata("test", "testhost", 4242, "0", rank=rank, attempt=attempt), event_id=f"event-{position}"
        )
        row: dict[str, Any] = {
            "stream": f"run-{run_id}",
            "position": position,
            "event_id": draft.event_id,
            "type": draft.type,
            "schema_version": draft.schema_version,
            "payload": draft.payload,
            "recorded_at": f"2026-01-01T00:00:{position % 60:02}.000000Z",
        }
        digest = chain_digest(previous, metadata=metadata_json(draft.metadata), **row)
        recorded.append(
            Recorded(
                global_position=position + 1,
                metadata=draft.metadata,
                previous_digest=previous,
                digest=digest,
                codec=codec,
                **row,
            )
        )
        previous = digest
    return recorded
