"""Files kept by what they contain: code, configurations, consoles, snapshots of data."""

from ledger.objects.hashing import Hasher
from ledger.objects.manifest import Entry, Manifest
from ledger.objects.store import ObjectStore

__all__ = ["Entry", "Hasher", "Manifest", "ObjectStore"]
