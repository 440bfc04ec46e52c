"""The DeepSpeed engine by itself, on gloo: what it trains, saves, loads and refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("deepspeed_worker.py")
PATIENCE_S = 240
HALF, WHOLE = 3, 6


@dataclass(frozen=True)
class Layout:
    """ZeRO on some processes."""

    zero: int
    processes: int = 2
    pipeline: int = 1
    precision: str = "float32"

    @property
    def asked(self) -> dict[str, Any]:
        parallel = {"processes": self.processes, "data": self.processes // self.pipeline, "pipeline": self.pipeline}
        return {"options": {"zero": self.zero}, "precision": self.precision, "parallel": parallel, "accumulation": 2}

    def __str__(self) -> str:
        return f"zero{self.zero}-{self.processes}x-pipeline{self.pipeline}-{self.precision}"


_RESIZED = (
    (Layout(3), 1e-6),
    (Layout(1, processes=4, pipeline=2), 1e-6),
    (Layout(0), 1e-6),
    (Layout(1), 1e-6),
    (Layout(2), 1e-6),
    (Layout(1, precision="bfloat16"), 1e-3),
    (Layout(3, precision="bfloat16"), 1e-3),
)


def train(out: Path, layout: Layout, **asked: Any) -> dict[str, Any]:
    """Train, and return what rank 0 told."""
    done = launched(out, layout, **asked)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads((out / "told.json").read_text())
    return told


def launched(out: Path, layout: Layout, **asked: Any) -> subprocess.CompletedProcess[str]:
    out.mkdir()
    words = [str(WORKER), json.dumps(layout.asked | {"out": str(out)} | asked)]
    if layout.processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={layout.processes}"]
        words = [*launcher, *words]
    environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def digests(directory: Path) -> dict[str, str]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def thorough(*layouts: Layout) -> list[Any]:
    return [pytest.param(layout, marks=pytest.mark.thorough) for layout in layouts]


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(Layout(1, pipeline=2), marks=pytest.mark.slow),
        *thorough(
            Layout(3, precision="bfloat16"),
            Layout(0),
            Layout(1),
            Layout(2),
            Layout(3),
            Layout(0, precision="bfloat16"),
            Layout(1, precision="bfloat16"),
            Layout(2, precision="bfloat16"),
            Layout(0, pipeline=2),
            Layout(1, processes=4, pipeline=2),
            Layout(1, pipeline=2, precision="bfloat16"),
        ),
    ],
    ids=str,
)
def test_resumed_it_equals_straight_through_in_every_bit(tmp_path: Path, layout: Layout) -> None:
    straight = train(tmp_path / "straight", layout, steps=WHOLE, save=[HALF, WHOLE])
    load = str(tmp_path / "straight" / f"step-{HALF}")
    resumed = train(tmp_path / "resumed", layout, steps=WHOLE, save=[WHOLE], load=load)

    assert resumed["metrics"] == {step: found for step, found in straight["metrics"].items() if int(step) > HALF}
    assert resumed["evaluated"] == straight["evaluated"]
    assert resumed["digests"] == straight["digests"]
    assert digests(tmp_path / "resumed" / f"step-{WHOLE}") == digests(tmp_path / "straight" / f"step-{WHOLE}")

    assert straight["undisturbed"]
    parameters = {name.partition("[")[0] for held, _ in straight["digests"] for name in held}
    assert set(straight["exported"]) == parameters
    assert straight["exported"]["head.weight"][1] == [9, 16]
    assert straight["topology"]["mesh"] == {
        "pipeline": layout.pipeline,
        "data": layout.processes // layout.pipeline,
        "shard": 1,
        "tensor": 1,
    }
    assert straight["topology"]["deepspeed"]["settings"]["zero_optimization"]["stage"] == layout.zero


@pytest.mark.thorough
@pytest.mark.parametrize(
    "layout", [Layout(0), Layout(1), Layout(2), Layout(3), Layout(0, pipeline=2), Layout(1, pipeline=2)], ids=str
)
def test_it_trains_what_one_process_trains(tmp_path: Path, layout: Layout) -> None:
    alone = train(tmp_path / "alone", Layout(0, processes=1), steps=WHOLE, dropout=0.0)
    together = train(tmp_path / "together", layout, steps=WHOLE, dropout=0.0)
    for step, metrics in alone["metrics"].items():
        told = together["metrics"][step]
        assert told["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
        # The norm shows how far the parameters are apart by now: sums in another order, and Adam's square roots.
        assert told == pytest.approx(metrics, rel=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize(("layout", "bound"), _RESIZED, ids=str)
def test_it_goes_on_with_more_and_with_fewer_processes(tmp_path: Path, layout: Layout, bound: float) -> None:
    straight = train(tmp_path / "straight", layout, steps=WHOLE, dropout=0.0, save=[HALF])
    load = str(tmp_path / "straight" / f"step-{HALF}")
    others = (2,) if layout.pipeline > 1 else (4, 1)
    for processes in others:
        other = Layout(layout.zero, processes, layout.pipeline, layout.precision)
        out = tmp_path / f"on-{processes}"
        resumed = train(out, other, steps=WHOLE, dropout=0.0, load=load, same_world=False)
        for step in map(str, range(HALF + 1, WHOLE + 1)):
            assert resumed["metrics"][step]["loss"] == pytest.approx(straight["metrics"][step]["loss"], rel=bound)
    assert [path.name for path in (tmp_path / "straight").iterdir() if "universal" in path.name] == []


@pytest.mark.thorough
@pytest.mark.slow
def test_hosts_that_share_a_checkpoint_convert_it_once(tmp_path: Path) -> None:
    """Two launchers, each with one process, as on two hosts with a common file system."""
    saved = train(tmp_path / "saved", Layout(1, processes=1), steps=WHOLE, dropout=0.0, save=[HALF])
    asked = Layout(1).asked | {"out": str(tmp_path), "load": str(tmp_path / "saved" / f"step-{HALF}")}
    words = [str(WORKER), json.dumps(asked | {"steps": WHOLE, "dropout": 0.0, "same_world": False})]
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "torch.distributed.run", *meeting, f"--node-rank={rank}", *words],
                    cwd=ROOT,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
            )
            for rank in range(2)
        ]
        deadline, converting = time.monotonic() + PATIENCE_S, set()
        while any(host.poll() is None for host in hosts) and time.monotonic() < deadline:
            converting |= {path.name for path in (tmp_path / "saved").iterdir() if path.suffix == ".partial"}
            time.sleep(0.01)
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0]
    assert len(converting) == 1
    assert [path.name for path in (tmp_path / "saved").iterdir() if path.name != f"step-{HALF}"] == ["told.json"]
    resumed = json.loads((tmp_path / "told.json").read_text())["metrics"]
    for step in map(str, range(HALF + 1, WHOLE + 1)):
        assert resumed[step]["loss"] == pytest.approx(saved["metrics"][step]["loss"], rel=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_buckets_that_fit_the_model_change_no_bit(tmp_path: Path, zero: int) -> None:
    size = 50_000_000
    own = tmp_path / "large.json"
    own.write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": size, "allgather_bucket_size": size}}))
    fitting = train(tmp_path / "fitting", Layout(zero), steps=HALF)
    large = train(tmp_path / "large", Layout(zero), steps=HALF, options={"zero": zero, "config": str(own)})

    def bucket(told: dict[str, Any]) -> int:
        return int(told["topology"]["deepspeed"]["settings"]["zero_optimization"]["reduce_bucket_size"])

    assert bucket(fitting) < bucket(large) == size
    assert (large["metrics"], large["digests"]) == (fitting["metrics"], fitting["digests"])


@pytest.mark.slow
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    alone = Layout(0, processes=1)
    train(tmp_path / "saved", alone, steps=1, save=[1])
    load = str(tmp_path / "saved" / "step-1")
    wider = launched(tmp_path / "wider", alone, steps=2, load=load, n_embd=32)
    assert wider.returncode == 4
    assert (
        "refused: the checkpoint is of another model: 29 tensors differ; blocks.0.attend.bias is [48]" in wider.stderr
    )
    split = launched(tmp_path / "split", Layout(1, processes=1), steps=2, load=load)
    assert split.returncode == 4
    assert "refused: the checkpoint is of zero 0, this training of zero 1" in split.stderr


@pytest.mark.slow
def test_a_full_disk_is_told_with_the_mend(tmp_path: Path) -> None:
    full = launched(tmp_path / "out", Layout(1, processes=1), steps=1, save=[1], room=10_000)
    assert full.returncode == 4
    assert re.search(
        r"^refused: cannot write \S+\.pt: File too large\nmend: make room there", full.stderr, re.MULTILINE
    )
