"""The schema of a log's tables: created and brought up to date without being asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from ledger.errors import SchemaMismatch, StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ledger.store.sqlite import SqliteFile

HEAD: Final = "0002"
"""The newest revision under migrations/versions. Revisions are numbers of four digits, in order."""
VERSION_TABLE: Final = "ledger_schema"
"""Not Alembic's usual name: other programs that use Alembic may share the database."""


def prepare(database: SqliteFile) -> None:
    """Make sure that the log has this version's schema: one small query if it has.

    Raises ``SchemaMismatch`` for a log of a newer version, ``StoreUnavailable`` where it cannot be upgraded.
    """
    with database.reading() as connection:
        version = current(connection)
    if version != HEAD:
        _refuse_newer(version)
        with database.writing() as connection:
            # Only now is nobody else creating or upgrading it; somebody may have done so just before.
            version = current(connection)
            _refuse_newer(version)
            if version != HEAD:
                _upgrade(connection)


def current(connection: Connection) -> str | None:
    """The revision of the log's schema; None where there is no log yet."""
    query = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    try:
        return connection.execute(query).scalar()
    except DBAPIError:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        # Another process made it just now; or something else is wrong, and comes up again.
        return connection.execute(query).scalar()


def migrations() -> Path:
    """Where the migrations are: inside the package once it is installed, beside it in a source checkout."""
    package = Path(__file__).parents[1]
    for place in (package / "migrations", package.parent / "migrations"):
        if (place / "env.py").is_file():
            return place
    raise StoreUnavailable(
        f"the migrations that create a ledger are missing from {package}",
        mend="the installation is not whole: reinstall training-ledger",
    )


def _refuse_newer(version: str | None) -> None:
    if version is not None and version > HEAD:
        raise SchemaMismatch(
            f"the ledger has schema {version}, and this version of Ledger knows schemas up to {HEAD}",
            mend="upgrade Ledger: pip install --upgrade training-ledger",
        )


def _upgrade(connection: Connection) -> None:
    """Run the migrations in the transaction of ``connection``: all of them, or none."""
    # Imported here: a ledger that is up to date never needs Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
