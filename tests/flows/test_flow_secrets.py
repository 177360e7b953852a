"""No secret is in what a Prefect server keeps of a night, or in the files beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
from nights import record
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_HOME
from secret import SECRETS, secret_environment, secrets_in

from bgm_pipeline.settings import Settings, load_settings
from bgm_pipeline.store.session import upgrade_database
from flows.episode import process_episode_flow
from flows.nightly import nightly_flow


@pytest.fixture
def secret_settings(config: Settings, guarded_pg_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in secret_environment(guarded_pg_url).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    upgrade_database(settings)
    return settings


def kept_by_the_server() -> str:
    """All that it tells of runs, logs and artifacts, and its database as it lies on the disk."""
    with get_client(sync_client=True) as client:
        told: list[Any] = [
            [one.model_dump(mode="json") for one in many]
            for many in (
                client.read_flow_runs(),
                client.read_task_runs(),
                client.read_logs(),
                client.read_artifacts(),
            )
        ]
    assert all(told)
    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition(":///")[2])
    files = [*database.parent.glob(f"{database.name}*"), *PREFECT_HOME.value().rglob("*")]
    raw = [path.read_bytes().decode("latin-1") for path in files if path.is_file()]
    assert any("bad.ts" in content for content in raw)
    return "\n".join([json.dumps(told), *raw])


def test_no_secret_reaches_the_server(
    secret_settings: Settings, inbox: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    good = record(inbox / "good.ts", 2)
    (inbox / "bad.ts").write_text("no recording")
    assert nightly_flow(return_state=True).message.startswith("1 failed, 1 new")
    wrong = secret_settings.database_url.replace(SECRETS[0], f"{SECRETS[0]}wrong")
    monkeypatch.setenv("BGM_DATABASE_URL", wrong)
    monkeypatch.setattr("flows.episode.process", _once())
    state = process_episode_flow(str(good), return_state=True)
    assert state.is_failed() and "password authentication failed" in state.message
    assert secrets_in(kept_by_the_server()) == []
    assert secrets_in("".join(capfd.readouterr())) == []


def _once() -> Any:
    from flows.episode import process  # noqa: PLC0415 - Prefect has to know its server first

    return process.with_options(retries=0)
