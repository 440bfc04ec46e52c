"""Runs as Neptune's offline runs. Neptune's own service was closed on 5 March 2026."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.errors import InvalidSettings
from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import Settings
    from ledger.hooks.ports import Mirror

_DIRECTORY: Final = "directory"
_MEND: Final = (
    'the one setting of [plugin.neptune] is directory = "DIR", where .neptune/offline goes; '
    "Neptune's client takes its server from the variable NEPTUNE_API_TOKEN and from nowhere else: "
    "`neptune sync --path DIR --project WORKSPACE/PROJECT --offline-only` uploads there what is in DIR"
)


@hookimpl
def open_mirrors(settings: Settings) -> Sequence[Mirror]:
    """The one mirror of this plugin, ``neptune``."""
    from ledger_neptune.mirror import NeptuneMirror

    table = settings.plugin_settings.get("neptune", {})
    for key, value in table.items():
        if key != _DIRECTORY:  # its value is not shown: it may be a token
            raise InvalidSettings(f"ledger.toml: plugin.neptune.{key} is no setting", mend=_MEND)
        if not isinstance(value, str) or not value:
            raise InvalidSettings(f"ledger.toml: plugin.neptune.{key} = {value!r} is not understood", mend=_MEND)
    directory = settings.base / table[_DIRECTORY] if _DIRECTORY in table else settings.scratch / "neptune"
    return [NeptuneMirror(directory)]
