"""One of several nodes of a training: it joins the run that node 0 records, instead of recording one of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ledger.book import this_process
from ledger.errors import LedgerError, NotFound, UsageError
from ledger.record.command import Outcome, Started, carry_out_beside
from ledger.record.fetched import Fetched, place_of
from ledger.record.resume import going_on, launch_of, must_be_here, must_be_unchanged
from ledger.record.world import NODE_RANK, RDZV_ID, node_rank, rendezvous
from ledger.store.base import run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from ledger.book import Book
    from ledger.events import World
    from ledger.hooks.ports import Launch
    from ledger.read.state import RunState

PATIENCE_S: Final = 600.0
"""As long as torchrun waits for the nodes to meet."""
_POLL_S: Final = 0.5


def join_command(
    book: Book,
    world: World,
    *,
    config: Mapping[str, Any] | None = None,
    run: str | None = None,
    patience_s: float = PATIENCE_S,
    on_start: Callable[[Started], None] | None = None,
) -> Outcome:
    """Launch this node's part of the run that node 0 records in the same ledger.

    It is the one under way with the rendezvous id of ``world``, or ``run``. Waits until there is one. Raises
    ``NotFound`` where node 0 does not begin within ``patience_s`` seconds, ``UsageError`` where it trains another
    ``config`` or counts other nodes, ``LedgerError`` where this node's code is not what is on record.
    """
    state = _awaited(book, world, run, patience_s)
    _must_agree(state, world, config)
    must_be_here(state)
    must_be_unchanged(book, state)
    launch = launch_of(book, state)
    started = Started(state.id, state.name, state.attempt.number)
    if on_start:
        on_start(started)
    return carry_out_beside(book, started, _going_on(book, state, launch), world)


def _awaited(book: Book, world: World, run: str | None, patience_s: float) -> RunState:
    deadline = time.monotonic() + patience_s
    while True:
        candidates = iter([book.run(run)]) if run else _under_way(book)
        for state in candidates:
            if state.status == "running" and rendezvous(state.world) == rendezvous(world):
                return state
        if time.monotonic() > deadline:
            raise NotFound(
                f"no run with {RDZV_ID} {rendezvous(world)} is under way in this ledger after {patience_s:.0f} seconds",
                mend=f"start the same command on node 0, with {NODE_RANK} 0 and the same ledger",
            )
        time.sleep(_POLL_S)


def _under_way(book: Book) -> Iterator[RunState]:
    """The runs without an end, newest first; each is read only when it is asked for."""
    return (book.run(run_id(unended.stream)) for unended in reversed(book.store.projections.unended()))


def _must_agree(state: RunState, world: World, config: Mapping[str, Any] | None) -> None:
    if (state.world.processes, state.world.nodes) != (world.processes, world.nodes):
        raise UsageError(
            f"{state.name} has {state.world.processes} processes on {state.world.nodes} nodes, this node was told "
            f"{world.processes} on {world.nodes}",
            mend="start the same command on each node",
        )
    others = {} if config is None else _others(dict(config), state.config)
    if others:
        shown = ", ".join(f"{key} = {there!r}, here {here!r}" for key, (here, there) in sorted(others.items())[:3])
        raise UsageError(
            f"{state.name} trains another recipe than this node: {shown}",
            mend="start the same command on each node; what a node's processors decide, the recipe must name",
        )


def _others(here: Any, there: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """By dotted key the values that are not the same in both."""
    if isinstance(here, dict) and isinstance(there, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in {**here, **there}:
            found |= _others(here.get(name), there.get(name), f"{key}.{name}".lstrip("."))
        return found
    return {} if here == there else {key: (here, there)}


def _going_on(book: Book, state: RunState, launch: Launch) -> Launch:
    """From the checkpoint that node 0 went on from, if it did; each node fetches its own copy."""
    resumed = state.attempt.resumed
    if resumed is None or resumed.step is None:
        return launch
    chosen = next((one for _, one in state.written if one.uri == resumed.uri), None)
    if chosen is None:
        raise LedgerError(
            f"the checkpoint that {state.name} goes on from is not on record", mend="resume the run once more"
        )
    place = place_of(book, state.id, state.attempt.number, state.attempt.number, this_process())
    place.parent.mkdir(parents=True, exist_ok=True)
    book.checkpoints().read(chosen, place)
    return going_on(launch, Fetched(chosen, place, ()))


def joins(world: World) -> bool:
    """Whether this node joins a run instead of recording one."""
    return node_rank(world) > 0
