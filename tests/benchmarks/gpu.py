"""``python -m tests.benchmarks.gpu``, which `make bench-gpu` calls on a machine with a GPU.

Steps with and without determinism, records and fingerprints; checkpoints beside torch's own; whether kill, resume and
replay are exact. ``--docs`` puts the tables into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks.__main__ import PAGE
from tests.benchmarks.bench import Bench
from tests.benchmarks.contestant import OURS
from tests.benchmarks.machine import describe
from tests.benchmarks.report import GPU, Report

if TYPE_CHECKING:
    from collections.abc import Sequence

MEASURES: Final = ("cuda", "checkpoint", "exact")


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure, and tell."""
    asked = _parse(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    machine = _gpu(trial=asked.scale < 1) | describe([OURS], asked.out)
    report = Report(datetime.now(UTC).date().isoformat(), asked.scale, asked.rounds, machine)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=asked.out) as directory:
        bench = Bench([OURS], asked.rounds, asked.scale, Path(directory).resolve(), _say)
        for name in MEASURES:
            report.tables.append(importlib.import_module(f"tests.benchmarks.measures.{name}").measure(bench))
            report.minutes = (time.monotonic() - began) / 60
            (asked.out / "figures-gpu.json").write_text(report.to_json())
    if asked.docs:
        report.write_into(PAGE, GPU)
    print(report.text())
    return report


def _gpu(*, trial: bool) -> dict[str, str]:
    """The device and what drives it; a trial may do without."""
    import torch

    if not torch.cuda.is_available():
        if not trial:
            raise SystemExit("no GPU that PyTorch can use; `--scale 0.05` tries the script on the CPU")
        return {"GPU": "none: a trial on the CPU"}
    return {
        "GPU": torch.cuda.get_device_name(),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",  # type: ignore[no-untyped-call]
    }


def _say(what: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description="What Ledger costs on a GPU.")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; medians count (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="less work, for a trial: 0.05 (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="directory (default: %(default)s)")
    parser.add_argument("--docs", action="store_true", help="put the result into docs/benchmarks.md")
    asked = parser.parse_args(arguments)
    if asked.docs and asked.scale < 1:
        parser.error("--docs takes the whole benchmark: leave out --scale")
    return asked


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
