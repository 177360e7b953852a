"""docs/database.md: every example runs, and every table, column, index and option in it is there."""

import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import soundfile
from sqlalchemy import text
from typer.testing import CliRunner

from bgm_pipeline.cli import app
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.orm import Base
from bgm_pipeline.store.repository import Store
from store.samples import ON_AIR, add_programme, identity, on_sqlite

DOCUMENT = (Path(__file__).parents[2] / "docs" / "database.md").read_text()


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


SQL = [one.strip() for one in examples("sql")]
COMMANDS = [line for block in examples("sh") for line in block.splitlines()]


@pytest.fixture
def filled(store: Store) -> Store:
    """Programmes that every example finds something in."""
    levels = (1.0, -12.0, -12.0, 3.0, 2.0, 1.0, 0.0, None)
    add_programme(store, "1.ts", levels, "One", "Evening News", ON_AIR)
    failing = add_programme(store, "2.ts", (None, None), "One", "Quiz", ON_AIR + timedelta(hours=1))
    add_programme(store, "3.ts", levels, "One", "Evening News", ON_AIR - timedelta(days=7))
    again = store.start_run(failing, identity("2.ts", "other"))
    store.fail_run(again, "out of memory")
    return store


@pytest.fixture
def in_place(
    filled: Store, store_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """A folder to work in, with the environment of the filled store."""
    monkeypatch.setenv("BGM_DATABASE_URL", store_settings.resolved_database_url)
    monkeypatch.setenv("BGM_STEM_STORE", store_settings.resolved_stem_store)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_something_to_prove() -> None:
    assert len(SQL) == DOCUMENT.count("```sql") >= 6
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("statement", SQL)
def test_every_sql_example_finds_something(filled: Store, statement: str) -> None:
    with filled.reading() as connection:
        assert len(connection.execute(text(statement)).all()) >= 1


@pytest.mark.parametrize("store_settings", ["postgresql"], indirect=True)
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_every_sql_example_means_the_same_whatever_zone_the_session_is_in(filled: Store, zone: str) -> None:
    with filled.reading() as connection:
        connection.execute(text("SET TIME ZONE 'UTC'"))
        expected = [len(connection.execute(text(one)).all()) for one in SQL if "air_date" not in one]
        connection.execute(text(f"SET TIME ZONE '{zone}'"))
        found = [len(connection.execute(text(one)).all()) for one in SQL if "air_date" not in one]
    assert found == expected


def test_an_example_for_a_night_has_what_begins_with_it_and_not_what_begins_at_its_end(
    store: Store,
) -> None:
    begin = datetime(2026, 3, 31, 18, tzinfo=UTC)
    for hours, title in ((0, "first"), (6, "next night's")):
        add_programme(store, f"{hours}.ts", (-12.0,), "One", title, begin + timedelta(hours=hours))
    with store.reading() as connection:
        assert [row.title for row in connection.execute(text(SQL[0]))] == ["first"]


@on_sqlite
def test_every_command_runs(in_place: Path) -> None:
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        assert program == "bgm"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}: {result.output} {result.exception!r}"
        if arguments[0] == "log":
            assert " of music in " in result.stderr
        else:
            assert result.stderr in ("", "nothing wrong found\n")
    written = {"events.parquet", "silent.csv", "log.csv", "music.xlsx", "labels.txt", "music.vtt"}
    written |= {"song.flac", "song.wav"}
    assert written <= {path.name for path in in_place.iterdir()}
    assert soundfile.info(in_place / "song.wav").duration == 65.5


@on_sqlite
def test_the_python_example_runs(in_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = examples("python")
    found: dict[str, object] = {}
    exec(example, found)  # noqa: S102
    assert "00:00:00.000" in capsys.readouterr().out
    assert len(found["song"]) == 65_500 * 16  # type: ignore[arg-type]


def sections(level: str) -> Iterator[tuple[str, str]]:
    """Heading and text below it, of one level."""
    parts = re.split(rf"^{level} (.+)$", DOCUMENT, flags=re.MULTILINE)
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        yield heading, re.split(r"^#", body, maxsplit=1, flags=re.MULTILINE)[0]


def first_column(body: str) -> set[str]:
    """Names in the first column of a section's tables."""
    cells = re.findall(r"^\| (`.+?) \|", body, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("table", sorted(Base.metadata.tables))
def test_every_column_is_documented_and_no_other(table: str) -> None:
    assert first_column(dict(sections("###"))[table]) == set(Base.metadata.tables[table].columns.keys())


@on_sqlite
@pytest.mark.parametrize("view", ["music_segments", "music_minutes_by_programme"])
def test_every_column_of_a_view_is_documented_and_no_other(store: Store, view: str) -> None:
    with store.reading() as connection:
        columns = set(connection.execute(text(f"SELECT * FROM {view}")).keys())  # noqa: S608
    assert first_column(dict(sections("###"))[view]) == columns


def test_every_index_is_documented_and_no_other() -> None:
    indexes = {index.name for table in Base.metadata.tables.values() for index in table.indexes}
    assert first_column(dict(sections("##"))["Indexes"]) == indexes


def test_every_option_of_the_questions_is_documented_and_no_other() -> None:
    helps = "".join(CliRunner().invoke(app, [name, "--help"]).output for name in ("segments", "episodes"))
    there = set(re.findall(r"--[a-z-]+", helps)) - {"--help", "--out", "--format"}
    assert first_column(dict(sections("##"))["Asking from the command line"]) == there
