"""The world of a training as the command line asks for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import UsageError
from ledger.events import World
from ledger.record.world import Asked, node_rank, options_of, rendezvous

NODES = {"--nnodes": "2", "--node-rank": "1", "--rdzv-id": "a", "--rdzv-endpoint": "localhost:29400"}


def test_one_process_needs_no_launcher_and_several_get_torchrun() -> None:
    assert Asked().world(1) == World()
    assert Asked().world(4) == World(processes=4, launcher="torchrun")
    assert Asked(options={"--max-restarts": "3"}).world(1) == World(
        processes=1, launcher="torchrun", options=("--max-restarts=3",)
    )


def test_processes_are_those_of_all_nodes_together() -> None:
    world = Asked(options=NODES).world(4)
    assert (world.processes, world.nodes, world.launcher) == (4, 2, "torchrun")
    assert node_rank(world) == 1
    assert rendezvous(world) == "a"
    assert options_of(world) == NODES


def test_a_hostfile_is_deepspeeds() -> None:
    world = Asked(launcher="deepspeed", options={"--hostfile": "/hosts"}, hosts=2).world(4)
    assert world == World(processes=4, nodes=2, launcher="deepspeed", options=("--hostfile=/hosts",))


@pytest.mark.parametrize(
    ("processes", "asked", "named"),
    [
        (3, Asked(options=NODES), "--nproc 3 .* 2 nodes"),
        (4, Asked(options={**NODES, "--node-rank": "2"}), "no node 2"),
        (4, Asked(options={"--nnodes": "2"}), "--node-rank, --rdzv-id, --rdzv-endpoint"),
        (4, Asked(options={**NODES, "--max-restarts": "1"}), "one node only"),
        (2, Asked(options={"--hostfile": "/hosts"}), "--hostfile is an option of deepspeed, and torchrun"),
        (2, Asked(launcher="deepspeed", options={"--rdzv-id": "a"}), "--rdzv-id is an option of torchrun"),
        (3, Asked(launcher="deepspeed", options={"--hostfile": "/hosts"}, hosts=2), "--nproc 3 .* 2 nodes"),
    ],
)
def test_what_does_not_fit_together_is_said_with_its_mend(processes: int, asked: Asked, named: str) -> None:
    with pytest.raises(UsageError, match=named) as refused:
        asked.world(processes)
    assert refused.value.mend


def test_a_master_address_is_a_meeting_place_too() -> None:
    options = {name: value for name, value in NODES.items() if name != "--rdzv-endpoint"}
    assert Asked(options={**options, "--master-addr": "localhost"}).world(2).nodes == 2


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        (World(processes=2, launcher="torchrun"), Asked(1), World()),
        (World(), Asked(2), World(processes=2, launcher="torchrun")),
        (World(processes=2), Asked(1), World()),  # as other trainers' recipes say it
        (
            World(processes=2, launcher="torchrun", options=("--max-restarts=3",)),
            Asked(4),
            World(processes=4, launcher="torchrun", options=("--max-restarts=3",)),
        ),
        (
            World(processes=2, launcher="torchrun", options=("--max-restarts=3",)),
            Asked(options={"--max-restarts": "0"}),
            World(processes=2, launcher="torchrun", options=("--max-restarts=0",)),
        ),
        (
            World(processes=2, launcher="torchrun", options=("--max-restarts=3",)),
            Asked(launcher="deepspeed"),
            World(processes=2, launcher="deepspeed"),
        ),
        (
            World(processes=4, nodes=2, launcher="deepspeed", options=("--hostfile=/hosts",)),
            Asked(8),
            World(processes=8, nodes=2, launcher="deepspeed", options=("--hostfile=/hosts",)),
        ),
        (Asked(options=NODES).world(4), Asked(launcher="deepspeed"), World(processes=4, launcher="deepspeed")),
    ],
)
def test_another_world_keeps_what_was_not_asked_for(before: World, asked: Asked, after: World) -> None:
    assert asked.changed(before) == after


def worlds() -> st.SearchStrategy[World]:
    def world(nodes: int, each: int, options: dict[str, str]) -> World:
        own = {**NODES, "--nnodes": str(nodes), "--node-rank": str(nodes - 1)} if nodes > 1 else {}
        return Asked(options={**own, **options}).world(nodes * each)

    further = st.dictionaries(
        st.sampled_from(["--rdzv-conf", "--master-port"]), st.from_regex(r"[\w=,]+", fullmatch=True)
    )
    return st.builds(world, st.integers(1, 4), st.integers(1, 4), further)


@given(worlds())
def test_its_options_make_the_same_world_again(world: World) -> None:
    again: Any = Asked(None, world.launcher, options_of(world)).world(world.processes)
    assert again.model_copy(update={"options": ()}) == world.model_copy(update={"options": ()})
    assert sorted(again.options) == sorted(world.options)
    assert Asked().changed(world) == world
