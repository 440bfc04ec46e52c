"""Ledger: an event-sourced reproducibility ledger for ML training.

Training code holds a :class:`Run`; the run appends facts to a log; everything else reads the log.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ledger.book import Book, open_ledger
    from ledger.checkpoints.background import BackgroundKeeper
    from ledger.checkpoints.keeper import Keeper
    from ledger.checkpoints.policy import Policy
    from ledger.errors import LedgerError
    from ledger.hooks.specs import hookimpl
    from ledger.objects.hashing import Hasher
    from ledger.objects.manifest import Entry, Manifest
    from ledger.objects.store import ObjectStore
    from ledger.read.state import RunState
    from ledger.record.data import Data
    from ledger.record.run import Run, current_run, start_run
    from ledger.settings import Settings, find_settings

__version__ = "0.1.0"

__all__ = [
    "BackgroundKeeper",
    "Book",
    "Data",
    "Entry",
    "Hasher",
    "Keeper",
    "LedgerError",
    "Manifest",
    "ObjectStore",
    "Policy",
    "Run",
    "RunState",
    "Settings",
    "current_run",
    "find_settings",
    "hookimpl",
    "open_ledger",
    "start_run",
]

# Resolved on first use: `import ledger` in somebody's training script must not cost them a database driver.
_HOME: Final = {
    "BackgroundKeeper": "ledger.checkpoints.background",
    "Book": "ledger.book",
    "Data": "ledger.record.data",
    "Entry": "ledger.objects.manifest",
    "Hasher": "ledger.objects.hashing",
    "Keeper": "ledger.checkpoints.keeper",
    "LedgerError": "ledger.errors",
    "Manifest": "ledger.objects.manifest",
    "ObjectStore": "ledger.objects.store",
    "Policy": "ledger.checkpoints.policy",
    "Run": "ledger.record.run",
    "RunState": "ledger.read.state",
    "Settings": "ledger.settings",
    "current_run": "ledger.record.run",
    "find_settings": "ledger.settings",
    "hookimpl": "ledger.hooks.specs",
    "open_ledger": "ledger.book",
    "start_run": "ledger.record.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ledger' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
