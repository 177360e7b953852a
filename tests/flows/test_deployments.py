"""What a Prefect server is told: the deployments, as code and as YAML, and the automations."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Cancelling, Crashed, Pending, Running, Scheduled

from bgm_pipeline.settings import NightSettings, Settings
from flows import api, names
from flows.care import TAKEN_UP, take_up
from flows.deployments import JOB_VARIABLES, NO_SIGN_OF_LIFE_S, deployments, register

DEPLOY = Path(__file__).parents[2] / "deploy" / "prefect.yaml"
PARIS = Settings(night=NightSettings(time_zone="Europe/Paris"))


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def test_the_yaml_says_what_the_code_says() -> None:
    told = yaml.safe_load(DEPLOY.read_text())
    assert told["pull"] == []
    as_code: list[dict[str, Any]] = []
    for one in deployments(PARIS):
        schedules = [{"cron": one.cron, "timezone": "Europe/Paris"}]
        pool = {"name": names.POOL, "work_queue_name": one.queue, "job_variables": JOB_VARIABLES}
        described = {"name": one.flow.name, "description": one.description, "entrypoint": one.entrypoint}
        as_code.append(described | ({"schedules": schedules} if one.cron else {}) | {"work_pool": pool})
    assert told["deployments"] == as_code
    assert tuple(one["name"] for one in as_code) == names.FLOWS


@pytest.mark.parametrize(
    "cron",
    ["*/5 * * * *", "15 2 * jul,Dec WED", "0 1-5/2,23 1,15 * *", "0 6 * * 1-5", "0 0 29 2 *", "0 0 * * 7"],
)
def test_prefect_takes_the_schedules_that_settings_take(cron: str) -> None:
    assert CronSchedule(cron=NightSettings(cron=cron).cron).cron == cron


def test_registering_twice_is_registering_once(client: SyncPrefectClient) -> None:
    for _ in range(2):
        assert register(PARIS) == []
    for one in deployments(PARIS):
        found = client.read_deployment_by_name(f"{one.flow.name}/{one.flow.name}")
        assert (found.work_pool_name, found.work_queue_name) == (names.POOL, one.queue)
        assert [schedule.schedule.cron for schedule in found.schedules] == ([one.cron] if one.cron else [])
        assert all(schedule.schedule.timezone == "Europe/Paris" for schedule in found.schedules)
    ours = [one for one in client.read_automations() if one.name.startswith("bgm: ")]
    assert sorted(one.name for one in ours) == ["bgm: never began", "bgm: no sign of life", "bgm: take up"]
    assert all(one.enabled for one in ours)
    assert NO_SIGN_OF_LIFE_S >= 3 * names.HEARTBEAT_S


def a_night(client: SyncPrefectClient, due: datetime) -> FlowRun:
    nightly = client.read_deployment_by_name("nightly/nightly")
    return client.create_flow_run_from_deployment(nightly.id, state=Scheduled(scheduled_time=due))


def test_missed_nights_are_made_up_for_once(client: SyncPrefectClient) -> None:
    register(PARIS)
    now = datetime.now(UTC)
    missed = [a_night(client, now - timedelta(days=days)).id for days in (1, 2)]
    to_come = a_night(client, now + timedelta(days=1)).id
    assert register(PARIS) == ["2 nights were missed; they are made up for now"]
    nightly = client.read_deployment_by_name("nightly/nightly").id
    runs = {run.id: run for run in client.read_flow_runs() if run.deployment_id == nightly}
    assert not runs.keys() & set(missed)
    assert to_come in runs
    assert [run.name for run in runs.values()].count("missed-night") == 1
    for run in runs:
        client.delete_flow_run(run)


@flow(name=names.PROCESS_EPISODE)
def nothing() -> None:
    """In place of an episode."""


def test_a_crashed_run_is_begun_again_some_times_and_then_fails_with_its_reason(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_NIGHT__TAKE_UPS", "2")
    run_id = client.create_flow_run(nothing).id

    def crash() -> None:
        client.set_flow_run_state(run_id, Crashed(message="no sign of life"), force=True)

    for delay_s in (10, 20):
        crash()
        assert take_up(client, run_id).endswith(f"begins again in {delay_s} s")
        state = client.read_flow_run(run_id).state
        assert state is not None
        assert (state.name, state.message) == ("AwaitingRetry", TAKEN_UP)
    crash()
    take_up(client, run_id)
    failed = client.read_flow_run(run_id)
    assert failed.state is not None
    assert failed.state.is_failed()
    assert "its process died 3 times" in str(failed.state.message)
    assert "nothing to do" in take_up(client, run_id)

    client.set_flow_run_state(run_id, Scheduled(message="Retry in the UI"), force=True)
    crash()
    assert take_up(client, run_id).endswith("begins again in 10 s")
    for state in (Running(), Cancelling()):
        client.set_flow_run_state(run_id, state, force=True)
    crash()
    assert take_up(client, run_id).endswith("is cancelled")
    assert client.read_flow_run(run_id).state_name == "Cancelled"
    client.delete_flow_run(run_id)
    assert "is gone" in take_up(client, UUID(str(run_id)))


def test_what_no_automation_saw_is_crashed_or_cancelled_but_a_slow_worker_gets_its_time(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = (Pending(), Running(), Cancelling())
    runs = [client.create_flow_run(nothing, state=state).id for state in states]

    def names_of_states() -> list[str | None]:
        return [client.read_flow_run(run).state_name for run in runs]

    with closing(api.Api(str(client.api_url), None)) as server:
        server.bury_silent_runs()
        assert names_of_states() == ["Pending", "Running", "Cancelling"]
        monkeypatch.setattr(api, "NO_SIGN_OF_LIFE_S", 0)
        server.bury_silent_runs()
        assert names_of_states() == ["Pending", "Crashed", "Cancelled"]
        monkeypatch.setattr(api, "NEVER_BEGAN_S", 0)
        server.bury_silent_runs()
    assert names_of_states() == ["Crashed", "Crashed", "Cancelled"]
    for run in runs:
        client.delete_flow_run(run)
