"""Who starts the processes that train together, and where: what was asked for, checked before anything starts. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import UsageError
from ledger.events import World

if TYPE_CHECKING:
    from collections.abc import Mapping

TORCHRUN: Final = "torchrun"
DEEPSPEED: Final = "deepspeed"

NNODES: Final = "--nnodes"
NODE_RANK: Final = "--node-rank"
RDZV_ID: Final = "--rdzv-id"
RDZV_ENDPOINT: Final = "--rdzv-endpoint"
MASTER_ADDR: Final = "--master-addr"
MAX_RESTARTS: Final = "--max-restarts"
HOSTFILE: Final = "--hostfile"

OPTIONS: Final = {
    TORCHRUN: (
        NNODES,
        NODE_RANK,
        "--rdzv-backend",
        RDZV_ENDPOINT,
        RDZV_ID,
        "--rdzv-conf",
        MAX_RESTARTS,
        MASTER_ADDR,
        "--master-port",
    ),
    DEEPSPEED: (HOSTFILE,),
}
"""The options of each launcher that are passed on to it."""


@dataclass(frozen=True)
class Asked:
    """What was asked for, as far as it was."""

    processes: int | None = None
    """Of all nodes together."""
    launcher: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    """Values of the launcher's own options, by option."""
    hosts: int = 1
    """How many the hostfile names."""

    def __bool__(self) -> bool:
        return bool(self.processes or self.launcher or self.options)

    def world(self, processes: int) -> World:
        """The world of so many processes; without a launcher, torchrun starts what one process alone cannot be.

        Raises ``UsageError`` for what does not fit together.
        """
        launcher = self.launcher or (TORCHRUN if processes > 1 or self.options else "")
        _must_belong(launcher, self.options)
        nodes = self.hosts
        if launcher == TORCHRUN:
            nodes = int(self.options.get(NNODES, "1"))
            _must_meet(nodes, self.options)
        if processes % nodes:
            raise UsageError(
                f"--nproc {processes} cannot be shared out equally over {nodes} nodes",
                mend=f"--nproc counts the processes of all nodes together: make it a multiple of {nodes}",
            )
        words = tuple(f"{name}={value}" for name, value in self.options.items() if name != NNODES)
        return World(processes=processes, nodes=nodes, launcher=launcher, options=words)

    def changed(self, before: World) -> World:
        """``before``, but for what was asked for."""
        if not self:
            return before
        kept = options_of(before) if self.launcher in (None, before.launcher) else {}
        alone = self.processes == 1 and before.launcher == TORCHRUN and not kept
        launcher = self.launcher or ("" if alone else before.launcher)
        hosts = before.nodes if HOSTFILE in kept and HOSTFILE not in self.options else self.hosts
        return Asked(None, launcher, {**kept, **self.options}, hosts).world(self.processes or before.processes)


def options_of(world: World) -> dict[str, str]:
    """The options that ``Asked`` had for this world."""
    options = dict(_split(word) for word in world.options)
    return {NNODES: str(world.nodes), **options} if world.launcher == TORCHRUN and world.nodes > 1 else options


def engine_of(config: Mapping[str, Any]) -> str | None:
    """The engine that a recipe names; a trainer of somebody else's may have none."""
    engine = config.get("engine")
    return engine.get("name") if isinstance(engine, dict) else None


def node_rank(world: World) -> int:
    """Which of the world's nodes this one is; 0 records the run."""
    return int(options_of(world).get(NODE_RANK, "0"))


def rendezvous(world: World) -> str | None:
    """The word by which the nodes of one training find each other."""
    return options_of(world).get(RDZV_ID)


def _split(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def _must_belong(launcher: str, options: Mapping[str, str]) -> None:
    for name in options:
        owner = next(owner for owner, names in OPTIONS.items() if name in names)
        if owner != launcher:
            raise UsageError(
                f"{name} is an option of {owner}, and {launcher} starts this training",
                mend=f"leave it out, or add --launcher {owner}",
            )


def _must_meet(nodes: int, options: Mapping[str, str]) -> None:
    """The nodes find each other, and no node is one too many."""
    rank = int(options.get(NODE_RANK, "0"))
    if rank >= nodes:
        raise UsageError(
            f"there is no node {rank}: the training has {nodes}, counted from 0",
            mend=f"set {NNODES} to the number of nodes, and {NODE_RANK} to 0 … {nodes - 1}",
        )
    if nodes == 1:
        return
    missing = [name for name in (NODE_RANK, RDZV_ID) if name not in options]
    if RDZV_ENDPOINT not in options and MASTER_ADDR not in options:
        missing.append(RDZV_ENDPOINT)
    if missing:
        raise UsageError(
            f"{nodes} nodes cannot find each other without {', '.join(missing)}",
            mend=f"on each node: {NNODES} {nodes} {NODE_RANK} 0 (1, …) {RDZV_ID} NAME {RDZV_ENDPOINT} HOST-OF-0:PORT",
        )
    if MAX_RESTARTS in options:
        raise UsageError(
            f"{MAX_RESTARTS} restarts the processes of one node only: several could not agree on where to go on",
            mend=f"leave it out; after a failure, `ledger resume RUN {NODE_RANK} …` on each node goes on",
        )
