"""Failures that came before a run did are failed runs, once."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select, update

from bgm_pipeline import query
from bgm_pipeline.store.failures import FailedFlowRun, note_failures
from bgm_pipeline.store.functions import Clock
from bgm_pipeline.store.orm import EpisodeRow, RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.types import Episode
from store.samples import add_episode, add_run, identity, sha256


def failed_run_of(store: Store, name: str, seconds_ago: float, flow_run_id: str) -> FailedFlowRun:
    with store.reading() as connection:
        now = connection.execute(select(Clock())).scalar_one()
    failed_at, url = now - timedelta(seconds=seconds_ago), f"http://prefect/flow-run/{flow_run_id}"
    path = str(Path("/inbox") / name)
    return FailedFlowRun(path, failed_at, f"{name}: no such network", flow_run_id, url, (1, 2))


def test_a_failure_without_a_run_becomes_one_once(store: Store) -> None:
    add_episode(store, "a.ts")
    failure = failed_run_of(store, "a.ts", 60, "11")
    unknown = failed_run_of(store, "unknown.ts", 60, "12")
    for _ in range(2):
        note_failures(store, [failure, unknown])
    (row,) = query.episodes(store, state="failed").to_dict("records")
    assert (row["reason"], row["flow_run_url"]) == (failure.reason, failure.flow_run_url)
    assert abs(row["finished_at"] - failure.failed_at) < timedelta(seconds=1)
    with store.reading() as connection:
        (settings,) = connection.scalars(select(RunRow.settings))
    assert settings == {"audio_streams": [1, 2]}


def test_what_a_run_tells_already_is_not_told_again(store: Store) -> None:
    own, later = failed_run_of(store, "a.ts", 0, "11"), failed_run_of(store, "b.ts", 3600, "12")
    store.fail_run(
        store.start_run(add_episode(store, "a.ts"), identity("a.ts"), own.flow_run_url), "no such file"
    )
    store.fail_run(store.start_run(add_episode(store, "b.ts"), identity("b.ts")), "begun anew since")
    note_failures(store, [own, later])
    assert sorted(query.episodes(store)["reason"]) == ["begun anew since", "no such file"]
    with store.reading() as connection:
        assert len(connection.scalars(select(RunRow.id)).all()) == 2


def test_an_episode_that_is_done_has_not_failed_because_its_flow_run_did_later(store: Store) -> None:
    flow_run = failed_run_of(store, "a.ts", 0, "11")
    add_run(store, add_episode(store, "a.ts"), identity("a.ts"), (None,))
    with store.writing() as session:
        long_ago = flow_run.failed_at - timedelta(hours=1)
        session.execute(
            update(RunRow).values(
                flow_run_url=flow_run.flow_run_url, started_at=long_ago, finished_at=long_ago
            )
        )
        session.execute(update(EpisodeRow).values(registered_at=long_ago))
    note_failures(store, [flow_run])
    assert query.episodes(store)["state"].tolist() == ["done"]


def test_the_file_that_lies_there_now_has_not_failed(store: Store) -> None:
    add_episode(store, "a.ts")
    note_failures(store, [failed_run_of(store, "a.ts", 3600, "11")])
    assert query.episodes(store)["state"].tolist() == ["new"]


def test_a_failure_is_that_of_the_bytes_that_were_meant(store: Store) -> None:
    """Another recording lies at that path by now, which has done nothing wrong."""
    for name in ("last week", "this week"):
        store.register_episode(Episode(Path("/inbox/a.ts"), title=name), sha256(name), 1)
    failure = replace(failed_run_of(store, "a.ts", 60, "11"), source_sha256=sha256("last week"))
    for _ in range(2):
        note_failures(store, [failure, replace(failure, source_sha256=sha256("unknown"))])
    assert query.episodes(store, state="failed")["title"].tolist() == ["last week"]


def test_a_mended_file_that_fails_again_has_failed_once(store: Store) -> None:
    broken, mended = (
        store.register_episode(Episode(Path("/inbox/a.ts"), title=name), sha256(name), 1)
        for name in ("broken", "mended")
    )
    failure = replace(failed_run_of(store, "a.ts", 0, "11"), source_sha256=sha256("broken"))
    store.fail_run(store.start_run(mended, identity("mended"), failure.flow_run_url), "no music in it")
    note_failures(store, [failure])
    states = query.episodes(store).set_index("episode_id")["state"]
    assert (states[broken], states[mended]) == ("new", "failed")


def test_another_try_of_a_flow_run_that_failed_earlier_is_told_of(store: Store) -> None:
    add_episode(store, "a.ts")
    first, second = (failed_run_of(store, "a.ts", seconds, "11") for seconds in (3600, 60))
    with store.writing() as session:
        session.execute(update(EpisodeRow).values(registered_at=first.failed_at - timedelta(seconds=60)))
    note_failures(store, [first])
    note_failures(store, [second])
    (row,) = query.episodes(store, state="failed").to_dict("records")
    assert abs(row["started_at"] - second.failed_at) < timedelta(seconds=1)
