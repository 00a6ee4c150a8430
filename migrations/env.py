"""Alembic's environment; it runs on the connection of ``personalign.store.schema``, which holds the lock."""

from __future__ import annotations

from alembic import context

from personalign.errors import StoreError
from personalign.store.tables import Table

connection = context.config.attributes.get("connection")
if connection is None:
    raise StoreError("migrations run through one door only, which takes the lock; run: personalign db upgrade")

context.configure(
    connection=connection,
    target_metadata=Table.metadata,
    render_as_batch=True,
    transactional_ddl=True,  # alembic believes that SQLite can't, and would commit after every step
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
