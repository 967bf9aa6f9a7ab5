"""How alembic reaches the database: over the connection that `db.schema` hands in, within its transaction."""

from __future__ import annotations

from alembic import context

from db.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,  # SQLite can alter little of a table in place
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
