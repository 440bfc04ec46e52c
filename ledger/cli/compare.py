"""``ledger compare``: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli import render
from ledger.cli.options import command, run_argument
from ledger.cli.render import Column
from ledger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ledger.cli.session import Session
    from ledger.read.gpu_hours import DeviceHours
    from ledger.read.state import RunState

Rows = dict[str, list[Any]]
"""A value for each run, in the order in which the runs were named; None where a run has none."""


@command(
    "compare",
    example="ledger compare run-1 run-2\nledger compare run-1 run-2 --plot curves.svg\n"
    "ledger compare run-1 run-2 --json | jq .config",
    json="the comparison",
)
@run_argument("names", nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--all", "everything", is_flag=True, help="Also what is the same in all of them.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    help="Also draw the metrics as curves.",
)
def compare(session: Session, names: tuple[str, ...], everything: bool, plot: Path | None) -> None:
    """Lay runs side by side.

    What differs in configuration, data and code; the last, lowest and highest value of each metric.
    """
    from ledger.cli.session import find_run

    if len(names) < 2:
        raise UsageError("one run has nothing to be compared with", mend="name two runs or more")
    if plot and plot.suffix != ".svg":
        raise UsageError(f"{plot} does not name an SVG picture", mend=f"name it {plot.with_suffix('.svg')}")
    with session.reading() as book:
        states = [book.run(find_run(book, name)) for name in names]
        metrics = {kind: _rows(states, facts) for kind, facts in _METRICS.items()}
        spent = {run: book.gpu_hours(where=f"id = {run}") for run in {state.id for state in states}}
        if plot:
            _draw(states, plot)
    sections = {name: _rows(states, facts) for name, facts in _SECTIONS.items()}
    sections["run"] |= _device_hours([spent[state.id] for state in states])
    if not everything:
        sections |= {name: _differing(sections[name]) for name in ("config", "data", "code")}
    if session.json:
        render.json_line({"runs": [state.name for state in states], **sections, "metrics": metrics})
    else:
        _print(states, sections, metrics)


def _print(states: Sequence[RunState], sections: Mapping[str, Rows], metrics: Mapping[str, Rows]) -> None:
    table: list[list[str]] = []
    for section, rows in sections.items():
        if not rows:
            table.append([section, *["the same"] * len(states)])
        for label, values in rows.items():
            words, show = _LABELS.get(label, (label if section == "run" else f"{section} {label}", render.exact))
            table.append([words, *(render.NOTHING if value is None else show(value) for value in values)])
    for name in metrics["last"]:
        for kind, rows in metrics.items():
            table.append([f"{name} {kind}", *map(render.number, rows[name])])
    render.table([Column(""), *(Column(state.name, whole=False) for state in states)], table)


def _draw(states: Sequence[RunState], file: Path) -> None:
    from ledger.read.chart import chart

    file.write_text(chart({state.name: state.effective_series for state in states}), encoding="utf-8")
    render.talk(f"drew {file}")


def _differing(rows: Rows) -> Rows:
    return {label: values for label, values in rows.items() if any(value != values[0] for value in values[1:])}


def _rows(states: Iterable[RunState], facts: Callable[[RunState], Mapping[str, Any]]) -> Rows:
    """Facts of each run by label, the labels in the order in which they come up."""
    found = [facts(state) for state in states]
    labels = dict.fromkeys(label for each in found for label in each)
    return {label: [each.get(label) for each in found] for label in labels}


def _device_hours(spent: Sequence[Sequence[DeviceHours]]) -> Rows:
    """Rows of those kinds of devices that any of the runs held; of each run one account, if any."""
    found = {
        "gpu_hours": [sum(hours[0].gpu.values()) if hours else None for hours in spent],
        "cpu_hours": [sum(hours[0].cpu.values()) if hours else None for hours in spent],
    }
    return {label: hours for label, hours in found.items() if any(hours)}


def _run(state: RunState) -> dict[str, Any]:
    ended_at = state.attempt.ended_at
    return {
        "kind": state.started.kind,
        "status": state.status,
        "started_at": state.started_at,
        "seconds": render.between(state.started_at, ended_at) if ended_at else None,
        "step": state.last_step,
        "processes": state.world.processes,
        "seed": state.seed,
    }


def _data(state: RunState) -> dict[str, Any]:
    return {name: committed.commit for name, committed in state.data.items()}


def _code(state: RunState) -> dict[str, Any]:
    code = state.code
    return {"commit": code.commit, "dirty": code.dirty, "tree": code.tree} if code else {}


_SECTIONS: Final[dict[str, Callable[[RunState], Mapping[str, Any]]]] = {
    "run": _run,
    "config": lambda state: render.flat(state.config),
    "data": _data,
    "code": _code,
}
_METRICS: Final[dict[str, Callable[[RunState], Mapping[str, Any]]]] = {
    "last": lambda state: state.last_metrics,
    "lowest": lambda state: {name: state.figures.metrics[name].lowest for name in state.metrics},
    "highest": lambda state: {name: state.figures.metrics[name].highest for name in state.metrics},
}
_LABELS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "started_at": ("started", render.moment),
    "seconds": ("took", render.duration),
    "step": ("step", render.number),
    "gpu_hours": ("GPU hours", render.number),
    "cpu_hours": ("CPU hours", render.number),
    "commit": ("commit", render.short),
    "dirty": ("uncommitted changes", lambda dirty: "yes" if dirty else "no"),
    "tree": ("code tree", render.short),
}
"""How a fact is called and shown where that is not as it is."""
