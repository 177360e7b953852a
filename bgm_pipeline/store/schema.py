"""Which state a database's tables are in, and bringing them to the newest one (Alembic)."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from bgm_pipeline.errors import StoreError
from bgm_pipeline.store.connection import describe, explained, is_sqlite
from bgm_pipeline.store.orm import SCHEMA_REVISION

if TYPE_CHECKING:
    from alembic.config import Config


def migrations_folder() -> Path:
    """Where Alembic's scripts lie: inside the installed package, or in ``db`` of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "db"


def prepare_schema(engine: Engine) -> None:
    """Make sure that the tables are those that this version works with.

    An SQLite file is brought to the newest state at once, an empty one included: it has one user. A
    PostgreSQL database, which others may be using, is left as it is.

    Raises:
        StoreError: the database cannot be reached, is not one of ours, comes from a newer version, or
            is a PostgreSQL database that somebody must upgrade.
    """
    with explained(engine.url), engine.connect().execution_options(reading=True) as connection:
        revision = _revision(connection)
    if revision == SCHEMA_REVISION:
        return
    if is_sqlite(engine.url):
        upgrade_schema(engine)
        return
    state = "has no tables yet" if revision is None else f"is at revision {revision}, not {SCHEMA_REVISION}"
    _refuse_future(engine, revision)
    raise StoreError(f"{describe(engine.url)} {state}; run: bgm db upgrade")


def upgrade_schema(engine: Engine) -> None:
    """Run the migrations that are missing, in one transaction.

    Raises:
        StoreError: as `prepare_schema`.
    """
    from alembic import command  # noqa: PLC0415 - slow to import, and seldom needed

    with explained(engine.url), engine.connect() as connection:
        revision = _revision(connection)
        connection.rollback()
        _refuse_future(engine, revision)
        command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection) -> "Config":
    """Alembic's configuration for a connection that is not in a transaction."""
    from alembic.config import Config  # noqa: PLC0415

    folder = migrations_folder()
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(folder / "migrations" / "versions").replace("%", "%%"))
    return config


def _revision(connection: Connection) -> str | None:
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" in tables:
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return revision
    if tables:
        raise StoreError(
            f"{describe(connection.engine.url)} holds other tables ({', '.join(sorted(tables)[:3])} ...); "
            "let BGM_DATABASE_URL name a new or empty database"
        )
    return None


def _refuse_future(engine: Engine, revision: str | None) -> None:
    versions = migrations_folder() / "migrations" / "versions"
    if revision is not None and not any(versions.glob(f"{revision}_*.py")):
        raise StoreError(
            f"{describe(engine.url)} was made by a newer version (revision {revision}, this version "
            f"knows {SCHEMA_REVISION}); update bgm-pipeline"
        )
