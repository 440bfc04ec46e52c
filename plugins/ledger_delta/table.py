"""Opening a table at the version that is asked for, and saying why it cannot be."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ledger.errors import DataUnavailable, LedgerError, PluginUnavailable
from ledger.hooks.uris import local_path
from ledger_delta.place import MEND
from ledger_delta.s3 import storage_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deltalake import DeltaTable

    from ledger_delta.uris import Asked

_REFUSED: Final = ("403", "401", "necessary privileges", "AccessDenied")


def open_table(asked: Asked) -> tuple[DeltaTable, datetime | None]:
    """The table at the version that ``asked`` means now, and when that was made, where the log still says so.

    Raises ``DataUnavailable``; no message holds a key.
    """
    newest = _open(asked.root)
    if asked.at is None:
        return newest, _made(newest, newest.version())
    if isinstance(asked.at, int):
        if asked.at > newest.version():
            raise DataUnavailable(
                f"{asked.root} has no version {asked.at}",
                mend=f"its newest version is {newest.version()}, the first is 0",
            )
        return _open(asked.root, asked.at), _made(newest, asked.at)
    table = _open(asked.root)
    with reading(asked.root, asked.at.isoformat()):
        table.load_as_version(asked.at)
    made = _made(newest, table.version())
    if made and made > asked.at:
        raise DataUnavailable(
            f"{asked.root} has no version as old as {asked.at.isoformat()}",
            mend=f"the oldest that its log still holds is {table.version()}, of {made.isoformat()}",
        )
    return table, made


@contextmanager
def reading(root: str, version: object) -> Iterator[None]:
    """Turns what the library raises into ``DataUnavailable``."""
    try:
        yield
    except LedgerError:
        raise
    except Exception as error:  # noqa: BLE001 - the library has no base for what its engine raises
        raise _why_not(root, version, error) from None


def _made(newest: DeltaTable, version: int) -> datetime | None:
    # Asked of an older version, the library tells the times of newer ones.
    with reading(newest.table_uri, version):
        for commit in newest.history(newest.version() - version + 1):
            if commit.get("version") == version and "timestamp" in commit:
                return datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
    return None


def _open(root: str, version: int | None = None) -> DeltaTable:
    try:
        from deltalake import DeltaTable
    except ModuleNotFoundError as error:
        raise PluginUnavailable(f"{root} cannot be read: {error.name} is not installed", mend=MEND) from error
    path = local_path(root)
    options = None if path else storage_options()
    with reading(root, version):
        return DeltaTable(path or root, version=version, storage_options=options)


def _why_not(root: str, version: object, error: Exception) -> DataUnavailable:
    """The library's own words are not repeated: an answer of S3 may hold the id of a key."""
    from deltalake.exceptions import TableNotFoundError

    if any(sign in str(error) for sign in _REFUSED):
        return DataUnavailable(
            f"the keys that were found may not read {root}", mend="check them, for example with `aws s3 ls`"
        )
    if isinstance(error, TableNotFoundError) and version is None:
        return DataUnavailable(
            f"there is no Delta table at {root}", mend="name the directory that holds _delta_log, and check the bucket"
        )
    if version is None:
        return DataUnavailable(
            f"the log of the table {root} cannot be read ({type(error).__name__})",
            mend="check that its server answers, and that deltalake.DeltaTable can open it",
        )
    return DataUnavailable(
        f"version {version} of {root} cannot be read ({type(error).__name__})",
        mend="its part of the log may have been cleaned up (delta.logRetentionDuration): pin a newer version",
    )
