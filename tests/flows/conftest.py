"""A Prefect server, started once, and a small inbox with a store of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from nights import environment_of, small_settings
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store
from flows.deployments import register


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("prefect")
    places = {PREFECT_HOME: home, PREFECT_LOCAL_STORAGE_PATH: home / "storage"}
    with temporary_settings(places), prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def forgotten(prefect_server: None) -> Iterator[None]:
    """What a test registered with the server is gone after it."""
    yield
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
        for automation in client.read_automations():
            client.delete_automation(automation.id)


@pytest.fixture
def config(
    prefect_server: None, tmp_path: Path, inbox: Path, detector: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings of the test, which flows read from the environment."""
    settings = small_settings(tmp_path / "data", inbox, detector)
    monkeypatch.chdir(tmp_path)
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BGM_INBOX__FOLDER", str(inbox))
    return settings


@pytest.fixture
def store(config: Settings) -> Iterator[Store]:
    with open_store(config) as opened:
        yield opened


@pytest.fixture
def client(config: Settings) -> Iterator[SyncPrefectClient]:
    """Of a server that knows our deployments, and has no flow runs of episodes yet."""
    register(config)
    with get_client(sync_client=True) as opened:
        for run in opened.read_flow_runs():
            opened.delete_flow_run(run.id)
        yield opened
