"""Runs as files of JSON lines: the reference of a mirror. See ``ledger_jsonl.mirror``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.errors import InvalidSettings
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ledger import Settings
    from ledger.hooks.ports import Mirror

_DIRECTORY: Final = "directory"


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror of this plugin, ``jsonl``."""
    from ledger_jsonl.mirror import JsonLines

    return [JsonLines(_directory(settings))]


def _directory(settings: Settings) -> Path:
    table = settings.plugin_settings.get("jsonl", {})
    for key, value in table.items():
        if key != _DIRECTORY or not isinstance(value, str) or not value:
            raise InvalidSettings(
                f"ledger.toml: plugin.jsonl.{key} = {value!r} is not understood",
                mend='the one setting of [plugin.jsonl] is directory = "DIR", where the files go',
            )
    return settings.base / str(table[_DIRECTORY]) if table else settings.scratch / "jsonl"
