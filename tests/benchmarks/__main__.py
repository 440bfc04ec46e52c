"""``python -m tests.benchmarks``, which `make bench` calls: the same work side by side, in one run.

Figures, table and picture go to ``--out``; ``--docs`` also puts them into docs/benchmarks.md.
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

from tests.benchmarks import measures
from tests.benchmarks.bench import Bench
from tests.benchmarks.contestant import MODULES, find
from tests.benchmarks.machine import describe
from tests.benchmarks.plot import draw
from tests.benchmarks.process import ROOT
from tests.benchmarks.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

PAGE: Final = ROOT / "docs" / "benchmarks.md"
PICTURE: Final = ROOT / "docs" / "benchmarks.svg"


def main(arguments: Sequence[str] | None = None) -> Report:
    """Measure what was asked for, and tell."""
    asked = _parse(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    report = Report(datetime.now(UTC).date().isoformat(), asked.scale, asked.rounds, describe(asked.keys, asked.out))
    with tempfile.TemporaryDirectory(prefix="bench-", dir=asked.out) as directory:
        bench = Bench(asked.keys, asked.rounds, asked.scale, Path(directory).resolve(), _say)
        for name in asked.only:
            measure = importlib.import_module(f"tests.benchmarks.measures.{name}").measure
            report.tables.append(measure(bench))
            report.minutes = (time.monotonic() - began) / 60
            # After each measure: whoever stops a long benchmark keeps what it has found so far.
            (asked.out / "figures.json").write_text(report.to_json())
            (asked.out / "benchmarks.md").write_text(report.markdown() + "\n")
    draw(report.tables, asked.out / "benchmarks.svg")
    if asked.docs:
        report.write_into(PAGE)
        draw(report.tables, PICTURE)
    print(report.text())
    return report


def _say(what: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="The same work by Ledger, by other tools and by two floors, side by side. "
        "Call it as: make bench ARGS='--only log,kill'",
        epilog="\n".join(
            [
                "measures:",
                *(f"  {name:13} {what}" for name, what in measures.NAMES.items()),
                "contestants:",
                *(f"  {key:13} {find(key).name}" for key in MODULES),
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    every, everyone = list(measures.NAMES), list(MODULES)
    parser.add_argument("--only", type=_choice(every), default=every, metavar="MEASURE,…", help="not all of them")
    parser.add_argument(
        "--with", dest="keys", type=_choice(everyone), default=everyone, metavar="CONTESTANT,…", help="not all of them"
    )
    parser.add_argument("--rounds", type=int, default=5, help="repetitions; medians count (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="less work, for a trial: 0.01 (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="directory (default: %(default)s)")
    parser.add_argument("--docs", action="store_true", help="put the result into docs/benchmarks.md")
    asked = parser.parse_args(arguments)
    if asked.docs and (asked.only != every or asked.keys != everyone or asked.scale < 1):
        parser.error("--docs takes the whole benchmark: leave out --only, --with and --scale")
    return asked


def _choice(known: Collection[str]) -> Callable[[str], list[str]]:
    """Parser of comma-separated names out of ``known``; the order is that of ``known``."""

    def parse(text: str) -> list[str]:
        asked = text.split(",")
        if unknown := [name for name in asked if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(known)}")
        return [name for name in known if name in asked]

    return parse


if __name__ == "__main__":
    # Leaves as on Ctrl-C, so that no database server stays behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
