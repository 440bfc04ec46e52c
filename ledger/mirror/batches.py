"""Events in batches that a tracker can take at once. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.events import MetricsLogged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ledger.codec import Recorded

MOST_EVENTS: Final = 500
MOST_POINTS: Final = 10_000
"""One event may have more by itself."""


def batches(events: Iterable[Recorded | None]) -> Iterator[list[Recorded]]:
    """The events in their order, as many together as may be; None means that there are no more for now."""
    batch: list[Recorded] = []
    points = 0
    for each in events:
        more = 0 if each is None else _points(each)
        if batch and (each is None or len(batch) == MOST_EVENTS or points + more > MOST_POINTS):
            yield batch
            batch, points = [], 0
        if each is not None:
            batch.append(each)
            points += more
    if batch:
        yield batch


def _points(recorded: Recorded) -> int:
    """How many points an event has at most."""
    event = recorded.event
    return len(event.step) * len(event.values) if isinstance(event, MetricsLogged) else 0
