"""Runs as Neptune's offline runs, or on a Neptune server. Neptune's own service was closed on 5 March 2026."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.hooks.folders import folder_of
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import Settings
    from ledger.hooks.ports import Mirror


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror of this plugin, ``neptune``."""
    from ledger_neptune.mirror import OfflineMirror, OnlineMirror
    from ledger_neptune.place import place_in

    place = place_in(settings.plugin_settings.get("neptune", {}))
    directory = folder_of(settings, "neptune")
    return [OnlineMirror(directory, place) if place else OfflineMirror(directory)]
