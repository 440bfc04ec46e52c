"""Delta Lake tables, pinned to a version. See ``ledger_delta.source``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from ledger import ObjectStore, Settings
    from ledger.hooks.ports import DataSource


@hookimpl
def open_data_source(uri: str, settings: Settings, objects: ObjectStore) -> DataSource | None:
    """Answer to ``delta+…:`` URIs."""
    if not uri.lower().startswith("delta+"):
        return None
    from ledger_delta.source import DeltaSource

    return DeltaSource(objects)
