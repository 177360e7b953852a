"""No secret is in anything that the program writes, whatever goes wrong."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nights import environment_of, record, small_settings
from secret import SECRETS, secret_environment, secrets_in
from sqlalchemy import inspect, text

from bgm_pipeline.settings import Settings
from bgm_pipeline.store.connection import make_engine

Bgm = Callable[..., str]


@pytest.fixture
def environment(guarded_pg_url: str, tmp_path: Path, inbox: Path, detector: Path) -> dict[str, str]:
    config = small_settings(tmp_path / "data", inbox, detector)
    return environment_of(config) | secret_environment(guarded_pg_url)


@pytest.fixture
def bgm(environment: dict[str, str], tmp_path: Path) -> Bgm:
    """Runs a command with all secrets in its environment; what it says holds none."""

    def run(*arguments: object, code: int = 0, **changes: str) -> str:
        script = (
            "import logging, bgm_pipeline.cli as cli; logging.basicConfig(level=logging.DEBUG); cli.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | environment | changes,
            cwd=tmp_path,
            timeout=120,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert secrets_in(said) == []
        return said

    return run


def rows(database_url: str) -> Iterator[str]:
    """Every row of every table, as text."""
    engine = make_engine(database_url)
    with engine.connect() as connection:
        for table in inspect(connection).get_table_names():
            yield from map(str, connection.execute(text(f'SELECT * FROM "{table}"')))  # noqa: S608
    engine.dispose()


def test_no_secret_is_said_or_kept(bgm: Bgm, guarded_pg_url: str, inbox: Path, tmp_path: Path) -> None:
    password = SECRETS[0]
    record(inbox / "good.ts", 2)
    (inbox / "bad.ts").write_text("no recording")
    bgm("db", "upgrade")
    assert "1 failed, 1 new" in bgm("nightly", inbox, code=1)
    assert "good.ts" in bgm("episodes")
    bgm("store", "check")
    wrong = guarded_pg_url.replace(password, f"{password}wrong")
    assert "password authentication failed" in bgm("episodes", code=1, BGM_DATABASE_URL=wrong)
    nowhere = f"postgresql://user:{password}@127.0.0.1:1/name"
    assert "127.0.0.1:1" in bgm("nightly", inbox, code=1, BGM_DATABASE_URL=nowhere)
    assert "%40" in bgm("episodes", code=1, BGM_DATABASE_URL=f"postgresql://user:{password}@@host/name")
    assert "port" not in bgm("episodes", code=1, BGM_DATABASE_URL=f"postgresql://user:{password}@host:x/name")
    kept = list(rows(guarded_pg_url))
    assert any("good.ts" in row for row in kept) and any("bad.ts" in row for row in kept)
    assert secrets_in("".join(kept)) == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [path for path in files if secrets_in(path.read_bytes())]


def test_a_fault_of_the_program_shows_no_secret(bgm: Bgm, guarded_pg_url: str, inbox: Path) -> None:
    """A table that is gone is nothing that a user can mend, so a traceback is shown."""
    record(inbox / "good.ts", 2)
    bgm("db", "upgrade")
    engine = make_engine(guarded_pg_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE events CASCADE"))
    engine.dispose()
    assert "events" in bgm("process", inbox / "good.ts", code=1)


def test_settings_that_are_printed_show_no_password(guarded_pg_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=guarded_pg_url)
    assert SECRETS[0] not in repr(settings) + str(settings) + str(settings.results())
    assert SECRETS[0] in settings.resolved_database_url
