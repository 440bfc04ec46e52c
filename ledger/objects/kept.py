"""What a data source read once need not be read again: digests of remote files, and content until it is fetched.

Both are conveniences in the ledger's scratch directory: what is lost is read again from the source.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

from ledger.errors import Unavailable
from ledger.files import write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_STALE_S: Final = 24 * 3600
"""After that nobody is going to fetch what was pinned."""
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS digests (endpoint TEXT, address TEXT, checksum TEXT, size INTEGER, digest TEXT,"
    " PRIMARY KEY (endpoint, address, checksum, size)) WITHOUT ROWID"
)


class Seen(NamedTuple):
    """One state of a remote file: what has these three has the same bytes."""

    address: str
    """Where it lies."""
    checksum: str
    """What the service tells of the content or the version: an ETag, a version's id."""
    bytes: int


class Digests:
    """SHA-256 by what was seen at ``endpoint``, in a file that processes share.

    Where a service lies about a file that it has changed, that shows when it is fetched.
    """

    def __init__(self, file: Path, endpoint: str) -> None:
        self._file = file
        self._endpoint = endpoint

    def known(self, seen: Iterable[Seen]) -> dict[Seen, str]:
        """The digests of those that were read before."""
        found = {}
        query = "SELECT digest FROM digests WHERE endpoint = ? AND address = ? AND checksum = ? AND size = ?"
        with suppress(sqlite3.Error, OSError), closing(self._open()) as connection:
            for each in seen:
                row = connection.execute(query, (self._endpoint, *each)).fetchone()
                if row:
                    found[each] = str(row[0])
        return found

    def add(self, digests: Mapping[Seen, str]) -> None:
        """Remember what was read."""
        rows = [(self._endpoint, *each, digest) for each, digest in digests.items()]
        with suppress(sqlite3.Error, OSError), closing(self._open()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._file, timeout=5)
        connection.execute(_TABLE)
        return connection


class Kept:
    """Content by its SHA-256, from the ``pin`` that had to read it to the ``fetch`` that wants it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, pieces: Iterator[bytes]) -> str:
        """Keep what the stream gives, and return its digest."""
        temporary = self._folder / f".{uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            digest = write(pieces, temporary)
            temporary.replace(self._folder / digest)
        except OSError as error:
            raise Unavailable(
                f"cannot write below {self._folder}: {error.strerror}",
                mend="make room there; with ?keep=no in the URI nothing is kept, and a fetch reads the source again",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        return digest

    def take(self, digest: str, target: Path) -> bool:
        """Move the content to ``target``, if it is here and still what it was."""
        try:
            os.rename(self._folder / digest, target)
        except OSError:  # not here, taken by somebody else, or on another disk
            return False
        with target.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == digest:
                return True
        target.unlink()
        return False

    def discard_stale(self) -> None:
        """Remove what was kept for a fetch that never came."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink(missing_ok=True)
