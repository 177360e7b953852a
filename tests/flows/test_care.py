"""What is done besides episodes."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nights import record
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from sqlalchemy import update
from store.samples import identity

from bgm_pipeline import query
from bgm_pipeline.media.probe import sha256_of
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.orm import RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.types import Episode
from flows.care import report_flow, retention_flow, store_check_flow
from flows.episode import process_episode_flow


def test_a_store_that_agrees_is_green_and_one_that_does_not_is_red(
    inbox: Path, store: Store, config: Settings
) -> None:
    process_episode_flow(str(record(inbox / "a.wav")))
    assert store_check_flow(return_state=True).is_completed()
    stray = Path(store.stems.shown(f"{store.stems.namespace}/stray"))
    stray.write_text("left over")
    state = store_check_flow(return_state=True)
    assert state.is_failed()
    assert str(stray) in str(state.message)
    assert store_check_flow(remove=True, return_state=True).is_completed()
    assert not stray.exists()


def test_what_prefect_keeps_of_a_store_with_many_faults_is_bounded(
    store: Store, client: SyncPrefectClient
) -> None:
    for number in range(1005):
        store.stems.storage.write(f"{store.stems.namespace}/stray{number}", b"")
    assert str(store_check_flow(return_state=True).message).startswith("1005 problems, the first: ")
    (artifact,) = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["store-check"])),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    assert len(json.loads(str(artifact.data))) == 1000
    assert str(artifact.description).startswith("1005 problems, of which these are the first 1000; ")


def test_retention_drops_what_others_took_the_place_of(
    inbox: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(record(inbox / "a.wav"))
    process_episode_flow(path)
    process_episode_flow(path, changes={"detection": {"onset": 0.8}})
    assert "0 old runs" in str(retention_flow(return_state=True).message)
    monkeypatch.setenv("BGM_NIGHT__OLD_RUNS_KEPT_DAYS", "0")
    assert "1 old runs" in str(retention_flow(return_state=True).message)
    assert query.episodes(store)["run_id"].tolist() == [2]
    assert store_check_flow(deep=True, return_state=True).is_completed()


def test_retention_deletes_what_tasks_gave_long_ago_and_nothing_of_others(inbox: Path, store: Store) -> None:
    storage = PREFECT_LOCAL_STORAGE_PATH.value()
    before = set(storage.rglob("*"))
    process_episode_flow(str(record(inbox / "a.wav")))
    (given,) = (path for path in set(storage.rglob("*")) - before if path.is_file())
    of_another = storage / "of another program"
    of_another.write_text("kept")
    retention_flow()
    assert given.is_file()
    for path in (given, of_another):
        os.utime(path, (0, 0))
    retention_flow()
    assert not given.exists()
    assert of_another.read_text() == "kept"


def test_an_episode_that_takes_too_long_has_failed_and_says_so(
    inbox: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_NIGHT__EPISODE_TIMEOUT_S", "0.05")
    path = record(inbox / "a.wav", 600)
    store.register_episode(Episode(path), sha256_of(path), path.stat().st_size)
    state = process_episode_flow(str(path), return_state=True)
    assert state.is_failed()
    assert state.message == (
        f"{inbox / 'a.wav'}: not done after 0.05 s; see what holds it up, "
        "or raise BGM_NIGHT__EPISODE_TIMEOUT_S"
    )
    report = report_flow(hours=1, return_state=True)
    assert report.is_failed()
    assert "0 done, 1 failed, 0 running, 0 not begun" in str(report.message)
    assert str(state.message) in str(report.message)
    assert "0 failed" in str(report_flow(hours=0, return_state=True).message)


def test_what_began_before_the_last_report_and_failed_since_is_reported(inbox: Path, store: Store) -> None:
    """An episode of the night may be in work when the morning's report is made."""
    (inbox / "bad.wav").write_text("no sound")
    process_episode_flow(str(inbox / "bad.wav"), return_state=True)
    path = record(inbox / "long.wav", seed=1)
    episode_id = store.register_episode(Episode(path), sha256_of(path), path.stat().st_size)
    run_id = store.start_run(episode_id, identity("long.wav"))
    with store.writing() as session:
        session.execute(update(RunRow).values(started_at=datetime.now(UTC) - timedelta(hours=30)))
    report = report_flow(hours=24, return_state=True)
    assert report.is_failed()
    assert "0 done, 1 failed, 1 running, 0 not begun" in str(report.message)
    store.withdraw_run(run_id)


def test_a_file_that_is_gone_is_a_failed_run_with_a_link(inbox: Path, store: Store) -> None:
    path = record(inbox / "a.wav")
    process_episode_flow(str(path))
    path.unlink()
    state = process_episode_flow(str(path), return_state=True)
    assert state.is_failed()
    (row,) = query.episodes(store, state="failed").to_dict("records")
    assert row["reason"] == state.message
    assert "no such file" in row["reason"]
    assert str(state.state_details.flow_run_id) in row["flow_run_url"]
    assert row["run_id"] == 1, "its results are still shown"


def test_the_report_tells_times_in_the_zone_of_the_inbox(
    store: Store, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_INBOX__TIME_ZONE", "Asia/Tokyo")
    assert "+09:00: 0 done" in str(report_flow(hours=0, return_state=True).message)
