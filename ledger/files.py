"""What a file system promises, asked of it."""

from __future__ import annotations

import os


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Make the names in ``directory`` durable: fsync of a file says nothing of its name."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
