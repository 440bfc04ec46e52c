"""The figures as a picture: one panel for each quantity worth one, logarithmic, Ledger in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.benchmarks.contestant import OURS
from tests.benchmarks.report import shown, title

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.benchmarks.figures import Quantity, Table

PANELS: Final = (
    ("log", "p50"),
    ("log", "p99"),
    ("log", "points/s with finish"),
    ("log", "bytes/point"),
    ("kill", "lost, burst"),
    ("kill", "lost, 1,000 calls/s"),
    ("series", "points/s read"),
    ("training", "overhead"),
    ("start", "help"),
)
ACROSS: Final = 3


def draw(tables: Sequence[Table], path: Path) -> None:
    """Write the picture; its format is that of the suffix of ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ledger"  # the same figures, the same bytes
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text, a tenth of the size
    from matplotlib import pyplot

    found = {table.measure: table for table in tables}
    panels = [
        (found[measure], quantity)
        for measure, name in PANELS
        if measure in found
        for quantity in found[measure].quantities
        if quantity.name == name and found[measure].samples
    ]
    if not panels:
        return
    down = -(-len(panels) // ACROSS)
    figure, axes = pyplot.subplots(down, ACROSS, figsize=(5 * ACROSS, 2.8 * down), squeeze=False, layout="constrained")
    for place, (table, quantity) in zip(axes.flat, panels, strict=False):
        _panel(place, table, quantity)
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _panel(axes: Axes, table: Table, quantity: Quantity) -> None:
    rows = [row for row in table.samples if table.median(row, quantity.name) is not None]
    values = [table.median(row, quantity.name) or 0.0 for row in rows]
    bars = axes.barh(
        [title(row) for row in rows], values, color=["#c2410c" if row == OURS else "#94a3b8" for row in rows]
    )
    axes.bar_label(bars, [f" {shown(value, quantity.unit)}" for value in values], fontsize=7)
    axes.set_xscale("symlog" if min(values) <= 0 else "log")
    axes.margins(x=0.3)
    axes.invert_yaxis()
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{table.measure}: {quantity.name} ({quantity.better} is better)", fontsize=9)
