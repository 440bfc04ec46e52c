"""Checkpoints at any path or fsspec URL. See ``ledger_fsspec.store``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.hooks.specs import hookimpl

if TYPE_CHECKING:
    from ledger import Settings
    from ledger.hooks.ports import CheckpointStore


@hookimpl(trylast=True)
def open_checkpoint_store(uri: str, settings: Settings) -> CheckpointStore | None:
    """Answer to plain paths and to every scheme that fsspec knows, after all other plugins were asked."""
    from ledger_fsspec.store import open_store

    return open_store(uri)
