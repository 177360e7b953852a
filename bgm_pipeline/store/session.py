"""Opening the database that the settings name."""

from pathlib import Path

from sqlalchemy import select

from bgm_pipeline.errors import StoreError
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.connection import describe, explained, is_sqlite, make_engine, parse_url
from bgm_pipeline.store.orm import StoreRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.schema import prepare_schema, upgrade_schema
from bgm_pipeline.store.stems import StemStore
from bgm_pipeline.store.storage import open_storage


def open_store(settings: Settings, *, make: bool = True) -> Store:
    """The database and the stem store of the settings, ready for use.

    A new SQLite file and its folder are made, and an older one is brought to the newest state. A
    PostgreSQL database is never altered here; where it is behind, the error says what to run.

    Args:
        make: False for who only asks: an SQLite file that is not there is an error, since an empty database
            would answer whatever is asked.

    Raises:
        StoreError: the database cannot be reached or used. The message holds no password.
    """
    url = parse_url(settings.resolved_database_url)
    if not make and is_sqlite(url) and _is_missing(Path(url.database or "")):
        raise StoreError(
            f"{describe(url)} is not there yet; see that BGM_DATA_DIR or BGM_DATABASE_URL is right "
            "(the first bgm process or bgm nightly makes it)"
        )
    storage = open_storage(settings.resolved_stem_store)
    engine = make_engine(settings.resolved_database_url)
    prepare_schema(engine)
    with explained(engine.url), engine.connect().execution_options(reading=True) as connection:
        namespace = connection.execute(select(StoreRow.namespace)).scalar_one()
    return Store(engine, StemStore(storage, namespace))


def _is_missing(file: Path) -> bool:
    try:
        return not file.exists()
    except PermissionError:
        return False  # as SQLite will say


def upgrade_database(settings: Settings) -> None:
    """Bring the database's tables to the newest state: what ``bgm db upgrade`` does.

    Raises:
        StoreError: the database cannot be reached or used.
    """
    engine = make_engine(settings.resolved_database_url)
    upgrade_schema(engine)
    engine.dispose()
