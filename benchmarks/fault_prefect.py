"""Faults of `faults.py` that need Prefect: one `bgm up` with three workers is broken again and again."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from fault_site import Postgres, Site, WrongError, record, wait_for
from sqlalchemy import select

from bgm_pipeline import query
from bgm_pipeline.errors import BgmError
from bgm_pipeline.store.orm import RunRow

WORKERS = 3
START_S = 400.0
RECOVER_S = 500.0
NIGHT_S = 3_600.0
KILL_EVERY_S = 20.0
UNENDED = ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED"]


class PrefectSite:
    """A site whose episodes are flow runs."""

    def __init__(
        self,
        folder: Path,
        postgres: Postgres,
        server_url: str,
        detector: Path,
        chance: random.Random,
        episodes: int,
    ) -> None:
        self.postgres = postgres
        self._server_url = server_url.replace("postgresql://", "postgresql+asyncpg://")
        self.site = Site(folder, postgres.new_database("prefect"), detector)
        self.chance = chance
        self.episodes = episodes
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._port = str(port)
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=30, trust_env=False)
        self._process: subprocess.Popen[str] | None = None
        self._count = 0

    def up(self) -> None:
        """Start server, deployments and workers; returns when they are ready."""
        environment = {
            "BGM_NIGHT__TAKE_UPS": "20",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self._server_url,
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        self._process = self.site.start(
            "up", "--port", self._port, "--workers", str(WORKERS), environment=environment
        )
        log = self.site.folder / "bgm.log"
        wait_for(lambda: "ready:" in log.read_text() or self._process.poll() is not None, "bgm up", START_S)  # type: ignore[union-attr]
        if self._process.poll() is not None:
            raise WrongError(f"bgm up ended: {log.read_text()[-500:]}")

    def down(self) -> None:
        """End all of it."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(90)
            self._process.kill()

    def submit(self) -> str:
        """A new recording, and a flow run for it; the file's name."""
        self._count += 1
        name = f"{self._count}.wav"
        path = self.site.add(name, 120, seed=1_000 + self._count)
        deployment = self._get("/deployments/name/process-episode/process-episode")
        self._post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"path": str(path)}})
        return name

    def midway(self) -> int:
        """Wait until a flow run's process is at work on an episode, and stop it; its number."""
        found: list[int] = []

        def at_work() -> bool:
            with self.site.store() as store, store.reading() as connection:
                owners = connection.scalars(select(RunRow.owner).where(RunRow.state == "running")).all()
            found[:] = [int(owner.rpartition(" ")[2]) for owner in owners]
            return bool(found)

        wait_for(at_work, "a flow run that is at work", RECOVER_S)
        os.kill(found[0], signal.SIGSTOP)
        self.site.broken_at = time.monotonic()
        return found[0]

    def recovered(self, name: str) -> float:
        """Wait until an episode is done and its flow run has ended; how many seconds that took."""

        def is_done() -> bool:
            time.sleep(1)
            with self.site.store() as store:
                done = query.episodes(store, state="done")["path"]
            with suppress(httpx.HTTPError):
                return name in {Path(path).name for path in done} and not self.unended()
            return False

        return wait_for(is_done, f"{name} done and its flow run ended", RECOVER_S)

    def unended(self) -> int:
        """How many flow runs that were not put off have not ended."""
        runs = {"state": {"type": {"any_": UNENDED}}}
        flows = {"name": {"any_": ["process-episode", "take-up"]}}
        response = self._api.post("/flow_runs/count", json={"flow_runs": runs, "flows": flows})
        response.raise_for_status()
        return int(response.json())

    def start_night(self) -> None:
        """Ask for the flow `nightly`."""
        deployment = self._get("/deployments/name/nightly/nightly")
        self._post(f"/deployments/{deployment['id']}/create_flow_run", {})

    def pids(self, *words: str) -> list[int]:
        """Descendants of `bgm up` whose command line has all these words."""
        if self._process is None:
            return []
        family, found = {self._process.pid}, list[int]()
        for pid, parent, command in sorted(_processes()):
            if parent in family:
                family.add(pid)
                if all(word in command for word in words):
                    found.append(pid)
        return found

    def _get(self, path: str) -> dict[str, Any]:
        response = self._api.get(path)
        response.raise_for_status()
        return dict(response.json())

    def _post(self, path: str, body: dict[str, Any]) -> None:
        self._api.post(path, json=body).raise_for_status()


PrefectFault = Callable[[PrefectSite], str]


def flow_run_killed(site: PrefectSite) -> str:
    """SIGKILL of a flow run's process"""
    name = site.submit()
    os.kill(site.midway(), signal.SIGKILL)
    return f"taken up again by itself; done after {site.recovered(name):.0f} s"


def worker_killed(site: PrefectSite) -> str:
    """SIGKILL of a worker with a flow run"""
    return _end_worker(site, signal.SIGKILL)


def worker_terminated(site: PrefectSite) -> str:
    """SIGTERM to a worker with a flow run"""
    return _end_worker(site, signal.SIGTERM)


def _end_worker(site: PrefectSite, number: signal.Signals) -> str:
    name = site.submit()
    pid = site.midway()
    worker = _parent_of(pid)
    os.kill(worker, number)
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.1)
    done_s = site.recovered(name)
    return f"its run was taken up again by itself; done after {done_s:.0f} s"


def server_killed(site: PrefectSite) -> str:
    """SIGKILL of Prefect's server while a flow run is at work"""
    name = site.submit()
    pid = site.midway()
    for server in site.pids("prefect", "server") + site.pids("uvicorn"):
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)
    os.kill(pid, signal.SIGCONT)
    return f"begun again by bgm up; all ended after {site.recovered(name):.0f} s"


def postgres_killed_under_workers(site: PrefectSite) -> str:
    """SIGKILL of PostgreSQL while a flow run is at work, back after 3 s"""
    name = site.submit()
    pid = site.midway()
    site.postgres.kill()
    os.kill(pid, signal.SIGCONT)
    time.sleep(3)
    site.postgres.start()
    return f"done after {site.recovered(name):.0f} s"


def night_of_many(site: PrefectSite) -> str:
    """a night of many short episodes over three workers; something is killed at random every 20 s"""
    for number in range(site.episodes):
        name = f"night-{number:03}.wav"
        site.site.good.append(name)
        record(site.site.inbox / name, 3, seed=10_000 + number)
    for number in range(3):
        site.site.add_bad(f"bad-{number}.ts")
    began = time.monotonic()
    site.start_night()
    kills: dict[str, int] = {}
    due_at = began + KILL_EVERY_S
    while time.monotonic() - began < NIGHT_S:
        time.sleep(1)
        try:
            with site.site.store() as store:
                frame = query.episodes(store)
            ended = int(frame["state"].isin(["done", "failed"]).sum())
            if ended >= len(site.site.good) + len(site.site.bad) and not site.unended():
                break
        except (httpx.HTTPError, BgmError):
            ended = 0  # The server or the database was killed just now.
        if time.monotonic() > due_at and 0 < ended < len(site.site.good):
            due_at = time.monotonic() + KILL_EVERY_S
            victim = _kill_one(site)
            kills[victim] = kills.get(victim, 0) + 1
    told = ", ".join(f"{victim} {count} times" for victim, count in sorted(kills.items())) or "nothing"
    return f"{site.episodes} good and 3 bad episodes in {time.monotonic() - began:.0f} s; killed were: {told}"


def _kill_one(site: PrefectSite) -> str:
    victim = site.chance.choices(["a flow run", "a worker", "the server", "PostgreSQL"], [5, 3, 1, 1])[0]
    if victim == "PostgreSQL":
        site.postgres.kill()
        site.postgres.start()
        return victim
    words = {"a flow run": ("prefect.engine",), "a worker": ("prefect", "worker", "start")}
    pids = site.pids(*words.get(victim, ("prefect", "server")))
    if not pids:
        return f"{victim} (none there)"
    with suppress(ProcessLookupError):
        os.kill(site.chance.choice(pids), signal.SIGKILL)
    return victim


def _parent_of(pid: int) -> int:
    return next(parent for one, parent, _ in _processes() if one == pid)


def _processes() -> list[tuple[int, int, str]]:
    """Number, parent and command line of every process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            command = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append((int(stat.parent.name), parent, command))
    return found


PREFECT_FAULTS: tuple[PrefectFault, ...] = (
    flow_run_killed,
    worker_killed,
    worker_terminated,
    server_killed,
    postgres_killed_under_workers,
    night_of_many,
)
