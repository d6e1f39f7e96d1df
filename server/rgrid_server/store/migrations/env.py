"""What Alembic runs: on the connection that rgrid_server.store.schema hands over."""

from __future__ import annotations

from alembic import context

from rgrid_server.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transaction_per_migration=True,
)
context.run_migrations()
