"""Runs as files of JSON lines: the reference of a mirror. See ``ledger_jsonl.mirror``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.hooks.folders import only_folder_of
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import Settings
    from ledger.hooks.ports import Mirror

_MEND: Final = 'the one setting of [plugin.jsonl] is directory = "DIR", where the files go'


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror of this plugin, ``jsonl``."""
    from ledger_jsonl.mirror import JsonLines

    return [JsonLines(only_folder_of(settings, "jsonl", _MEND))]
