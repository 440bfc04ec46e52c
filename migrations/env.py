"""Run by Alembic. Ledger passes the connection, inside a transaction that it commits itself."""

from alembic import context

from ledger.store.schema import VERSION_TABLE
from ledger.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
