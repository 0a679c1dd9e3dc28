"""Run by alembic; the connection is handed in by `limosa.fleet.db.engine`."""

from alembic import context

from limosa.fleet.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by making a new one
)
with context.begin_transaction():
    context.run_migrations()
