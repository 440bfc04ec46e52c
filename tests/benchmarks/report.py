"""Tables of figures, as text for the terminal and as Markdown for the docs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.contestant import MODULES, OURS, find
from tests.benchmarks.targets import judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.benchmarks.figures import Quantity, Table
    from tests.benchmarks.targets import Judged

FIGURES: Final = (
    "<!-- figures: written by `make bench ARGS=--docs`, not by hand -->",
    "<!-- end of figures -->",
)
"""The marks between which a report stands in the docs."""
GPU: Final = (
    "<!-- figures of a GPU: written by `make bench-gpu ARGS=--docs`, not by hand -->",
    "<!-- end of figures of a GPU -->",
)


@dataclass
class Report:
    """One benchmark, done so far."""

    date: str
    """UTC day."""
    scale: float
    """Below 1 for a trial, which says nothing about the targets."""
    rounds: int
    machine: Mapping[str, str]
    tables: list[Table] = field(default_factory=list)
    minutes: float = 0.0

    def to_json(self) -> str:
        """All samples and the machine."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def text(self) -> str:
        """For the terminal."""
        parts = [f"{name}: {value}" for name, value in self.machine.items()]
        for table in self.tables:
            parts += ["", f"{table.title}: {table.about}", "", *_aligned(_cells(table))]
        if self.scale >= 1:
            parts += ["", "Targets", "", *_aligned(_target_cells(list(judge(self.tables))))]
        return "\n".join(parts)

    def markdown(self) -> str:
        """For the docs."""
        parts = [
            f"Measured on {self.date} in {self.minutes:.0f} minutes; rounds: {self.rounds}, fewer for a tool that "
            "needs a minute for each. Medians; in brackets how many times worse than Ledger (below 1: better).",
            "",
            *_piped([["", ""], *([name, value] for name, value in self.machine.items())]),
        ]
        if self.scale >= 1:
            parts += ["", "## Targets", "", *_piped(_target_cells(list(judge(self.tables))))]
        for table in self.tables:
            parts += ["", f"## {table.title}", "", table.about, "", *_piped(_cells(table))]
        return "\n".join(parts)

    def write_into(self, page: Path, marks: tuple[str, str] = FIGURES) -> None:
        """Put the Markdown between the two marks of ``page``, and leave the rest of it alone."""
        begin, end = marks
        before, _, rest = page.read_text().partition(begin)
        _, _, after = rest.partition(end)
        page.write_text(f"{before}{begin}\n\n{self.markdown()}\n\n{end}{after}")


def shown(value: float | None, unit: str) -> str:
    """Three figures that matter, with the unit, large counts in thousands."""
    if value is None:
        return "–"
    number = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{number} {unit}".strip()


def title(row: str) -> str:
    """What a row is called: a contestant's name, or the row's own."""
    return find(row).name if row in MODULES else row


def _cells(table: Table) -> list[list[str]]:
    rows = [["", *(quantity.name for quantity in table.quantities)]]
    for row in (*table.samples, *table.reasons):
        if row in table.reasons:
            rows.append([title(row), table.reasons[row], *[""] * (len(table.quantities) - 1)])
        else:
            rows.append([title(row), *(_cell(table, row, quantity) for quantity in table.quantities)])
    return rows


def _cell(table: Table, row: str, quantity: Quantity) -> str:
    figure = shown(table.median(row, quantity.name), quantity.unit)
    ratio = None if row == OURS else table.ratio(row, quantity, OURS)
    return figure if ratio is None else f"{figure} ({shown(ratio, '')}×)"


def _target_cells(judged: Sequence[Judged]) -> list[list[str]]:
    return [["target", "bound", "reached", ""], *(_target_row(item) for item in judged)]


def _target_row(item: Judged) -> list[str]:
    target = item.target
    what = f"{target.measure}: {target.quantity}" + (f", {target.row}" if target.row != OURS else "")
    sign = "≤" if item.better == "lower" else "≥"
    unit = f"× {title(target.against)}" if target.against else item.quantity.unit
    verdict = "met" if item.met else "not measured" if item.missed_by is None else f"missed by {item.missed_by:.2f}×"
    if not item.met and item.reached is not None and item.missed_by is None:
        verdict = "missed"
    return [what, f"{sign} {shown(target.bound, unit)}", shown(item.reached, unit), verdict]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    # A reason runs over the columns that it leaves empty, and does not widen the first of them.
    widths = [
        max((len(row[i]) for row in rows if any(row[2:]) or len(row) < 3), default=widths[i]) if i else widths[0]
        for i in range(len(widths))
    ]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _piped(rows: list[list[str]]) -> list[str]:
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [_line(head), _line(["---"] * len(head)), *map(_line, body)]


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(cells)} |"
