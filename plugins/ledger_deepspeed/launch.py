"""DeepSpeed's launcher: its command line, and what would fail only after it has started."""

from __future__ import annotations

import platform
import re
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ledger.errors import Unavailable, UsageError
from ledger_deepspeed import backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ledger.events import World
    from ledger.hooks.ports import Launch

PATIENCE_S: Final = 5
_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._:-]*)\s+slots=(?P<slots>[0-9]+)(\s.*)?")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+=,-]*")


@dataclass(frozen=True)
class Host:
    """A line of a hostfile."""

    name: str
    slots: int

    @property
    def here(self) -> bool:
        """Whether it is this machine, which alone needs no ssh."""
        return self.name in ("localhost", "127.0.0.1", "::1", platform.node())


def command(plan: Launch, world: World) -> list[str]:
    """The words that start ``plan`` with DeepSpeed's launcher.

    Raises ``UsageError`` for a hostfile that does not hold or does not fit, ``Unavailable`` for a host that cannot be
    reached, ``PluginUnavailable`` without DeepSpeed.
    """
    backend.require()
    hostfile = next((word.partition("=")[2] for word in world.options if word.startswith("--hostfile=")), "")
    interpreter, *rest = plan.command
    start = [interpreter, "-m", "deepspeed.launcher.runner", "--log_level=warning", "--no_local_rank"]
    program = ["--module", *rest[1:]] if rest[:1] == ["-m"] else rest
    if not hostfile:
        return [*start, *_devices(plan.environ, world.processes), f"--master_port={_free_port()}", *program]
    path = plan.directory / hostfile
    hosts = read_hostfile(path)
    _must_fit(hosts, world.processes, path)
    start.append(f"--hostfile={path}")
    if len(hosts) == 1 and hosts[0].here:
        return [*start, "--no_ssh_check", "--master_addr=127.0.0.1", f"--master_port={_free_port()}", *program]
    _must_be_reachable(hosts, path)
    # By force: a single host, which may be another one, DeepSpeed would take for this one. It hands over no variables
    # of ours, so `env` does.
    return [*start, "--force_multi", "--no_python", "env", *_variables(plan.environ), interpreter, *rest]


def read_hostfile(path: Path) -> list[Host]:
    """The hosts, in the order of their ranks. Raises ``UsageError`` naming the line that does not hold."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the hostfile {path} cannot be read: {error}",
            mend="give a file of lines like: worker-1 slots=4",
        ) from error
    hosts: list[Host] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _HOST.fullmatch(line.strip())
        if not found or not int(found["slots"]):
            raise UsageError(f"{path}:{number}: {line!r} is no host with slots", mend="write it like: worker-1 slots=4")
        if found["name"] in [host.name for host in hosts]:
            raise UsageError(f"{path}:{number}: {found['name']} is there twice", mend="add up its slots in one line")
        hosts.append(Host(found["name"], int(found["slots"])))
    if not hosts:
        raise UsageError(f"the hostfile {path} names no host", mend="add lines like: worker-1 slots=4")
    return hosts


def _must_fit(hosts: Sequence[Host], processes: int, path: Path) -> None:
    slots = sum(host.slots for host in hosts)
    if slots != processes:
        raise UsageError(
            f"{path} has {slots} slots, the training {processes} processes",
            mend=f"train with --nproc {slots}, or change the slots: DeepSpeed starts a process in each",
        )


def _must_be_reachable(hosts: Sequence[Host], path: Path) -> None:
    _must_have("ssh")
    with ThreadPoolExecutor(max_workers=min(32, len(hosts))) as pool:
        answers = pool.map(_answer, hosts)  # this machine as well: beside others DeepSpeed starts it in the same way
    silent = [f"{host.name} ({answer})" for host, answer in zip(hosts, answers, strict=True) if answer]
    if silent:
        raise Unavailable(
            f"hosts in {path} that cannot be reached: {', '.join(silent)}",
            mend="`ssh HOST true` must work from here without a question: a key without password, a known host",
        )
    _must_have("pdsh")


def _must_have(tool: str) -> None:
    if shutil.which(tool) is None:
        raise Unavailable(f"DeepSpeed starts other hosts with {tool}, which is not installed", mend=f"install {tool}")


def _answer(host: Host) -> str:
    """What ssh complains of; empty where the host can be reached."""
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={PATIENCE_S}", host.name, "true"]
    limit = 2 * PATIENCE_S  # ssh counts the seconds for one address; a name may have several
    try:
        done = subprocess.run(ssh, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {limit} s"
    said = done.stderr.strip().splitlines() or [f"ssh ended with {done.returncode}"]
    return said[-1] if done.returncode else ""


def _devices(environ: Mapping[str, str], processes: int) -> list[str]:
    """Which devices of this machine; a choice that the user has made already is kept."""
    chosen = [device for device in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device.isdigit()]
    # Without a hostfile of its own it would use one that happens to lie at its default place.
    nowhere = "--hostfile=/dev/null"
    if len(chosen) >= processes:
        return [nowhere, f"--include=localhost:{','.join(chosen[:processes])}"]
    return [nowhere, f"--num_gpus={processes}"]


def _variables(environ: Mapping[str, str]) -> list[str]:
    """What the processes on other hosts need to find their run. These words pass through shells and process lists."""
    names = sorted(name for name in environ if name.startswith("LEDGER_") or name == "OMP_NUM_THREADS")
    for name in names:
        if not _PLAIN.fullmatch(environ[name]):
            raise UsageError(
                f"{name} = {environ[name]!r} cannot be handed to other hosts: a shell would read some of it",
                mend="choose a value of letters, digits and _./:@%+=,-",
            )
        if "://" in environ[name] and urlsplit(environ[name]).password:
            raise UsageError(
                f"{name} holds a password, which would be seen in the process list of every host",
                mend="leave it out of the URL; PostgreSQL reads it from ~/.pgpass",
            )
    return [f"{name}={environ[name]}" for name in names]


def _free_port() -> int:
    """A port on which the first process can wait for the others: DeepSpeed's own choice is always the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
