"""What is asked of a file system in more than one place."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from ledger.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Make the names in ``directory`` durable: fsync of a file says nothing of its name."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def appearing(dest: Path) -> Iterator[Path]:
    """A temporary sibling, file or directory, that becomes ``dest`` if all goes well, and is removed if not."""
    temporary = dest.with_name(f".{uuid4().hex}.partial")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.rename(dest)
    except OSError as error:
        raise Unavailable(f"cannot write {dest}: {error.strerror}", mend="check permissions and space there") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
