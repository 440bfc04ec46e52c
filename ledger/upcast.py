"""Payloads of older versions of an event type, made into those of the newest. Pure; stored bytes stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def upcast(type: str, schema_version: int, payload: dict[str, Any]) -> dict[str, Any]:
    """What an event of this version would be in the newest one."""
    while step := _STEPS.get((type, schema_version)):
        payload, schema_version = step(payload), schema_version + 1
    return payload


def _process_started_is_text(payload: dict[str, Any]) -> dict[str, Any]:
    """It was a Unix time, by which no process is known once a clock was set. As text it is the start of none here."""
    process = payload["process"]
    return {**payload, "process": {**process, "started": repr(process["started"])}}


_STEPS: Final[Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]]] = {
    ("run.started", 1): _process_started_is_text,
    ("training.resumed", 1): _process_started_is_text,
}
"""By type and version, what leads to the next version."""
