"""Checkpoints at any path or fsspec URL, and data at any URL. See ``ledger_fsspec.store``, ``ledger_fsspec.data``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from ledger import ObjectStore, Settings
    from ledger.hooks.ports import CheckpointStore, DataSource


@hookimpl(trylast=True)
def open_checkpoint_store(uri: str, settings: Settings) -> CheckpointStore | None:
    """Answer to plain paths and to every scheme that fsspec knows, after all other plugins were asked."""
    from ledger_fsspec.store import open_store

    return open_store(uri)


@hookimpl(trylast=True)
def open_data_source(uri: str, settings: Settings, objects: ObjectStore) -> DataSource | None:
    """Answer to every URL that fsspec can read from, after all other plugins were asked."""
    from ledger_fsspec.asked import is_remote

    if not is_remote(uri):
        return None
    from ledger_fsspec.data import FsspecSource

    return FsspecSource(objects, settings.scratch / "fsspec")
