"""The schema of a log's tables: created without being asked, brought up to date only when asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from ledger.errors import SchemaMismatch, StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ledger.store.database import Database

HEAD: Final = "0004"
"""The newest revision under migrations/versions. Revisions are numbers of four digits, in order."""
VERSION_TABLE: Final = "ledger_schema"
"""Not Alembic's usual name: other programs that use Alembic may share the database."""
_VERSION: Final = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608


def prepare(database: Database) -> None:
    """Make sure that the log has this version's schema: one small query if it has, the tables if there is no log.

    Raises ``SchemaMismatch`` for a log of an older or a newer version, ``StoreUnavailable``.
    """
    version = stored(database)
    if version is None:
        with database.writing() as connection:
            # Only now is nobody else creating it; somebody may have done so just before.
            version = current(connection)
            if version is None:
                _migrate(connection)
                return
    _refuse_newer(version, database.place)
    if version < HEAD:
        raise SchemaMismatch(
            f"the log in {database.place} has schema {version}, and this version of Ledger works on schema {HEAD}",
            mend="make a copy of it, then bring it up to date: ledger db upgrade",
        )


def upgrade(database: Database) -> str:
    """Bring a log to this version's schema in one transaction; the revision that it had.

    Raises ``SchemaMismatch`` for a log of a newer version, ``StoreUnavailable`` where it cannot be upgraded: it is
    then as it was.
    """
    with database.writing() as connection:
        version: str = connection.execute(_VERSION).scalar_one()
        _refuse_newer(version, database.place)
        if version != HEAD:
            _migrate(connection)
    return version


def stored(database: Database) -> str | None:
    """The revision of the log's schema; None where there is no log yet."""
    with database.reading() as connection:
        try:
            version: str | None = connection.execute(_VERSION).scalar()
        except DBAPIError:
            pass  # there is no such table; or something else is wrong, and comes up again
        else:
            return version
    # In a transaction of its own: PostgreSQL carries on with none in which a statement failed.
    with database.reading() as connection:
        return current(connection)


def current(connection: Connection) -> str | None:
    """The revision of the log's schema as this transaction sees it; None where there is no log yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.execute(_VERSION).scalar()
    return version


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


def _refuse_newer(version: str, place: str) -> None:
    if version > HEAD:
        raise SchemaMismatch(
            f"the log in {place} has schema {version}, and this version of Ledger knows schemas up to {HEAD}",
            mend="upgrade Ledger: pip install --upgrade training-ledger",
        )


def _migrate(connection: Connection) -> None:
    """Run the migrations in the transaction of ``connection``: all of them, or none."""
    # Imported here: a ledger that is up to date never needs Alembic.
    from alembic import command
    from alembic.config import Config

    from ledger.store.projections.keeping import rebuild

    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    # Not a migration's business: what is folded follows the code that folds it.
    rebuild(connection)
