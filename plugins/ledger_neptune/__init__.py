"""Runs as Neptune's offline runs. Neptune's own service was closed on 5 March 2026."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.hooks.folders import only_folder_of
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import Settings
    from ledger.hooks.ports import Mirror

_MEND: Final = (
    'the one setting of [plugin.neptune] is directory = "DIR", where .neptune/offline goes; '
    "Neptune's client takes its server from the variable NEPTUNE_API_TOKEN and from nowhere else: "
    "`neptune sync --path DIR --project WORKSPACE/PROJECT --offline-only` uploads there what is in DIR"
)


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror of this plugin, ``neptune``."""
    from ledger_neptune.mirror import NeptuneMirror

    return [NeptuneMirror(only_folder_of(settings, "neptune", _MEND))]
