"""What is particular to SQLite: connections, transactions, and what its errors mean to a user."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from sqlalchemy import URL, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from ledger.errors import IntegrityError, LedgerError, StoreDamaged, StoreUnavailable, UsageError
from ledger.store.database import COLUMNS
from ledger.store.forks import ForkGate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Engine

BUSY_SECONDS: Final = 30.0
"""How long a writer waits for its turn. An append takes milliseconds: beyond this, some process is stuck."""
_WRITES: Final = "ledger_writes"
_SCHEME: Final = "sqlite:///"
_INSERT: Final = f"INSERT INTO event ({', '.join(COLUMNS)}) VALUES ({', '.join('?' for _ in COLUMNS)})"  # noqa: S608


class SqliteFile:
    """One SQLite database file: a ``Database``."""

    def __init__(self, url: str) -> None:
        """Makes the directory. Raises ``UsageError`` for a URL without a path, else ``StoreUnavailable``."""
        self.path = _path(url)
        self.place = str(self.path)
        _make_directory(self.path.parent)
        # A file that may only be read is opened afresh every time: see _open_to_read.
        self._read_only = self.path.is_file() and not _writable(self.path)
        self._engine = self._create_engine()
        self._writer = self._engine.execution_options(**{_WRITES: True})
        self._writing = threading.RLock()
        self._gate = ForkGate(self._engine.dispose, patience=BUSY_SECONDS)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See ``Database``."""
        with self._gate.passing(), self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """See ``Database``."""
        with self._gate.passing(), self._turn(), self._explained(), self._writer.begin() as connection:
            yield connection

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """See ``Database``."""
        connection.exec_driver_sql(_INSERT, list(rows))

    def waiting(self) -> AbstractContextManager[Callable[[float], None]]:
        """See ``Database``. Nobody tells of a change of a file: to look again after a while is all there is."""
        return nullcontext(time.sleep)

    def now(self, connection: Connection) -> float:
        """See ``Database``. Everybody who uses the file is on this host, so its clock is the database's."""
        return time.time()

    def size(self, connection: Connection) -> int:
        """See ``Database``."""
        files = (self.path, Path(f"{self.path}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def damage(self, connection: Connection) -> str | None:
        """See ``Database``. An index may miss rows that the table has: readers by it would not see them."""
        found: str = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
        return None if found == "ok" else found

    def close(self) -> None:
        """See ``Database``."""
        self._engine.dispose()

    def _create_engine(self) -> Engine:
        engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            creator=self._open_to_read if self._read_only else self._open,
            **({"poolclass": NullPool} if self._read_only else {"poolclass": QueuePool, "max_overflow": -1}),
        )
        event.listen(engine, "begin", _begin)
        return engine

    def _open(self) -> sqlite3.Connection:
        connection = _connect(self.path, "mode=rwc")
        try:
            _enter_wal(connection)
            # FULL, not SQLite's usual NORMAL for a write-ahead log: NORMAL survives the death of the
            # process, but a power cut may take back commits that append() has already reported as durable.
            connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _open_to_read(self) -> sqlite3.Connection:
        """A reader beside a write-ahead log needs its index, which it cannot make in a directory it may not
        write to.

        Without a log nobody is writing, and the file can be read as it stands. That holds for a moment
        only, so such a connection is used once.
        """
        log = Path(f"{self.path}-wal")
        quiet = not log.exists() or log.stat().st_size == 0
        return _connect(self.path, "mode=ro&immutable=1" if quiet else "mode=ro")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Threads of one process queue here: SQLite's own waiting is polling, unfair and up to 0.1 s late."""
        mine = self._writing.acquire(timeout=BUSY_SECONDS)
        try:
            yield
        finally:
            if mine:
                self._writing.release()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if not isinstance(error.orig, sqlite3.DatabaseError):
                raise
            raise _explain(self.path, error.orig) from error


def _path(url: str) -> Path:
    path = url.removeprefix(_SCHEME)
    if path in (url, "", ":memory:"):
        raise UsageError(f"{url!r} names no file", mend=f"write {_SCHEME}PATH, or memory: for a log without a file")
    # Links resolved: SQLite keeps its write-ahead log beside the file itself, not beside the link.
    return Path(os.path.realpath(path))


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"no ledger can be created in {directory}: {error.strerror}",
            mend="make the directory writable, or name another place with --ledger or LEDGER_URL",
        ) from error


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _connect(path: Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?{options}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # transactions begin where we say so, with BEGIN or BEGIN IMMEDIATE
        check_same_thread=False,  # the pool hands a connection to one thread at a time
    )


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Readers and the writer do not wait for each other; a file stays in this mode once it was put there.

    Where two processes create a ledger at the same moment, SQLite refuses one of them at once, without its
    usual patience, so the patience is ours.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    """Writers queue before they read anything: a deferred transaction may find its snapshot outdated."""
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_READABLE: Final = "make the file and its directory writable for this user"
_MEANINGS: Final = {
    sqlite3.SQLITE_FULL: (
        "the disk is full",
        "free some space and do it again: nothing was written by halves",
    ),
    sqlite3.SQLITE_IOERR: (
        "the system could not read or write it ({error})",
        "check free space, quota and file-size limit, and the health of the disk, then do it again: "
        "nothing was written by halves",
    ),
    sqlite3.SQLITE_NOTADB: (
        "it is not an SQLite database",
        "name the ledger's own file, or move this one away and let Ledger create a new one",
    ),
    sqlite3.SQLITE_CORRUPT: (
        "the file is damaged ({error})",
        "put a copy from before that in its place; `sqlite3 FILE .recover` saves what can still be read",
    ),
    sqlite3.SQLITE_BUSY: (
        f"another process has held it for more than {BUSY_SECONDS:.0f} seconds",
        "find the process with `fuser FILE`, end it if it hangs, and do it again",
    ),
    sqlite3.SQLITE_READONLY: ("it may only be read", _READABLE),
    sqlite3.SQLITE_PERM: ("access is denied", _READABLE),
}


def _explain(path: Path, error: sqlite3.DatabaseError) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_CONSTRAINT:
        return IntegrityError(
            f"the log at {path} refused an append: {error}",
            mend="its tables were changed from outside: put back a copy from before that",
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        why, mend = _why_not_opened(path)
    else:
        why, mend = _MEANINGS.get(
            code, ("{error}", "check that the file is a ledger, whole and not in use by another program")
        )
    kind = StoreDamaged if code == sqlite3.SQLITE_CORRUPT else StoreUnavailable
    return kind(f"the log at {path} cannot be used: {why.format(error=error)}", mend=mend)


def _why_not_opened(path: Path) -> tuple[str, str]:
    if path.is_dir():
        return "it is a directory", "name the ledger's file, such as PATH/ledger.db"
    if path.is_file() and os.access(path, os.R_OK):
        return (
            "a writer left its write-ahead log beside it, and without write access that cannot be read",
            _READABLE + ", or copy the whole directory and read the copy",
        )
    if path.is_file():
        return "access is denied", "make the file readable for this user"
    return f"no file can be created in {path.parent}", "make the directory writable, or name another place"
