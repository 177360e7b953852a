"""Processes that are killed, and processes that write at the same time: real ones."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

import pytest
from sqlalchemy import func, select

from bgm_pipeline import query
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.check import check_store, remove_leftovers
from bgm_pipeline.store.orm import RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store, upgrade_database
from store.child import LEVELS, run_until, write_many
from store.samples import add_episode, add_run, files, identity, keys, rows, sha256

EARLIER = (None, -9.0, -9.0)
POINTS = (
    "after start_run",
    "inside a stem",
    "between stems",
    "before finish_run",
    "before the commit",
    "after the commit",
)


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["alembic.command", "bgm_pipeline.pipeline", "psycopg", "s3fs"])


def start(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    process = PROCESSES.Process(target=work, args=arguments)
    process.start()
    return process


def kill_child(settings: Settings, point: str, model: str) -> None:
    child = start(run_until, settings, point, model)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_leaves_what_was_there_and_running_again_makes_it_good(
    store_settings: Settings, store: Store, point: str
) -> None:
    episode_id = add_episode(store, "a.ts")
    undisturbed = add_episode(store, "undisturbed.ts")
    add_run(store, undisturbed, identity("undisturbed.ts"), LEVELS)
    add_run(store, episode_id, identity("a.ts", "old"), EARLIER)
    before, whole = rows(store, episode_id), rows(store, undisturbed)

    kill_child(store_settings, point, "new")
    committed = point == "after the commit"
    assert rows(store, episode_id) == (whole if committed else before)
    state = query.episodes(store, episode_id=episode_id)["state"].item()
    assert state == ("done" if committed else "running")
    broken = {problem.subject.partition(" ")[0] for problem in check_store(store, deep=True)}
    assert broken == (set() if committed else {"run"})

    again = add_episode(store, "a.ts")
    done = store.find_done_run(again, identity("a.ts", "new"))
    assert (done is not None) == committed
    if not committed:
        add_run(store, again, identity("a.ts", "new"), LEVELS)
    assert again == episode_id
    assert rows(store, episode_id) == whole
    assert list(check_store(store, deep=True)) == []
    assert files(store) == keys(store)


@pytest.mark.parametrize("point", ["before the commit", "after the commit"])
def test_killed_while_an_equal_run_is_replaced(store_settings: Settings, store: Store, point: str) -> None:
    episode_id = add_episode(store, "a.ts")
    add_run(store, episode_id, identity("a.ts"), LEVELS)
    before = rows(store, episode_id)
    kill_child(store_settings, point, "net")

    assert rows(store, episode_id) == before
    assert store.find_done_run(episode_id, identity("a.ts")) is not None
    assert keys(store) < files(store), "the other run's files lie there still"
    add_episode(store, "a.ts")
    list(remove_leftovers(store))
    assert list(check_store(store, deep=True)) == []
    assert files(store) == keys(store)


def test_the_check_clears_up_after_a_killed_run(store_settings: Settings, store: Store) -> None:
    kill_child(store_settings, "inside a stem", "net")
    (left,) = files(store)
    assert left.endswith(".tmp")
    (problem,) = check_store(store)
    assert "has died" in problem.message
    list(remove_leftovers(store))
    assert list(check_store(store)) == []
    assert files(store) == set()
    assert query.episodes(store)["state"].item() == "failed"
    assert query.episodes(store)["reason"].item().startswith("interrupted: its process ended")


def test_several_processes_write_to_one_database_that_none_has_made(store_settings: Settings) -> None:
    if not store_settings.resolved_database_url.startswith("sqlite"):
        upgrade_database(store_settings)
    writers, episodes = 4, 5
    children = [start(write_many, store_settings, str(name), episodes) for name in range(writers)]
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * writers

    with open_store(store_settings) as store:
        with store.reading() as connection:
            runs = select(func.count()).select_from(RunRow).where(RunRow.state == "done")
            assert connection.scalar(runs) == writers * episodes + 1
            of_shared = runs.where(RunRow.source_sha256 == sha256("shared.ts"))
            assert connection.scalar(of_shared) == 1
        assert len(query.segments(store)) == (writers * episodes + 1) * len(LEVELS)
        assert list(check_store(store, deep=True)) == []
        assert files(store) == keys(store)
