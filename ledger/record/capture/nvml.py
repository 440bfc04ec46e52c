"""NVIDIA's devices as their driver tells them, through NVML (``nvidia-ml-py``).

NVML and CUDA count the devices of a machine in the same order where they are all of one model; where they are not,
``CUDA_DEVICE_ORDER=PCI_BUS_ID`` makes CUDA count as NVML does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

T = TypeVar("T")

_PERCENT: Final = 100
_MILLI: Final = 1000


@dataclass(frozen=True)
class Look:
    """What one look at a device found."""

    index: int
    """Of the device on its host."""
    model: str
    uuid: str | None
    utilisation: float | None
    """Share of the last moments (up to a second) in which it computed, in [0, 1]."""
    memory_bytes: int | None
    """In use by the processes that were asked about."""
    energy_joules: float | None
    """Since the driver was loaded."""


class Nvml:
    """The devices that this process may see. Get one from ``open_nvml``."""

    def __init__(self, library: Any, environ: Mapping[str, str]) -> None:
        """``library`` is the module ``pynvml``, initialised; the environment tells what CUDA may see."""
        self._library = library
        self._asked = environ.get("CUDA_VISIBLE_DEVICES")
        self._local_rank = environ.get("LOCAL_RANK", "")

    @property
    def driver(self) -> str:
        """The driver's version."""
        return str(self._library.nvmlSystemGetDriverVersion())

    @property
    def models(self) -> list[str]:
        """The model of each device that may be seen."""
        return [self._library.nvmlDeviceGetName(device) for device in self._visible]

    def held_by(self, processes: Collection[int]) -> list[Look]:
        """A look at each device on which one of ``processes`` (pids) has a CUDA context."""
        contexts = [(device, self._contexts(device)) for device in self._visible]
        own = [(device, [c for c in found if c[0] in processes]) for device, found in contexts]
        if not any(found for _, found in own) and any(map(_uses_cuda, processes)):
            own = [(device, self._elsewhere(found)) for device, found in self._of_this_rank(contexts)]
        looks = (self._told(partial(self._look, device, [m for _, m in found])) for device, found in own if found)
        return [look for look in looks if look is not None]

    def _elsewhere(self, contexts: list[tuple[int, int | None]]) -> list[tuple[int, int | None]]:
        """The contexts, if their processes have pids of another namespace: in a container the driver tells the host's.

        Then it cannot be known whose they are, but a container is given the devices that it is to use.
        """
        return [] if any(os.path.exists(f"/proc/{pid}") for pid, _ in contexts) else contexts

    def _of_this_rank(self, devices: list[T]) -> list[T]:
        """Of the visible devices the one that a launcher means for this rank, where there is a launcher."""
        rank = int(self._local_rank) if self._local_rank.isdigit() else None
        return devices if rank is None or rank >= len(devices) else [devices[rank]]

    @cached_property
    def _visible(self) -> list[Any]:
        """Handles, in the order in which CUDA counts them."""
        every = range(self._library.nvmlDeviceGetCount())
        if self._asked is None:
            return [self._library.nvmlDeviceGetHandleByIndex(index) for index in every]
        return list(self._named(self._asked, every))

    def _named(self, names: str, every: range) -> Iterator[Any]:
        for name in map(str.strip, names.split(",")):
            if name.isdigit() and int(name) in every:
                yield self._library.nvmlDeviceGetHandleByIndex(int(name))
                continue
            found = self._by_uuid(name, every) if name.startswith(("GPU-", "MIG-")) else None
            if found is None:  # CUDA sees nothing from the first name on that is none
                return
            yield found

    def _by_uuid(self, name: str, every: range) -> Any | None:
        """The device with this UUID, or the one whose UUID begins so."""
        if exact := self._told(lambda: self._library.nvmlDeviceGetHandleByUUID(name.encode())):
            return exact
        handles = map(self._library.nvmlDeviceGetHandleByIndex, every)
        near = [handle for handle in handles if self._library.nvmlDeviceGetUUID(handle).startswith(name)]
        return near[0] if len(near) == 1 else None

    def _contexts(self, device: Any) -> list[tuple[int, int | None]]:
        """Pid and memory of each process with a context on the device."""
        found = self._told(lambda: self._library.nvmlDeviceGetComputeRunningProcesses(device)) or []
        return [(process.pid, process.usedGpuMemory) for process in found]

    def _look(self, device: Any, memory: list[int | None]) -> Look:
        used = self._told(lambda: self._library.nvmlDeviceGetUtilizationRates(device).gpu)
        energy = self._told(lambda: self._library.nvmlDeviceGetTotalEnergyConsumption(device))
        known = [amount for amount in memory if amount is not None]
        return Look(
            index=self._index(device),
            model=self._library.nvmlDeviceGetName(device),
            uuid=self._told(lambda: self._library.nvmlDeviceGetUUID(device)),
            utilisation=None if used is None else used / _PERCENT,
            memory_bytes=sum(known) if known else None,
            energy_joules=None if energy is None else energy / _MILLI,
        )

    def _index(self, device: Any) -> int:
        """Of the device or, of a MIG instance, of the device that it is a part of."""
        library = self._library
        index = self._told(lambda: library.nvmlDeviceGetIndex(device))
        if index is None:
            index = library.nvmlDeviceGetIndex(library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device))
        return int(index)

    def _told(self, ask: Callable[[], T]) -> T | None:
        """What the driver answers; None where this device cannot tell it."""
        try:
            return ask()
        except self._library.NVMLError:
            return None


def open_nvml(environ: Mapping[str, str]) -> Nvml | None:
    """The driver, asked; None where its library or ``nvidia-ml-py`` is missing, or there is no device."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return Nvml(pynvml, environ) if pynvml.nvmlDeviceGetCount() else None
    except pynvml.NVMLError:
        return None


def _uses_cuda(pid: int) -> bool:
    """Whether a process has opened what CUDA needs beyond NVML, which opens the devices themselves, too."""
    try:
        files = os.scandir(f"/proc/{pid}/fd")
    except OSError:  # gone, or another user's
        return False
    with files:
        return any(_target(file.path) == "/dev/nvidia-uvm" for file in files)


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile
        return ""
