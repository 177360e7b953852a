"""Alembic's entry: gives it the tables and the database that the settings name."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, text

from bgm_pipeline.settings import load_settings
from bgm_pipeline.store.connection import make_engine
from bgm_pipeline.store.orm import Base, UtcDateTime

_LOCK = 7_246_001
"""Any number that no other program locks in the same PostgreSQL database."""


def render(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write our column types into new migrations as SQLAlchemy's own: a migration outlives our code."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def run(connection: Connection) -> None:
    """Run what Alembic was asked for, all or nothing, one process at a time."""
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        # A table that a batch migration makes anew is dropped first, and would take its children along.
        connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=sqlite,
        transactional_ddl=True,
        render_item=render,
        compare_server_default=True,
    )
    with context.begin_transaction():
        if not sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()
    if sqlite:
        connection.connection.cursor().execute("PRAGMA foreign_keys = ON")


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with make_engine(load_settings().resolved_database_url).connect() as own:
        run(own)
