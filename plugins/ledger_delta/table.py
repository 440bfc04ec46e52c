"""Opening a table at the version that is asked for, and saying why it cannot be."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ledger.errors import DataUnavailable, LedgerError, PluginUnavailable
from ledger.hooks.uris import local_path
from ledger_delta.place import MEND, Place
from ledger_delta.s3 import storage_options
from ledger_delta.times import commits, made, version_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from deltalake import DeltaTable

    from ledger_delta.uris import Asked

# As the library's store says it; a bare "403" may be part of a name.
_REFUSED: Final = ("necessary privileges", "valid authentication credentials", "403 Forbidden", "401 Unauthorized")


def open_table(asked: Asked) -> tuple[DeltaTable, datetime | None]:
    """The table at the version that ``asked`` means now, and when that was made, where the log still says so.

    Raises ``DataUnavailable``; no message holds a key.
    """
    table, place = _open(asked.root), Place(asked.root)
    if isinstance(asked.at, int) and asked.at > table.version():
        raise DataUnavailable(
            f"{asked.root} has no version {asked.at}",
            mend=f"its newest version is {table.version()}, the first is 0",
        )
    if asked.at is not None:
        with reading(asked.root, asked.at):
            version = asked.at if isinstance(asked.at, int) else version_at(place, asked.root, asked.at)
        table = _open(asked.root, version)
    with reading(asked.root, table.version()):
        return table, made(place, table.version()) if table.version() in commits(place) else None


@contextmanager
def reading(root: str, version: object) -> Iterator[None]:
    """Turns what the library raises into ``DataUnavailable``."""
    try:
        yield
    except LedgerError:
        raise
    except Exception as error:  # noqa: BLE001 - the library has no base for what its engine raises
        raise _why_not(root, version, error) from None


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
            f"{root} may not be read", mend="check its permissions, or the keys, for example with `aws s3 ls`"
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
