"""Device time as it is measured: on this machine's CPU, and through NVML at the border of its library."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

import ledger
from ledger.errors import StoreUnavailable
from ledger.events import GpuTimeUsed
from ledger.record.capture.family import Speakers, family
from ledger.record.capture.gpu_time import Meter
from ledger.record.capture.nvml import Nvml, open_nvml
from ledger.record.run import start_run
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.book import Book

SLEEP = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
SOON_S = 60


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LEDGER_")]:
        monkeypatch.delenv(name)
    return ledger.open_ledger()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process of this one's that does nothing."""
    with subprocess.Popen(SLEEP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        yield started
        started.communicate()


def device_time(book: Book, run: str) -> list[GpuTimeUsed]:
    facts = [r.event for r in book.store.read(run_stream(run), types=(GpuTimeUsed.type,))]
    assert all(isinstance(fact, GpuTimeUsed) for fact in facts)
    return facts  # type: ignore[return-value]


# --- on this machine


def test_a_run_without_a_gpu_holds_the_cpu(book: Book) -> None:
    began = time.time()
    with start_run(book=book) as run:
        run.log({"a": 1}, step=3)
        deadline = time.process_time() + 0.3
        while time.process_time() < deadline:
            pass
    (fact,) = device_time(book, run.id)
    assert (fact.kind, fact.uuid, fact.energy_joules, fact.step) == ("cpu", None, None, 3)
    assert began <= fact.started_at <= time.time()
    assert 0.3 <= fact.seconds <= time.time() - began
    assert fact.utilisation is not None
    assert 0.3 / fact.seconds / psutil.cpu_count() * 0.5 < fact.utilisation <= 1
    assert fact.memory_bytes is not None
    assert fact.memory_bytes > 10_000_000


def test_each_rank_of_a_host_has_its_share_of_the_cpu(tmp_path: Path) -> None:
    shares = []
    for ranks in ("1", "1000"):
        meter = Meter(print, Speakers(tmp_path, "run"), environ={"LOCAL_WORLD_SIZE": ranks})
        while not meter._held:  # its thread has not had its first look: what is used until then is not in the fact
            time.sleep(0.01)
        deadline = time.process_time() + 0.2
        while time.process_time() < deadline:
            pass
        (fact,) = meter.stop()
        shares.append(fact.utilisation)
    assert shares[0] is not None
    assert shares[0] < 1
    assert shares[1] == 1


def test_what_is_recorded_in_the_end_is_recorded_once(book: Book) -> None:
    run = start_run(book=book)
    run.finish()
    run.finish()
    assert len(device_time(book, run.id)) == 1


def test_a_long_run_says_it_in_parts_that_a_kill_leaves(book: Book, tmp_path: Path) -> None:
    script = """
        import time, ledger
        run = ledger.start_run()
        print(run.id, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        run = killed.stdout.readline().strip()
        deadline = time.monotonic() + SOON_S
        while not device_time(book, run) and time.monotonic() < deadline:
            time.sleep(0.2)
        killed.kill()
    book.recover()
    (fact,) = device_time(book, run)
    assert fact.seconds == pytest.approx(5, abs=2)


def test_a_log_out_of_reach_costs_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.record.capture.gpu_time._LOOK_S", 0.05)
    taken: list[GpuTimeUsed] = []

    def refuse_once(fact: GpuTimeUsed) -> None:
        taken.append(fact)
        if len(taken) == 1:
            raise StoreUnavailable("the disk is full")

    with pytest.warns(RuntimeWarning, match="device time waits to be recorded: the disk is full"):
        meter = Meter(refuse_once, Speakers(tmp_path, "run"))
        deadline = time.monotonic() + SOON_S
        while len(taken) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        last = meter.stop()
    refused, *recorded = [*taken, *last]
    assert recorded[0].started_at == refused.started_at
    ends = [fact.started_at + fact.seconds for fact in recorded]
    assert [fact.started_at for fact in recorded[1:]] == pytest.approx(ends[:-1])


def test_a_forked_child_says_nothing(tmp_path: Path) -> None:
    meter = Meter(print, Speakers(tmp_path, "run"))
    pid = os.fork()
    if pid == 0:
        os._exit(len(meter.stop()))
    assert os.waitpid(pid, 0)[1] == 0
    assert len(meter.stop()) == 1


# --- who accounts for what


def test_a_family_is_a_process_with_its_descendants(child: subprocess.Popen[str]) -> None:
    grandchild = textwrap.dedent(f"""
        import subprocess, sys
        inner = subprocess.Popen({SLEEP!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        inner.stdout.readline()
        print(inner.pid, flush=True)
        sys.stdin.read()
        inner.communicate()
    """)
    command = [sys.executable, "-c", grandchild]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        inner = int(parent.stdout.readline())
        assert {os.getpid(), child.pid, parent.pid, inner} <= set(family(()))
        assert not {parent.pid, inner} & set(family({parent.pid}))
        parent.communicate()


def test_processes_that_speak_are_known_as_long_as_they_live(tmp_path: Path, child: subprocess.Popen[str]) -> None:
    speakers = Speakers(tmp_path, "run")
    assert speakers.others() == set()
    speakers.announce()
    folder = next(tmp_path.glob("devices/*/run"))
    (folder / str(child.pid)).touch()
    (folder / "999999999").touch()
    assert speakers.others() == {child.pid}
    speakers.forget()
    assert sorted(map(int, os.listdir(folder))) == sorted([os.getpid(), child.pid])
    speakers.withdraw()
    assert os.listdir(folder) == [str(child.pid)]


def test_a_command_without_a_run_is_accounted_for_by_its_parent(book: Book, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "run", "--", sys.executable, "-c", "sum(range(10**7))"],
        cwd=tmp_path, capture_output=True, text=True, timeout=SOON_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (fact,) = device_time(book, book.find("latest"))
    assert (fact.kind, fact.step) == ("cpu", None)
    assert 0 < fact.seconds < SOON_S
    assert fact.utilisation


def test_of_a_command_with_a_run_no_moment_counts_twice(book: Book, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import time, ledger\nwith ledger.current_run() as run:\n    run.log({'a': 1}, step=1)\n    time.sleep(2)\n"
    )
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "run", "--", sys.executable, "train.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=SOON_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = sorted(device_time(book, book.find("latest")), key=lambda fact: fact.started_at)
    ends = [fact.started_at + fact.seconds for fact in facts]
    assert all(later.started_at > end - 0.5 for end, later in zip(ends, facts[1:], strict=False))
    assert 2 < sum(fact.seconds for fact in facts) < time.time() - began
    assert {fact.step for fact in facts} <= {None, 1}
    assert not list(tmp_path.glob(".ledger/scratch/devices/*/*"))


# --- NVIDIA's devices


def test_where_there_is_no_driver_there_is_nothing_to_ask() -> None:
    if open_nvml(os.environ) is not None:
        pytest.skip("this machine has an NVIDIA driver")
    assert open_nvml({}) is None


def test_where_the_library_is_missing_there_is_nothing_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml({}) is None


def test_a_real_gpu_is_held_by_who_computes_on_it() -> None:
    nvml = open_nvml(os.environ)
    if nvml is None:
        pytest.skip("there is no NVIDIA driver, or no nvidia-ml-py: only a machine with a GPU can show this")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch cannot use the GPU of this machine")
    kept = torch.ones(1 << 26, device="cuda")
    (look,) = nvml.held_by([os.getpid()])
    assert torch.cuda.get_device_name() in look.model
    assert look.memory_bytes is None or look.memory_bytes >= kept.nbytes
    assert look.uuid is not None


class FakeNVMLError(Exception):
    """What the fake library raises for what a device cannot tell."""


@dataclass
class FakeDevice:
    """A device as NVML tells of it; None for what it does not support."""

    name: str
    uuid: str
    contexts: dict[int, int | None] = field(default_factory=dict)
    """Memory by pid."""
    gpu: int | None = 50
    millijoules: int | None = 0


class FakeNvmlLibrary:
    """A fake of the module ``pynvml``, for machines without a driver: nothing behind it is real."""

    NVMLError = FakeNVMLError

    def __init__(self, *devices: FakeDevice) -> None:
        self.devices = devices

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeDevice:
        return self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> FakeDevice:
        for device in self.devices:
            if device.uuid == uuid.decode():
                return device
        raise FakeNVMLError("Not Found")

    def nvmlDeviceGetIndex(self, device: FakeDevice) -> int:
        return self.devices.index(device)

    def nvmlDeviceGetName(self, device: FakeDevice) -> str:
        return device.name

    def nvmlDeviceGetUUID(self, device: FakeDevice) -> str:
        return device.uuid

    def nvmlDeviceGetComputeRunningProcesses(self, device: FakeDevice) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in device.contexts.items()]

    def nvmlDeviceGetUtilizationRates(self, device: FakeDevice) -> SimpleNamespace:
        if device.gpu is None:
            raise FakeNVMLError("Not Supported")
        return SimpleNamespace(gpu=device.gpu)

    def nvmlDeviceGetTotalEnergyConsumption(self, device: FakeDevice) -> int:
        if device.millijoules is None:
            raise FakeNVMLError("Not Supported")
        return device.millijoules


def four() -> list[FakeDevice]:
    return [FakeDevice(f"NVIDIA H100 {n}", f"GPU-{n}{n}{n}") for n in range(4)]


def test_a_device_is_held_by_whose_context_is_on_it() -> None:
    devices = four()
    devices[1].contexts = {10: 100, 11: 1000, 12: 5}
    devices[2].contexts = {99: 7}
    (look,) = Nvml(FakeNvmlLibrary(*devices), {}).held_by([10, 11])
    assert (look.index, look.model, look.uuid) == (1, "NVIDIA H100 1", "GPU-111")
    assert (look.utilisation, look.memory_bytes, look.energy_joules) == (0.5, 1100, 0.0)


def test_what_a_device_cannot_tell_is_left_open() -> None:
    device = FakeDevice("NVIDIA T4", "GPU-1", {10: None}, gpu=None, millijoules=None)
    (look,) = Nvml(FakeNvmlLibrary(device), {}).held_by([10])
    assert (look.utilisation, look.memory_bytes, look.energy_joules) == (None, None, None)


@pytest.mark.parametrize(
    ("visible", "models"),
    [
        ("2,0", [2, 0]),
        ("GPU-333, 1", [3, 1]),
        ("GPU-3", [3]),
        ("1,-1,2", [1]),
        ("1,9,2", [1]),
        ("", []),
        ("-1", []),
        ("GPU-", []),
    ],
)
def test_devices_are_those_that_cuda_sees(visible: str, models: list[int]) -> None:
    nvml = Nvml(FakeNvmlLibrary(*four()), {"CUDA_VISIBLE_DEVICES": visible})
    assert nvml.models == [f"NVIDIA H100 {n}" for n in models]


def test_in_a_container_pids_are_the_hosts_and_the_launcher_tells_which_device_is_whose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = 999_999_999  # no process of this machine has that number
    devices = four()
    for device in devices[1:]:
        device.contexts = {elsewhere: 64}
    nvml = Nvml(FakeNvmlLibrary(*devices), {"CUDA_VISIBLE_DEVICES": "2,3", "LOCAL_RANK": "1"})
    assert nvml.held_by([os.getpid()]) == []  # this process has not opened what CUDA needs
    monkeypatch.setattr("ledger.record.capture.nvml._uses_cuda", lambda pid: pid == os.getpid())
    assert [look.index for look in nvml.held_by([os.getpid()])] == [3]
    # A process that is there, but not ours: pids are those of this machine, and the device is somebody else's.
    devices[3].contexts = {1: 64}
    assert nvml.held_by([os.getpid()]) == []


def test_time_on_a_gpu_is_told_with_its_energy_and_never_as_that_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice("NVIDIA H100", "GPU-1", {os.getpid(): 1000}, millijoules=5_000)
    nvml = Nvml(FakeNvmlLibrary(device), {})
    monkeypatch.setattr("ledger.record.capture.gpu_time.open_nvml", lambda _: nvml)
    monkeypatch.setattr("ledger.record.capture.gpu_time._LOOK_S", 0.05)
    facts: list[GpuTimeUsed] = []
    meter = Meter(facts.append, Speakers(tmp_path, "run"), step=lambda: 7)
    _await(facts, 1)
    device.millijoules, device.contexts = 9_000, {os.getpid(): 3000}
    _await(facts, len(facts) + 2)
    device.contexts = {}
    facts += meter.stop()
    gpu = [fact for fact in facts if fact.kind == "gpu"]
    assert {(fact.model, fact.uuid, fact.index, fact.step, fact.utilisation) for fact in gpu} == {
        ("NVIDIA H100", "GPU-1", 0, 7, 0.5)
    }
    assert sum(fact.energy_joules or 0 for fact in gpu) == pytest.approx(4.0)
    assert max(fact.memory_bytes or 0 for fact in gpu) == 3000
    spans = sorted((fact.started_at, fact.started_at + fact.seconds) for fact in facts)
    assert all(begin >= end - 0.01 for (_, end), (begin, _) in itertools.pairwise(spans))


def _await(facts: list[GpuTimeUsed], count: int) -> None:
    deadline = time.monotonic() + SOON_S
    while len(facts) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(facts) >= count
