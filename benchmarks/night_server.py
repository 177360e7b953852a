"""A Prefect server and its workers for `night_costs.py`, and how much memory they take."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[1]
PREFECT = [sys.executable, "-m", "prefect"]


class Server:
    """A Prefect server with a home of its own, and the environment in which others find it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self.database = home / "prefect.db"
        os.environ.update(
            DO_NOT_TRACK="1",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_HOME=str(home),
            PREFECT_LOCAL_STORAGE_PATH=str(home / "results"),
            PREFECT_API_URL=f"http://127.0.0.1:{self._port}/api",
            PREFECT_LOGGING_LEVEL="WARNING",
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",
            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        )

    def __enter__(self) -> Self:
        self.start()
        prefect("work-pool", "create", "bgm", "--type", "process")
        prefect("--no-prompt", "deploy", "--all", "--prefect-file", ROOT / "deploy" / "prefect.yaml")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, **settings: str) -> None:
        """Starts it, and waits until it answers."""
        command = [*PREFECT, "server", "start", "--port", str(self._port)]
        with (self.home / "server.log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | settings)
        wait_until(self._answers, "the Prefect server answers", 180)

    def stop(self) -> None:
        """Stops it."""
        stop(self._child)

    def memory_mb(self) -> float:
        """Resident memory of all its processes."""
        process = psutil.Process(self._child.pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6

    def sizes_mb(self) -> tuple[float, float]:
        """Pages of the database that are in use, and its files."""
        (pages,), (free,), (size,) = (
            self.ask(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size")
        )
        files = (path.stat().st_size for path in self.home.glob("prefect.db*"))
        return (pages - free) * size / 1e6, sum(files) / 1e6

    def ask(self, question: str) -> list[Any]:
        """Rows of the server's database."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=60)
        try:
            return connection.execute(question).fetchall()
        finally:
            connection.close()

    def _answers(self) -> bool:
        if self._child.poll() is not None:
            raise SystemExit((self.home / "server.log").read_text()[-2000:])
        try:
            with urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5):  # noqa: S310
                return True
        except OSError:
            return False


class Watch:
    """The most memory that server, workers and flow runs had while it was watched, MB a process."""

    def __init__(self, server: Server, workers: Sequence[int]) -> None:
        self.peak_mb: dict[str, float] = defaultdict(float)
        self._server, self._workers = server, workers
        self._stopped = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.5):
            self._note("server", self._server.memory_mb())
            for pid in self._workers:
                try:
                    worker = psutil.Process(pid)
                    self._note("worker", worker.memory_info().rss / 1e6)
                    for child in worker.children(recursive=True):
                        if child.name().startswith("python"):
                            self._note("flow run", child.memory_info().rss / 1e6)
                except psutil.NoSuchProcess:
                    continue

    def _note(self, what: str, size_mb: float) -> None:
        self.peak_mb[what] = max(self.peak_mb[what], size_mb)


def prefect(*arguments: object) -> None:
    """Runs Prefect's own command; it must succeed."""
    command = [*PREFECT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def stop(child: "subprocess.Popen[bytes]") -> None:
    """Ends a child and its children."""
    family = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
    child.terminate()
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for left in family:
        if left.is_running():
            left.kill()


def wait_until(fulfilled: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Waits for something that has to come."""
    deadline_s = time.monotonic() + timeout_s
    while not fulfilled():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.5)
