"""Data that DVC tracks, pinned to a commit of their git repository. See ``ledger_dvc.source``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from ledger import ObjectStore, Settings
    from ledger.hooks.ports import DataSource


@hookimpl
def open_data_source(uri: str, settings: Settings, objects: ObjectStore) -> DataSource | None:
    """Answer to ``dvc:`` and ``dvc+…:`` URIs."""
    if not uri.lower().startswith(("dvc:", "dvc+")):
        return None
    from ledger_dvc.source import DvcSource

    return DvcSource(objects)
