"""What is asked for, told or tried again after a night, and what the next night makes of it."""

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nights import record
from prefect.client.orchestration import SyncPrefectClient
from prefect.flow_engine import load_flow_and_flow_run, run_flow
from prefect.states import Failed, Scheduled
from sqlalchemy import select, update

from bgm_pipeline import query
from bgm_pipeline.errors import StoreError
from bgm_pipeline.inbox import FoundFile
from bgm_pipeline.pipeline import process_episode
from bgm_pipeline.settings import DetectionSettings, Settings, load_settings
from bgm_pipeline.store.orm import RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.types import Episode
from flows.episode import load_networks
from flows.nightly import DEPLOYMENT, nightly_flow, parameters_of
from flows.operate import failed_episodes, reprocess, rerun

CURE = "put the former one back; this one is for the next night, or for bgm process"


def night() -> str:
    return str(nightly_flow(return_state=True).message)


def work(client: SyncPrefectClient) -> None:
    """What a worker's children do with the flow runs that wait, in this process."""
    waiting = [run for run in client.read_flow_runs() if run.deployment_id and run.state_type == "SCHEDULED"]
    assert waiting
    for run in waiting:
        flow_run, flow = load_flow_and_flow_run(run.id)
        run_flow(flow, flow_run=flow_run, return_type="state")
        assert client.read_flow_run(run.id).state_name == "Completed"


def test_what_was_asked_for_last_stays_shown(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient
) -> None:
    path = record(inbox / "a.wav")
    assert night() == "1 started"
    work(client)
    other = config.model_copy(update={"detection": DetectionSettings(onset=0.75)})
    url = str(client.api_url)
    assert [row.outcome for row in reprocess(store, other, url, [1])] == ["started"]
    work(client)
    assert query.episodes(store)["run_id"].tolist() == [2]
    assert night() == "1 known"
    path.touch()
    assert night() == "1 known"
    assert query.episodes(store)["run_id"].tolist() == [2]
    assert [row.outcome for row in reprocess(store, config, url, [1])] == ["known"]
    assert query.episodes(store)["run_id"].tolist() == [1]


def test_workers_elsewhere_are_told_where_weights_lie_that_are_named_below_the_working_folder(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient, tmp_path: Path
) -> None:
    record(inbox / "a.wav")
    assert night() == "1 started"
    work(client)
    own = Path(shutil.copy(config.detector, tmp_path / "own.safetensors"))
    other = load_settings(detector=own.name, detection={"onset": 0.75})
    assert [row.outcome for row in reprocess(store, other, str(client.api_url), [1])] == ["started"]
    (asked,) = (run for run in client.read_flow_runs() if run.parameters.get("changes"))
    assert asked.parameters["changes"]["detector"] == str(own)
    assert asked.parameters["changes"]["model"] == "passthrough"
    work(client)
    assert query.episodes(store)["run_id"].tolist() == [2]


def test_of_two_files_with_the_same_bytes_the_first_counts_night_after_night(
    inbox: Path, store: Store, client: SyncPrefectClient
) -> None:
    first = record(inbox / "EINS_2026-03-31_20-15-00_Spot.wav")
    assert night() == "1 started"
    work(client)
    shutil.copy(first, inbox / "ZWEI_2026-04-01_21-00-00_Spot.wav")
    for _ in range(2):
        assert night() == "2 known"
        assert query.episodes(store)["channel"].tolist() == ["EINS"]
    first.unlink()
    assert night() == "1 known"
    assert query.episodes(store)["channel"].tolist() == ["ZWEI"]
    (told,) = (one for one in client.read_artifacts() if one.key == "night" and "known as EINS" in one.data)
    assert "before, now as ZWEI, 2026-04-01 21:00:00+02:00, Spot" in told.data


def test_a_flow_run_that_is_late_or_retried_takes_no_newer_title_away(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient
) -> None:
    path = record(inbox / "a.wav")
    assert night() == "1 started"
    (inbox / "inbox.csv").write_text("file,title,air_start\na.wav,Late show,2026-03-31 20:15\n")
    assert night() == "1 started"
    work(client)
    (run,) = (run for run in client.read_flow_runs() if run.deployment_id)
    assert run.parameters["title"] == "a"
    path.touch()
    client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
    work(client)
    (episode,) = query.episodes(store).to_dict("records")
    assert (episode["state"], episode["title"]) == ("done", "Late show")
    assert episode["air_start"].timestamp() == 1774980900


def test_an_episode_whose_place_another_recording_took_is_not_made_anew_from_that(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient
) -> None:
    """As recorders do that write the same names every week."""
    path = record(inbox / "EINS_Show.wav")
    last_week = datetime(2026, 3, 24, 20, 15, tzinfo=UTC)
    networks = load_networks(config)
    process_episode(Episode(path, title="Last week", air_start=last_week), store, networks, config)
    record(path, seed=1)
    process_episode(Episode(path, title="This week"), store, networks, config)
    other = config.model_copy(update={"detection": config.detection.model_copy(update={"onset": 0.75})})
    url = str(client.api_url)
    refused = ("failed", f"{path}: another recording lies there now; {CURE}")
    assert [(row.outcome, row.reason) for row in reprocess(store, other, url, [1])] == [refused]
    with store.writing() as session:
        failed = {"state": "failed", "is_current": False}
        session.execute(update(RunRow).where(RunRow.episode_id == 1).values(failed))
    assert [(row.outcome, row.reason) for row in reprocess(store, other, url, [1])] == [refused]
    assert [(row.outcome, row.reason) for row in rerun(store, config, url, [1])] == [refused]
    assert query.episodes(store)["title"].tolist() == ["This week", "Last week"]


def test_a_flow_run_whose_file_was_recorded_over_gives_no_recording_the_title_of_another(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient
) -> None:
    """A recorder that writes the same names every week, and a worker that comes late."""
    path, table = record(inbox / "rec_0001.wav"), inbox / "inbox.csv"
    last_week = path.read_bytes()
    table.write_text("file,channel,title,air_start\nrec_0001.wav,EINS,Last week,2026-03-24 20:15\n")
    assert night() == "1 started"
    (run,) = (run for run in client.read_flow_runs() if run.deployment_id)
    record(path, seed=1)
    url = str(client.api_url)

    def ended() -> str:
        flow_run, flow = load_flow_and_flow_run(run.id)
        run_flow(flow, flow_run=flow_run, return_type="state")
        return f"{client.read_flow_run(run.id).state_name}: {client.read_flow_run(run.id).state.message}"

    refused = f"{path}: another recording lies there now; {CURE}"
    assert ended() == f"Failed: {refused}"
    assert failed_episodes(store, url) == [1]
    assert [row.outcome for row in rerun(store, config, url, [1])] == ["started"]
    assert ended() == f"Failed: {refused}"
    assert query.episodes(store)["title"].tolist() == ["Last week"]

    table.write_text("file,channel,title,air_start\nrec_0001.wav,EINS,This week,2026-03-31 20:15\n")
    assert night() == "1 started"
    work(client)
    assert failed_episodes(store, url) == [1], (
        "the lost broadcast can be seen, and nothing blames the new one"
    )
    shown = query.episodes(store).set_index("title")
    assert shown["state"].to_dict() == {"This week": "done", "Last week": "failed"}
    assert shown.loc["Last week", "reason"] == refused
    assert str(run.id) in shown.loc["Last week", "flow_run_url"]

    path.write_bytes(last_week)
    assert [row.outcome for row in rerun(store, config, url, [1])] == ["started"]
    work(client)
    assert query.episodes(store).set_index("title")["state"].to_dict() == {
        "This week": "done",
        "Last week": "done",
    }


def test_a_flow_run_of_an_earlier_version_runs_again_with_the_bytes_it_was_made_for(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient
) -> None:
    path = record(inbox / "rec_0001.wav")
    networks = load_networks(config)
    told = Episode(path, "EINS", "Last week", datetime(2026, 3, 24, 20, 15, tzinfo=UTC))
    in_the_way = Path(config.resolved_stem_store)
    in_the_way.write_text("no disk")
    deployment = client.read_deployment_by_name(DEPLOYMENT)
    parameters = parameters_of(FoundFile(path.name, told))
    del parameters["source_sha256"]
    run = client.create_flow_run_from_deployment(
        deployment.id, parameters=parameters, state=Failed(message="no disk")
    )
    link = f"http://prefect/flow-runs/flow-run/{run.id}"
    with pytest.raises(StoreError):
        process_episode(told, store, networks, config, flow_run_url=link)
    in_the_way.unlink()
    last_week = path.read_bytes()
    record(path, seed=1)
    url = str(client.api_url)
    assert [row.reason for row in rerun(store, config, url, [1])] == [
        f"{path}: another recording lies there now; {CURE}"
    ]
    path.write_bytes(last_week)
    assert [row.outcome for row in rerun(store, config, url, [1])] == ["started"]
    work(client)
    assert query.episodes(store)[["title", "state"]].values.tolist() == [["Last week", "done"]]


def test_without_a_deployment_a_table_that_comes_later_is_heard(inbox: Path, store: Store) -> None:
    record(inbox / "a.wav")
    assert night().startswith("1 new")
    (inbox / "inbox.csv").write_text("file,title\na.wav,Late show\n")
    assert night() == "1 known"
    assert query.episodes(store)["title"].tolist() == ["Late show"]


def test_tracks_that_were_to_be_joined_are_joined_when_it_runs_again(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient
) -> None:
    mono, path = record(inbox / "mono.wav"), inbox / "a.mkv"
    tracks = ["-map", "0:a"] * 3
    subprocess.run(["ffmpeg", "-v", "error", "-i", mono, *tracks, path], check=True, timeout=60)
    in_the_way = Path(config.resolved_stem_store)
    in_the_way.write_text("no disk")
    with pytest.raises(StoreError):
        process_episode(Episode(path), store, load_networks(config), config, join_tracks=True)
    in_the_way.unlink()
    assert [row.outcome for row in rerun(store, config, str(client.api_url), [1])] == ["started"]
    work(client)
    with store.reading() as connection:
        selections = connection.scalars(select(RunRow.selection).where(RunRow.state == "done")).all()
    assert [selection["streams"] for selection in selections] == [[0, 1, 2]]
