"""What is asked for, told or tried again after a night, and what the next night makes of it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nights import record
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.flow_engine import load_flow_and_flow_run, run_flow
from sqlalchemy import select

from bgm_pipeline.errors import StoreError
from bgm_pipeline.pipeline import process_episode
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.orm import RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.types import Episode
from flows.deployments import register
from flows.episode import load_networks
from flows.operate import rerun


@pytest.fixture
def client(config: Settings) -> Iterator[SyncPrefectClient]:
    """Of a server that has no flow runs of episodes yet."""
    with get_client(sync_client=True) as opened:
        for run in opened.read_flow_runs():
            opened.delete_flow_run(run.id)
        yield opened


def work(client: SyncPrefectClient) -> None:
    """What a worker's children do with the flow runs that wait, in this process."""
    waiting = [run for run in client.read_flow_runs() if run.deployment_id and run.state_type == "SCHEDULED"]
    assert waiting
    for run in waiting:
        flow_run, flow = load_flow_and_flow_run(run.id)
        run_flow(flow, flow_run=flow_run, return_type="state")
        assert client.read_flow_run(run.id).state_name == "Completed"


def test_tracks_that_were_to_be_joined_are_joined_when_it_runs_again(
    inbox: Path, store: Store, config: Settings, client: SyncPrefectClient
) -> None:
    register(config)
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
