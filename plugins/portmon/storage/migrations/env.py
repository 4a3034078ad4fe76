"""Alembic's environment: the connection comes from :meth:`portmon.storage.database.Database.migrate`."""

from alembic import context

from portmon.storage.database import VERSION_TABLE
from portmon.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
