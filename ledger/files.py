"""What is asked of a file system in more than one place."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from ledger.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Lent(dict[str, Sequence[memoryview]]):
    """Files that are in memory: the content of each, by its relative path, as buffers of bytes one after the other."""


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Make the names in ``directory`` durable: fsync of a file says nothing of its name."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_taken(dest: Path) -> None:
    """Raise ``UsageError`` where there is something at ``dest``, be it a link that leads nowhere."""
    if os.path.lexists(dest):
        raise UsageError(f"{dest} exists already", mend="name a path that does not")


def write(pieces: Iterable[bytes], target: Path) -> str:
    """Write a stream to a new file, and return its SHA-256."""
    digest = hashlib.sha256()
    with target.open("xb") as stream:  # buffered: an unbuffered write may take a part, and say so to nobody
        for piece in pieces:
            digest.update(piece)
            stream.write(piece)
    return digest.hexdigest()


def write_out(lent: Lent, directory: Path) -> None:
    """Write files that are in memory, buffers by relative path, into ``directory``. Raises ``Unavailable``."""

    def written(path: str) -> None:
        file = directory / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                for buffer in lent[path]:
                    stream.write(buffer)
        except OSError as error:
            raise Unavailable(
                f"cannot write {file}: {error.strerror}",
                mend="make room there: a checkpoint lies there until it is stored",
            ) from error

    # In two threads, for what takes the time is the memory that the system has to find for new files.
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(written, lent):
            pass


def digest_of(pieces: Iterable[bytes | memoryview]) -> str:
    """SHA-256 of a stream."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


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
