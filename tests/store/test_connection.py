"""Database URLs, and databases that do not answer: one line, without the password."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from bgm_pipeline import query
from bgm_pipeline.errors import InputError, StoreError
from bgm_pipeline.settings import Settings, load_settings
from bgm_pipeline.store.connection import describe, parse_url
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store, upgrade_database
from store.samples import add_programme, on_sqlite


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:////data/bgm.sqlite", "sqlite+pysqlite"),
        ("postgresql://u:p@host/name", "postgresql+psycopg"),
        ("postgresql+psycopg://u:p@host/name", "postgresql+psycopg"),
        ("postgres://u:p@host/name", "postgresql+psycopg"),
    ],
)
def test_usual_spellings_of_a_url_are_understood(given: str, driver: str) -> None:
    assert parse_url(given).drivername == driver


@pytest.mark.parametrize(
    "given",
    [
        "nonsense",
        "mysql://u:s3cret@host/name",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://u:s3cret@host:port/name",
        "postgresql://u:s3cret@x@host/name",
    ],
)
def test_other_urls_are_refused_without_showing_the_password(given: str) -> None:
    with pytest.raises(StoreError, match="BGM_DATABASE_URL") as error:
        parse_url(given)
    assert "s3cret" not in str(error.value)


def test_a_database_is_described_without_user_and_password() -> None:
    assert describe(parse_url("postgresql://u:p@host:5433/n")) == "PostgreSQL database n at host:5433"


def test_the_old_spelling_of_a_url_opens_the_database(pg_url: str, tmp_path: Path) -> None:
    old = pg_url.replace("postgresql://", "postgres://")
    settings = Settings(data_dir=tmp_path, database_url=old, stem_store="")
    upgrade_database(settings)
    with open_store(settings) as store:
        add_programme(store, "a.ts", (1.0,))
        assert len(query.events(store)) == 1


def test_a_postgresql_database_without_an_encoding_holds_all_text(pg_url: str, tmp_path: Path) -> None:
    """As initdb makes them where no locale is set."""
    url = make_url(pg_url).set(drivername="postgresql+psycopg")
    ascii_url = url.set(database=f"{url.database}_ascii")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        connection.execute(text(f"CREATE DATABASE {ascii_url.database} {options}"))
    engine.dispose()
    address = ascii_url.render_as_string(hide_password=False)
    settings = Settings(data_dir=tmp_path, database_url=address, stem_store="")
    upgrade_database(settings)
    with open_store(settings) as store:
        add_programme(store, "a.ts", (1.0,), title="Grüße 放送")
        assert query.events(store, title="放送")["title"].tolist() == ["Grüße 放送"]


@on_sqlite
def test_what_was_committed_outlives_a_power_cut(store: Store) -> None:
    with store.reading() as connection:
        mode = connection.execute(text("PRAGMA journal_mode")).scalar()
        synchronous = connection.execute(text("PRAGMA synchronous")).scalar()
    assert (mode, synchronous) == ("wal", 2)


def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    url = "postgresql://u:s3cret@127.0.0.1:1/name"
    with pytest.raises(StoreError, match=r"PostgreSQL database name at 127\.0\.0\.1:1: .*see that") as error:
        open_store(Settings(data_dir=tmp_path, database_url=url, stem_store=""))
    assert "s3cret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bgm.sqlite").write_text("not a database, but long enough to be looked at " * 50)
    with pytest.raises(StoreError, match=r"bgm\.sqlite: file is not a database; see that the file is bgm's"):
        open_store(Settings(data_dir=tmp_path, database_url="", stem_store=""))


def test_a_folder_where_the_database_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bgm.sqlite").mkdir()
    with pytest.raises(StoreError, match="unable to open database file"):
        open_store(Settings(data_dir=tmp_path, database_url="", stem_store=""))


def test_a_data_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="its folder cannot be made"):
        open_store(Settings(data_dir=tmp_path / "file" / "data", database_url="", stem_store=""))


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("BGM_THREADS", "many", "BGM_THREADS: Input should be a valid integer"),
        ("BGM_KEEP", "some", "BGM_KEEP: Input should be 'music' or 'all'"),
        ("BGM_DETECTION__ONSET", "3", "BGM_DETECTION__ONSET: Input should be less than or equal to 1"),
        ("BGM_DETECTION__OFFSET", "0.9", "BGM_DETECTION: offset: 0.9 is above onset 0.7"),
        ("BGM_DETECTION", "abc", "BGM_DETECTION: neither JSON nor a value of its own"),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError) as error:
        load_settings()
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)
