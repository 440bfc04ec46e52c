"""Digests of files that were read before, so that an unchanged file is not read twice."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    import os
    from types import TracebackType

RACY_SECONDS: Final = 2.0
"""Coarsest time stamp of a file system in use (FAT's)."""

_COLUMNS: Final = "path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER, digest TEXT"


def identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file's content does.

    The change time is part of it because a program may set the modification time back, but not that one.
    """
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def racy(stat: os.stat_result, read_at: float) -> bool:
    """Whether the file was touched so shortly before it was read that a later change may leave no trace.

    A second write within one tick of the file system's clock leaves the same time stamp; git calls such an
    entry "racily clean" (its technical note racy-git) and, as here, does not rely on it.
    """
    return abs(read_at - stat.st_mtime) < RACY_SECONDS or read_at - stat.st_ctime < RACY_SECONDS


class StatCache:
    """Digest by path and identity, in an SQLite file that several processes may share.

    Used as a context manager, which writes what was added. Only a convenience: with no file, or one that is
    damaged, locked or cannot be written, it knows nothing and nothing fails. A damaged file is thrown away.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._added: list[tuple[str, int, int, int, int, str]] = []

    def __enter__(self) -> Self:
        self._connection = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is None:
            return
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?)", self._added)
        except sqlite3.Error as failure:
            self._give_up(failure)
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._added = []

    def get(self, path: str, stat: os.stat_result) -> str | None:
        """The digest of the file, if it was read in exactly this state."""
        if self._connection is None:
            return None
        try:
            row = self._connection.execute(
                "SELECT digest FROM digests"
                " WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ?",
                (path, *identity(stat)),
            ).fetchone()
        except sqlite3.Error as failure:
            self._give_up(failure)
            return None
        return str(row[0]) if row else None

    def put(self, path: str, stat: os.stat_result, digest: str) -> None:
        """Remember the digest of the file in this state."""
        if self._connection is not None:
            self._added.append((path, *identity(stat), digest))

    def _open(self) -> sqlite3.Connection | None:
        if self._file is None:
            return None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            return self._connect(self._file)
        except OSError:
            return None
        except sqlite3.OperationalError:  # locked, or not to be opened here: neither says that it is damaged
            return None
        except sqlite3.DatabaseError:
            return self._start_anew(self._file)

    def _connect(self, file: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(file, timeout=5)
        try:
            # Without waits for the disk a power cut could mix old and new pages, and so digests.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"CREATE TABLE IF NOT EXISTS digests ({_COLUMNS}) WITHOUT ROWID")
            connection.execute("SELECT path, size, mtime_ns, ctime_ns, inode, digest FROM digests LIMIT 1")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _start_anew(self, file: Path) -> sqlite3.Connection | None:
        with suppress(OSError, sqlite3.Error):
            for part in ("", "-wal", "-shm"):
                Path(f"{file}{part}").unlink(missing_ok=True)
            return self._connect(file)
        return None

    def _give_up(self, failure: sqlite3.Error) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._file is not None and not isinstance(failure, sqlite3.OperationalError):
            self._connection = self._start_anew(self._file)
