"""Data in local files, pinned by the digest of their whole content. See ``ledger_local.source``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from ledger import ObjectStore, Settings
    from ledger.hooks.ports import DataSource


@hookimpl
def open_data_source(uri: str, settings: Settings, objects: ObjectStore) -> DataSource | None:
    """Answer to ``file:`` URIs."""
    if not uri.lower().startswith("file:"):
        return None
    from ledger_local.source import LocalSource

    return LocalSource(objects, settings)
