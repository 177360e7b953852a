"""Real flows on a real Prefect server: what they leave in the store, and what the operator sees of them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from nights import record, small_settings
from pandas.testing import assert_frame_equal
from prefect import Task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import Artifact, FlowRun, State, TaskRun
from prefect.exceptions import ObjectAlreadyExists
from prefect.flow_engine import load_flow_and_flow_run, run_flow
from prefect.states import Scheduled

from bgm_pipeline import query
from bgm_pipeline.errors import StoreError
from bgm_pipeline.media.probe import sha256_of
from bgm_pipeline.nightly import run_nightly
from bgm_pipeline.pipeline import run_identity
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store
from bgm_pipeline.types import Episode
from flows import episode, nightly
from flows.episode import load_networks, process_episode_flow
from flows.nightly import nightly_flow

DEPLOY = Path(__file__).parents[2] / "deploy" / "prefect.yaml"


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def run_night(**parameters: Any) -> State[Any]:
    return nightly_flow(**parameters, return_state=True)


def artifacts(client: SyncPrefectClient, state: State[Any]) -> dict[str, Artifact]:
    """The artifacts of the flow run that ended in that state, by their key or type."""
    found = client.read_artifacts()
    ours = [one for one in found if one.flow_run_id == state.state_details.flow_run_id]
    return {str(one.key or one.type): one for one in ours}


def wait_for(fulfilled: Callable[[], bool]) -> None:
    """Task runs reach the server as events, a moment later."""
    deadline = time.monotonic() + 20
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def tasks(client: SyncPrefectClient, flow_run_id: UUID | None) -> list[tuple[str, str, int]]:
    """Task, state and number of attempts of every task run of a flow run that has ended."""
    runs = [run for run in client.read_task_runs() if run.flow_run_id == flow_run_id]
    ended = [(run, run.state) for run in runs if run.state is not None and run.state.is_final()]
    return sorted((re.split("[ -]", run.name)[0], str(state.name), run.run_count) for run, state in ended)


def test_a_night_without_deployment_does_what_bgm_nightly_does(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient, tmp_path: Path
) -> None:
    good = record(inbox / "EINS_2026-03-31_20-15-00_Late_show.ts", 14, start_s=5)
    other = record(inbox / "news.wav", 2, seed=1)
    (inbox / "bad.ts").write_text("not a transport stream")
    (inbox / "later.ts.part").touch()
    state = run_night()
    assert state.is_failed()
    assert state.message == "1 failed, 2 new, 1 waiting, 00:00:11 of music found"
    assert query.episodes(store, state="done")["path"].tolist() == [str(other), str(good)]
    (failed,) = query.episodes(store, state="failed").to_dict("records")
    assert str(inbox / "bad.ts") in failed["reason"]

    shown = artifacts(client, state)
    table = {row["file"]: row for row in json.loads(str(shown["night"].data))}
    assert {name: row["outcome"] for name, row in table.items()} == {
        good.name: "new",
        "news.wav": "new",
        "bad.ts": "failed",
        "later.ts.part": "waiting",
    }
    assert table["bad.ts"]["reason"] == failed["reason"]
    assert failed["reason"] in str(shown["night-report"].data)

    alone = small_settings(tmp_path / "alone", inbox, Path(config.detector))
    with open_store(alone) as plain:
        run_nightly(inbox, plain, load_networks(config), alone)
        columns = ["episode_id", "run_id"]
        for ask in (query.segments, query.events):
            assert len(ask(plain)) > 0
            assert_frame_equal(ask(store).drop(columns=columns), ask(plain).drop(columns=columns))

    (inbox / "bad.ts").unlink()
    (inbox / "later.ts.part").rename(record(inbox / "later.ts", 2, seed=2).with_suffix(".txt"))
    state = run_night()
    assert state.is_completed()
    assert state.message == "2 known, 1 new, 00:00:02 of music found"
    state = run_night()
    assert state.message == "3 known"
    assert len(query.episodes(store)["run_id"].dropna()) == 3


def test_an_episode_leaves_rows_and_artifacts(inbox: Path, store: Store, client: SyncPrefectClient) -> None:
    spelled = r"<img src=x> [a](b) \x1b[2J.ts"
    path = record(inbox / "<img src=x> [a](b) \x1b[2J.ts", 14, start_s=12.5)
    state = process_episode_flow(str(path), "EINS", "`<b>`", "2026-03-31T20:15:00+02:00", return_state=True)
    assert state.is_completed()
    (found,) = query.episodes(store).to_dict("records")
    assert (found["channel"], found["title"], found["state"]) == ("EINS", "`<b>`", "done")
    assert found["air_start"].timestamp() == 1774980900
    assert found["music_s"] == pytest.approx(1.5, abs=0.2)
    shown = artifacts(client, state)
    assert shown["progress"].data == 100.0
    assert "00:00:12." in str(shown["music-events"].data)
    assert "1 new" in str(shown["episode"].data)
    # A block of code, in which nothing is a link or an image.
    described = {artifact.description for artifact in shown.values()}
    assert described == {f"    {path.parent}/{spelled}", f"    {spelled}"}
    names = [run.name for run in client.read_task_runs()]
    assert f"process {path.parent}/{spelled}" in names
    assert all(name.isprintable() for name in names)
    expected = [("process", "Completed", 1), ("report", "Completed", 1)]
    wait_for(lambda: tasks(client, state.state_details.flow_run_id) == expected)


def test_bad_input_fails_at_once_with_its_reason(
    inbox: Path, store: Store, client: SyncPrefectClient
) -> None:
    path = inbox / "bad.ts"
    path.write_text("not a transport stream")
    state = process_episode_flow(str(path), return_state=True)
    assert state.is_failed()
    (failed,) = query.episodes(store).to_dict("records")
    assert failed["state"] == "failed"
    assert failed["reason"] in state.message
    wait_for(lambda: tasks(client, state.state_details.flow_run_id) == [("process", "Failed", 1)])


def mend_after_the_first_attempt(monkeypatch: pytest.MonkeyPatch, mend: Callable[[], None]) -> None:
    """What an episode fails on is mended when it has failed; it is tried again at once if at all."""

    def look(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
        mend()
        return episode.is_of_the_moment(task, run, state)

    mended = episode.process.with_options(retry_delay_seconds=0, retry_condition_fn=look)
    monkeypatch.setattr(episode, "process", mended)


def done_at_the_second_attempt(path: Path, store: Store, client: SyncPrefectClient) -> None:
    state = process_episode_flow(str(path), return_state=True)
    assert state.is_completed()
    assert query.episodes(store)["state"].tolist() == ["done"]
    tried = ("process", "Completed", 2)
    wait_for(lambda: tried in tasks(client, state.state_details.flow_run_id))


def test_a_fault_of_the_moment_is_tried_again(
    inbox: Path,
    store: Store,
    config: Settings,
    client: SyncPrefectClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stem store is out of reach until the first attempt has failed."""
    Path(config.resolved_stem_store).write_text("in the way")
    mend_after_the_first_attempt(monkeypatch, Path(config.resolved_stem_store).unlink)
    done_at_the_second_attempt(record(inbox / "a.wav"), store, client)


def test_an_ffmpeg_that_was_killed_is_tried_again(
    inbox: Path,
    store: Store,
    client: SyncPrefectClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the kernel kills it where memory is short; there is enough when the first attempt has failed."""
    killed = tmp_path / "bin" / "ffmpeg"
    killed.parent.mkdir()
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    path = record(inbox / "a.wav")
    monkeypatch.setenv("PATH", f"{killed.parent}{os.pathsep}{os.environ['PATH']}")
    mend_after_the_first_attempt(monkeypatch, killed.unlink)
    done_at_the_second_attempt(path, store, client)


def run_here(flow_run_id: UUID) -> FlowRun:
    """What a worker's child does with a flow run, in this process."""
    flow_run, flow = load_flow_and_flow_run(flow_run_id)
    run_flow(flow, flow_run=flow_run, return_type="state")
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id)


def test_deployed_every_file_has_a_flow_run_of_its_own_that_can_be_retried(
    inbox: Path, store: Store, client: SyncPrefectClient, tmp_path: Path
) -> None:
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name="bgm", type="process"))
    environment = os.environ | {"PREFECT_API_URL": str(client.api_url), "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", DEPLOY]
    deployed = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert deployed.returncode == 0, deployed.stderr
    nightly = client.read_deployment_by_name("nightly/nightly")
    (schedule,) = nightly.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("15 2 * * *", "Europe/Paris")
    for deployment in (nightly, client.read_deployment_by_name("process-episode/process-episode")):
        assert deployment.work_pool_name == "bgm"
        assert deployment.pull_steps == []
        assert deployment.job_variables["env"]["DO_NOT_TRACK"] == "1"

    good = record(inbox / "EINS_2026-03-31_20-15-00_Show.wav")
    bad = inbox / "bad.wav"
    bad.write_text("not whole yet")
    state = run_night()
    assert state.is_completed()
    assert state.message == "2 started"
    assert query.episodes(store)["state"].tolist() == ["new", "new"]
    runs = {run.name: run.id for run in client.read_flow_runs() if run.deployment_id}
    assert runs.keys() >= {good.name, "bad.wav"}
    assert run_here(runs[good.name]).state_name == "Completed"
    failed = run_here(runs["bad.wav"])
    assert failed.state_name == "Failed"

    state = run_night()
    assert state.is_failed()
    assert state.message == "1 failed, 1 known"
    assert len([run for run in client.read_flow_runs() if run.deployment_id]) == len(runs)
    (row,) = query.episodes(store, state="failed").to_dict("records")
    assert row["reason"] in str(artifacts(client, state)["night"].data)

    client.set_flow_run_state(runs[good.name], Scheduled(name="AwaitingRetry"), force=True)
    again = run_here(runs[good.name])
    assert (again.state_name, again.run_count) == ("Completed", 2)
    wait_for(lambda: ("process", "Cached", 1) in tasks(client, again.id))

    record(bad, seed=3)
    client.set_flow_run_state(failed.id, Scheduled(name="AwaitingRetry"), force=True)
    retried = run_here(failed.id)
    assert (retried.state_name, retried.run_count) == ("Completed", 2)
    assert query.episodes(store, title="bad")["state"].tolist() == ["done"]


def test_an_episode_that_another_process_keeps_is_left_to_it_if_that_makes_the_same(
    inbox: Path, store: Store, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(inbox / "a.wav")
    sha256 = sha256_of(path)
    episode_id = store.register_episode(Episode(path), sha256, path.stat().st_size)
    run_id = store.start_run(episode_id, run_identity(sha256, load_networks(config), config))
    monkeypatch.setattr(episode, "process", episode.process.with_options(retries=0))
    state = process_episode_flow(str(path), return_state=True)
    assert state.is_completed()
    assert f"episode {episode_id} is being processed" in str(state.message)
    changes = {"detection": {"onset": 0.8}}
    state = process_episode_flow(str(path), changes=changes, return_state=True)
    assert state.is_failed()
    assert f"episode {episode_id} is being processed" in str(state.message)
    assert "press Retry" in str(state.message)
    store.fail_run(run_id, "ended")
    assert process_episode_flow(str(path), changes=changes, return_state=True).is_completed()


def test_a_database_that_is_gone_for_a_moment_does_not_cost_the_rest_of_the_night(
    inbox: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(inbox / "a.wav")
    gone = [True]

    def open_late(settings: Settings) -> Store:
        if gone:
            gone.clear()
            raise StoreError("the database cannot be reached")
        return open_store(settings)

    monkeypatch.setattr(nightly, "open_store", open_late)
    monkeypatch.setattr(nightly, "RETRIES", nightly.RETRIES | {"retry_delay_seconds": 0.1})
    assert run_night().is_completed()
    assert query.episodes(store)["state"].tolist() == ["done"]
