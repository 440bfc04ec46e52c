"""For how long this process, and what it started, held which device.

Every process that holds a ``Run`` accounts for itself and its descendants, save those that hold the run as well; the
process that recorded the command does so while none does. So no moment counts twice.

A GPU is held while one of these processes has a CUDA context on it. While none has, what is held is the CPU: for all
of that time, since a share of it is set aside, whether it is used or not.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import psutil

from ledger.book import HOST
from ledger.errors import FencedAttempt, LedgerError
from ledger.events import GpuTimeUsed
from ledger.record.capture.environment import cpu_model, usable_cpus
from ledger.record.capture.family import family
from ledger.record.capture.nvml import Look, open_nvml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ledger.events import DeviceKind
    from ledger.record.capture.family import Speakers
    from ledger.record.capture.nvml import Nvml

_LOOK_S: Final = 5.0
_GLANCE_S: Final = 0.25
"""After so long at most who supervises knows that others have begun to speak, or have ended."""
_LATEST_S: Final = 60.0
"""Between two facts, once a process is older than two minutes: what is not on record when it is killed is lost."""
_PATIENCE_S: Final = 10.0
"""For a driver that does not answer."""

_Key = tuple["DeviceKind", int, str | None]


@dataclass
class _Holding:
    """A device while it is held, since the last fact about it."""

    kind: DeviceKind
    began: float
    """Unix seconds."""
    start: float
    """By a clock that never jumps, as is ``end``."""
    end: float
    first: Look
    last: Look
    computing: list[tuple[float, float]] = field(default_factory=list)
    """Utilisation at each look, with the seconds since the look before."""
    memory: int | None = None

    def see(self, look: Look, now: float) -> None:
        if look.utilisation is not None:
            self.computing.append((look.utilisation, now - self.end))
        if look.memory_bytes is not None:
            self.memory = max(look.memory_bytes, self.memory or 0)
        self.last, self.end = look, now

    def fact(self, step: float | None) -> GpuTimeUsed:
        energy, before = self.last.energy_joules, self.first.energy_joules
        return GpuTimeUsed(
            started_at=self.began,
            seconds=self.end - self.start,
            step=step,
            kind=self.kind,
            index=self.last.index,
            model=self.last.model,
            uuid=self.last.uuid,
            host=HOST,
            utilisation=self._utilisation(),
            memory_bytes=self.memory,
            # A driver that was loaded anew counts anew.
            energy_joules=None if energy is None or before is None else max(energy - before, 0.0),
        )

    def _utilisation(self) -> float | None:
        seconds = sum(weight for _, weight in self.computing)
        return sum(share * weight for share, weight in self.computing) / seconds if seconds else None


class Meter:
    """Looks at the devices from a thread of its own, from now until ``stop``.

    ``record`` takes the facts, one about each device and interval: short intervals at first, a minute later on.
    ``step`` tells the last step that was made. A ``supervising`` meter holds still while ``speakers`` has others.
    """

    def __init__(
        self,
        record: Callable[[GpuTimeUsed], None],
        speakers: Speakers,
        *,
        step: Callable[[], float | None] = lambda: None,
        supervising: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._record, self._step = record, step
        self._speakers, self._supervising = speakers, supervising
        self._environ = environ
        self._process = os.getpid()
        self._held: dict[_Key, _Holding] = {}
        self._others_spoke = False
        self._unrecorded: list[GpuTimeUsed] = []
        self._cpu = _Cpu(environ)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-meter", daemon=True)
        self._thread.start()

    def stop(self) -> list[GpuTimeUsed]:
        """Look for the last time; the facts that are not recorded yet. In a forked child there is nothing to tell."""
        if self._process != os.getpid() or self._stopped.is_set():
            return []
        self._stopped.set()
        self._thread.join(_PATIENCE_S)
        held = list(self._held.values())  # a thread whose driver does not answer may yet come back to it
        return self._unrecorded + [holding.fact(self._step()) for holding in held if holding.end > holding.start]

    def _run(self) -> None:
        nvml = open_nvml(self._environ)  # here, because that takes a while
        began = looked = recorded = time.monotonic()
        others = self._speakers.others()
        # A newer attempt holds the run: what this process does is no part of it any more.
        with suppress(FencedAttempt):
            self._look(nvml, others)
            while not self._stopped.wait(_GLANCE_S if self._supervising else _LOOK_S):
                before, others = others, self._speakers.others()
                now = time.monotonic()
                if now - looked >= _LOOK_S or bool(before) != bool(others):
                    self._look(nvml, others)
                    looked = now
                if now - recorded >= min((now - began) / 2, _LATEST_S):
                    self._tell(list(self._held))
                    recorded = now
            self._look(nvml, self._speakers.others())

    def _look(self, nvml: Nvml | None, others: set[int]) -> None:
        if self._supervising and others:
            self._hold_still()
            return
        looks = self._looks(nvml, family(others))
        gone = [key for key in self._held if key not in looks]
        self._tell(gone)
        for key in gone:
            del self._held[key]
        now = time.monotonic()
        for key, look in looks.items():
            if key not in self._held:
                self._held[key] = _Holding(key[0], time.time(), now, now, look, look)
            self._held[key].see(look, now)

    def _hold_still(self) -> None:
        """From now on others account for what there is."""
        # Processes that a launcher has started again record under a newer attempt: nothing must be said any more under
        # the one that began here, before its end.
        self._others_spoke = True
        for holding in self._held.values():
            holding.end = time.monotonic()
        self._tell(list(self._held))
        self._held.clear()
        self._cpu.rest()

    def _looks(self, nvml: Nvml | None, processes: list[int]) -> dict[_Key, Look]:
        devices = nvml.held_by(processes) if nvml else []
        if not devices:
            return {("cpu", 0, None): self._cpu.look(processes)}
        self._cpu.rest()
        return {("gpu", look.index, look.uuid): look for look in devices}

    def _tell(self, keys: list[_Key]) -> None:
        """Record what is known of these devices, and begin anew; what cannot be recorded now is tried the next time."""
        for key in keys:
            holding = self._held[key]
            if holding.end > holding.start:
                self._unrecorded.append(holding.fact(self._step()))
                began = holding.began + holding.end - holding.start
                self._held[key] = _Holding(holding.kind, began, holding.end, holding.end, holding.last, holding.last)
        try:
            while self._unrecorded and not self._others_spoke:
                self._record(self._unrecorded[0])
                del self._unrecorded[0]
        except FencedAttempt:
            raise
        except LedgerError as error:
            warnings.warn(f"device time waits to be recorded: {error}", RuntimeWarning, stacklevel=2)


class _Cpu:
    """The CPU as one device, of which each rank on the host holds an equal share."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        ranks = environ.get("LOCAL_WORLD_SIZE", "")
        self._share = (usable_cpus() or 1) / max(int(ranks) if ranks.isdigit() else 1, 1)
        self._model = cpu_model()
        self._before: tuple[float, float] | None = None
        """Time, and the CPU seconds that had been used until then."""

    def look(self, processes: list[int]) -> Look:
        """Use of the CPU since the last look, and the resident memory: what processes share counts for each of them."""
        now, used, memory = time.monotonic(), 0.0, 0
        for pid in processes:
            with suppress(psutil.Error):  # it ended meanwhile
                process = psutil.Process(pid)
                memory += process.memory_info().rss
                # Of children those that have ended and were waited for.
                used += sum(process.cpu_times()[:4])
        utilisation = None
        if self._before and now > self._before[0]:
            elapsed, computed = now - self._before[0], used - self._before[1]
            utilisation = min(max(computed / elapsed / self._share, 0.0), 1.0)
        self._before = now, used
        return Look(0, self._model, None, utilisation, memory, None)

    def rest(self) -> None:
        """Time goes by that is not its own."""
        self._before = None
