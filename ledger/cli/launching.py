"""The options that say which processes train together, and who starts them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


_COUNT = click.IntRange(min=1)
_INDEX = click.IntRange(min=0)
_TORCHRUN = "torchrun: "
_OPTIONS: tuple[tuple[str, Any, str, str], ...] = (
    ("--nnodes", _COUNT, "N", _TORCHRUN + "train on N nodes; start the same command on each."),
    ("--node-rank", _INDEX, "K", _TORCHRUN + "which node this is; node 0 records the run, the others join it."),
    ("--rdzv-id", str, "NAME", _TORCHRUN + "the word by which the nodes of one training find each other."),
    ("--rdzv-endpoint", str, "HOST:PORT", _TORCHRUN + "where the nodes meet: a free port of node 0."),
    ("--rdzv-backend", str, "NAME", _TORCHRUN + "how the nodes meet."),
    ("--rdzv-conf", str, "KEY=VALUE,…", _TORCHRUN + "further settings of the meeting."),
    ("--master-addr", str, "HOST", _TORCHRUN + "node 0, instead of --rdzv-endpoint."),
    ("--master-port", _INDEX, "PORT", _TORCHRUN + "its port."),
    (
        "--max-restarts",
        _INDEX,
        "N",
        _TORCHRUN + "start all processes again when one dies, at most N times; they go on from the newest checkpoint.",
    ),
    (
        "--hostfile",
        click.Path(exists=True, dir_okay=False, resolve_path=True),
        "FILE",
        "deepspeed: the hosts and their slots.",
    ),
)


def launch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--nproc`` and the options of the launchers; the function is given them as ``asked``."""

    @functools.wraps(function)
    def called(*arguments: Any, nproc: int | None, launcher: str | None, **parameters: Any) -> Any:
        from ledger.record.world import Asked

        given = {name: parameters.pop(name[2:].replace("-", "_")) for name, *_ in _OPTIONS}
        options = {name: str(value) for name, value in given.items() if value is not None}
        hosts = _hosts(Path(options["--hostfile"])) if "--hostfile" in options else 1
        return function(*arguments, asked=Asked(nproc, launcher, options, hosts), **parameters)

    decorated: Callable[..., Any] = called
    for name, kind, metavar, text in reversed(_OPTIONS):
        decorated = click.option(name, type=kind, metavar=metavar, help=text)(decorated)
    launchers = click.Choice(["torchrun", "deepspeed"])
    decorated = click.option("--launcher", type=launchers, help="What starts several processes; torchrun if not said.")(
        decorated
    )
    return click.option(
        "--nproc", type=_COUNT, metavar="N", help="Train with N processes, those of all nodes together."
    )(decorated)


def _hosts(file: Path) -> int:
    lines = (line.partition("#")[0].strip() for line in file.read_text(errors="replace").splitlines())
    count = sum(1 for line in lines if line)
    if not count:
        raise UsageError(f"the hostfile {file} names no host", mend="one line for each host: NAME slots=N")
    return count
