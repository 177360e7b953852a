"""What an operator sees and does in the morning, where processes died or results were lost in the night."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from nights import record
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import load_flow_and_flow_run, run_flow
from prefect.states import Cancelled, Crashed
from sqlalchemy import delete, select, update

from bgm_pipeline import query
from bgm_pipeline.pipeline import run_identity
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.check import check_store
from bgm_pipeline.store.lease import this_process
from bgm_pipeline.store.orm import RunRow, StemRow
from bgm_pipeline.store.repository import Store
from flows import flow_runs
from flows.care import report_flow, take_up
from flows.episode import load_networks, process_episode_flow
from flows.nightly import nightly_flow
from flows.operate import failed_episodes, reprocess, rerun, status


def night() -> str:
    return str(nightly_flow(return_state=True).message)


def flow_run_of_episode(client: SyncPrefectClient) -> FlowRun:
    (run,) = (run for run in client.read_flow_runs() if run.deployment_id)
    return run


def waiting(client: SyncPrefectClient) -> FlowRun:
    (run,) = (one for one in client.read_flow_runs() if one.deployment_id and one.state_type == "SCHEDULED")
    return run


def work(client: SyncPrefectClient, run_id: UUID) -> FlowRun:
    """What a worker's child does with a flow run, in this process."""
    flow_run, flow = load_flow_and_flow_run(run_id)
    run_flow(flow, flow_run=flow_run, return_type="state")
    return client.read_flow_run(run_id)


def morning(store: Store, client: SyncPrefectClient) -> dict[str, Any]:
    """The numbers of `bgm status`; the report has the same, and is red if an episode failed."""
    since = datetime.now(UTC) - timedelta(hours=1)
    found = status(store, str(client.api_url), since).night
    report = report_flow(hours=1, return_state=True)
    assert report.is_failed() == bool(found.failed)
    assert found.summary.partition(": ")[2] in str(report.message)
    return {"done": found.done, "failed": found.failed, "running": found.running, "new": found.new}


def again(store: Store, config: Settings, client: SyncPrefectClient) -> list[str]:
    """`bgm rerun --failed`."""
    url = str(client.api_url)
    return [row.outcome for row in rerun(store, config, url, failed_episodes(store, url))]


def test_a_flow_run_that_failed_before_it_could_begin_is_a_failure_and_runs_again(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(inbox / "a.wav")
    assert night() == "1 started"
    run = flow_run_of_episode(client)
    with monkeypatch.context() as on_the_worker:
        on_the_worker.setenv("BGM_DETECTOR", str(inbox / "missing.safetensors"))
        failed = work(client, run.id)
    assert failed.state is not None and failed.state.is_failed()
    assert morning(store, client) == {"done": 0, "failed": 1, "running": 0, "new": 0}
    (row,) = query.episodes(store, state="failed").to_dict("records")
    assert row["reason"] == failed.state.message
    assert "missing.safetensors" in row["reason"]
    assert str(run.id) in row["flow_run_url"]
    assert again(store, config, client) == ["started"]
    assert work(client, run.id).state_name == "Completed"
    assert morning(store, client) == {"done": 1, "failed": 0, "running": 0, "new": 0}
    assert again(store, config, client) == []


def test_a_process_that_died_too_often_is_a_failure_and_runs_again(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(inbox / "a.wav")
    night()
    run = flow_run_of_episode(client)
    (episode,) = query.episodes(store).to_dict("records")
    identity = run_identity(episode["source_sha256"], load_networks(config), config)
    store.start_run(episode["episode_id"], identity, f"http://prefect/flow-runs/flow-run/{run.id}")
    dead = subprocess.Popen(["true"])
    dead.wait()
    owner = this_process().replace(str(os.getpid()), str(dead.pid))
    with store.writing() as session:
        session.execute(update(RunRow).values(owner=owner))
    assert morning(store, client)["running"] == 0
    monkeypatch.setenv("BGM_NIGHT__TAKE_UPS", "0")
    client.set_flow_run_state(run.id, Crashed(), force=True)
    assert "has failed" in take_up(client, run.id)
    assert morning(store, client) == {"done": 0, "failed": 1, "running": 0, "new": 0}
    assert again(store, config, client) == ["started"]
    assert work(client, run.id).state_name == "Completed"
    assert morning(store, client) == {"done": 1, "failed": 0, "running": 0, "new": 0}


def test_lost_results_are_made_anew_by_the_same_flow_run_unless_that_was_told_otherwise(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient
) -> None:
    record(inbox / "a.wav")
    night()
    run = flow_run_of_episode(client)
    work(client, run.id)

    def lose_a_stem() -> None:
        with store.reading() as connection:
            key = connection.scalars(select(StemRow.key)).one()
        Path(store.stems.shown(key)).unlink()

    lose_a_stem()
    assert night() == "1 started"
    assert work(client, run.id).state_name == "Completed"
    assert list(check_store(store, deep=True)) == []
    assert night() == "1 known"

    lose_a_stem()
    (inbox / "a.wav").rename(inbox / "b.wav")
    assert night() == "1 started"
    moved = waiting(client)
    assert moved.parameters["path"] == str(inbox / "b.wav")
    assert work(client, moved.id).state_name == "Completed"
    assert list(check_store(store, deep=True)) == []

    lose_a_stem()
    (row,) = reprocess(store, config, str(client.api_url), [1])
    assert row.outcome == "started"
    asked = waiting(client)
    assert asked.parameters["changes"], "the workers may have other settings by now"
    assert work(client, asked.id).state_name == "Completed"
    assert list(check_store(store, deep=True)) == []

    with store.writing() as session:
        session.execute(delete(RunRow))
    (row,) = rerun(store, config, str(client.api_url), [1])
    assert row.outcome == "started"
    assert waiting(client).id == moved.id
    assert work(client, moved.id).state_name == "Completed"
    assert query.episodes(store)["state"].tolist() == ["done"]


def test_a_cancelled_flow_run_waits_for_the_operator_and_runs_again_when_asked_to(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient
) -> None:
    record(inbox / "a.wav")
    night()
    run = flow_run_of_episode(client)
    client.set_flow_run_state(run.id, Cancelled(), force=True)
    assert night() == "1 failed"
    (row,) = rerun(store, config, str(client.api_url), [1])
    assert row.outcome == "started"
    assert work(client, run.id).state_name == "Completed"


def test_the_queue_is_counted_whole(
    store: Store, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_runs, "_PAGE", 2)
    runs = [client.create_flow_run(process_episode_flow, parameters={"path": "/a.ts"}) for _ in range(5)]
    found = status(store, str(client.api_url), datetime.now(UTC))
    assert found.queue == {"Pending": 5}
    for run in runs:
        client.delete_flow_run(run.id)
