"""``ledger gpu-hours``: where device time went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli import render
from ledger.cli.options import command
from ledger.cli.render import Column

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.cli.session import Session
    from ledger.read.gpu_hours import DeviceHours

_HELP: Final = """Tell where device time went, and what it cost.

It was useful, or lost to crashes, or spent on replays. Time is counted for each rank and device that it holds. What a
rank without a GPU spends is CPU time, and is never added to that of GPUs. Lost is what an attempt that died did after
the checkpoint that training went on from.

With prices in ledger.toml it is also told what that cost:

\b
  [prices]
  currency = "EUR"
  "H100" = 2.5     for an hour of a device whose model has this in its name
  cpu = 0.05       for an hour of a rank without a GPU
"""
_SHOWN: Final = 5


@command(
    "gpu-hours",
    help=_HELP,
    example="ledger gpu-hours --by project\n"
    "ledger gpu-hours --where 'started > 2026-01-31 and tag = sweep'\n"
    "ledger gpu-hours --by user --json | jq '[.name, .gpu.lost]'",
    json="one group a line",
)
@click.option(
    "--by",
    type=click.Choice(["run", "user", "project", "model"]),
    default="run",
    show_default=True,
    help="What to add up by; the model is the task of a recipe, else the program that was started.",
)
@click.option("-w", "--where", metavar="CONDITION", help="Only runs for which this is true, as in `ledger ls`.")
def gpu_hours(session: Session, by: str, where: str | None) -> None:
    """Print what was accounted for."""
    from ledger.read.gpu_hours import DeviceHours

    with session.reading() as book:
        groups = book.gpu_hours(by=by, where=where)  # type: ignore[arg-type]  # click has checked it
    currency = session.settings.prices.currency
    if session.json:
        for group in groups:
            render.json_line(hours_facts(group, currency))
        return
    if not groups:
        render.talk("no run has any device time on record" if where is None else "no run that fits has any device time")
        return
    total = DeviceHours("all")
    for group in groups:
        total.add(group)
    shown = [*groups, total] if len(groups) > 1 else groups
    render.table(_columns(by, currency), [_row(group) for group in shown])
    if currency and total.unpriced:
        names = sorted(total.unpriced)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        render.talk(f"without a price in ledger.toml: {', '.join(names[:_SHOWN])}{more}")


def hours_facts(group: DeviceHours, currency: str) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "name": group.name,
        "gpu": {"hours": sum(group.gpu.values()), **group.gpu},
        "cpu": {"hours": sum(group.cpu.values()), **group.cpu},
        "energy_joules": group.energy_joules,
        "cost": group.cost,
        "currency": currency or None,
        "unpriced": sorted(group.unpriced),
    }


def said(group: DeviceHours, currency: str) -> list[str]:
    """The same in words, a line for each kind of device."""
    lines = []
    for kind, hours in (("GPU", group.gpu), ("CPU", group.cpu)):
        if sum(hours.values()):
            parts = [f"{use} {_hours(value)}" for use, value in hours.items() if value]
            lines.append(f"{_hours(sum(hours.values()))} {kind} hours: {', '.join(parts)}")
    extra = [f"{_energy(group)} kWh" if group.energy_joules else "", f"{_cost(group)} {currency}".strip()]
    if lines and any(extra):
        lines[-1] = render.DOT.join((lines[-1], *filter(None, extra)))
    return lines


def _columns(by: str, currency: str) -> list[Column]:
    titles = ("gpu hours", "useful", "lost", "replays", "cpu hours", "useful", "lost", "replays", "kWh")
    return [Column(by), *(Column(title, right=True) for title in titles), Column(currency or "cost", right=True)]


def _row(group: DeviceHours) -> list[str]:
    # Without a name, as of runs in no project, it is still a row of its own.
    return [group.name or render.NOTHING, *_split(group.gpu), *_split(group.cpu), _energy(group), _cost(group)]


def _split(hours: Mapping[Any, float]) -> list[str]:
    total = sum(hours.values())
    return [_hours(value) if total else "" for value in (total, *hours.values())]


def _hours(value: float) -> str:
    return "0" if not value else f"{value:,.2f}" if value >= 1 else f"{value:.2g}"


def _energy(group: DeviceHours) -> str:
    return "" if group.energy_joules is None else f"{group.energy_joules / 3.6e6:.3g}"


def _cost(group: DeviceHours) -> str:
    return "" if group.cost is None else f"{group.cost:,.2f}"
