"""`bgm up`: a Prefect server, its deployments and its workers on this machine, kept running.

Everything runs as a child of this process, and dies with it, however it dies. Prefect is imported by the
children alone.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from bgm_pipeline.errors import InputError, StoreError
from bgm_pipeline.folders import alone, make_folder
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.session import open_store
from flows import names
from flows.api import Api
from flows.children import Child
from flows.rescue import Rescue
from flows.server import prefect_home, url_file
from flows.tied import WORKING_FOLDER

START_TIMEOUT_S = 180.0
STOP_S = 15.0
"""So long may a child take to end in its own way."""

AUTH = "PREFECT_SERVER_API_AUTH_STRING"
"""Environment variable: `user:password` that the server asks for."""

DATABASE_URLS = {"PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL"}
"""Environment variables that name the server's database; without them it has a SQLite file."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.3


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in ("127.0.0.1", "localhost", "::1")

    @property
    def ui_url(self) -> str:
        """What to open in a browser on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def api_url(self) -> str:
        """What Prefect's clients on this machine are told."""
        return f"{self.ui_url}/api"


class StoppedError(Exception):
    """Somebody wants it to end."""


def run_up(
    settings: Settings, place: Place, inbox: Path, *, workers: int, now: bool, say: Callable[[str], None]
) -> None:
    """Starts everything, says when it is ready, and keeps it running until SIGINT, SIGTERM or, but
    for nohup, SIGHUP.

    Args:
        inbox: the folder that is looked through every night.
        workers: so many worker processes.
        now: look through the inbox at once, too.
        say: is told what happens, a line at a time.

    Raises:
        InputError: the port is taken, another `bgm up` runs with these data, or the time zone of schedules
            cannot be told.
        StoreError: the database cannot be used, or the server or the deployments cannot be had.
    """
    open_store(settings).close()
    home = prefect_home(settings)
    make_folder(home)
    if not inbox.is_dir():  # one that is there may be a share that is only read
        make_folder(inbox)
    environment = _environment(settings, place, inbox)
    api = Api(place.api_url, environment.get("PREFECT_API_AUTH_STRING"))
    busy = "another bgm up runs here; bgm status tells of it; end it, or set another BGM_DATA_DIR"
    with alone(home / "up.lock", busy), closing(api):
        _check_free(place)
        children: list[Child] = []
        rescue = Rescue(api, environment, home / "logs")
        for number in _SIGNALS:
            # nohup ignores it, so that what it starts outlasts its terminal.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _stop)
        try:
            _start(children, environment, api, place, settings, workers, now)
            url_file(settings).write_text(f"{place.api_url}\n")
            say(f"ready: {place.ui_url} (inbox {inbox}, logs {home / 'logs'})")
            while True:
                for child in children:
                    if (said := child.revive()) is not None:
                        say(said)
                rescue.look(say)
                time.sleep(_POLL_S)
        except StoppedError:
            say("stopping")
        finally:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            rescue.stop(STOP_S)
            for child in reversed(children):
                child.end_children(STOP_S)
                child.stop(STOP_S)
    say("stopped; what was in work goes on with the next bgm up")


def _start(
    children: list[Child],
    environment: dict[str, str],
    api: Api,
    place: Place,
    settings: Settings,
    workers: int,
    now: bool,
) -> None:
    """Starts server, deployments and workers, each when the one before is ready."""
    logs = prefect_home(settings) / "logs"

    def start(name: str, *arguments: str, before: Callable[[], bool] = lambda: True) -> Child:
        child = Child(name, list(arguments), environment, logs, before)
        children.append(child)
        child.start()
        return child

    listen = ("--host", place.host, "--port", str(place.port))
    server = start("server", "prefect", "server", "start", *listen)
    _wait_for(server, api.is_healthy)

    registering = start("deployments", "flows.deployments", *(["--now"] if now else []))
    if registering.wait(START_TIMEOUT_S) != 0:
        raise _not_started(registering)
    children.remove(registering)

    limit = str(settings.night.episodes_at_once)
    pool = ("--pool", names.POOL, "--type", "process", "--limit", limit)
    for number in range(1, workers + 1):
        name = f"{socket.gethostname()}-{number}"
        # What a worker of this name was at work on when it ended is begun again, by an automation.
        bury = partial(api.bury_runs_of, name)
        worker = start(f"worker-{number}", "prefect", "worker", "start", "--name", name, *pool, before=bury)
        _wait_for(worker, lambda name=name: name in api.online_workers())  # type: ignore[misc]


def _environment(settings: Settings, place: Place, inbox: Path) -> dict[str, str]:
    """What the children are told; what the user's environment says of Prefect's server counts before it."""
    home = prefect_home(settings)
    kept_s = round(settings.night.flow_runs_kept_days * 86_400)
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        # The server copies its page there as it starts; its own package may be another user's.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(kept_s),
        # SQLite has one writer at a time; who waits for a busy disk shall not be told that all is lost.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_WORKER_QUERY_SECONDS": "5",
    }
    fixed = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": place.api_url,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(names.HEARTBEAT_S),
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "BGM_DATA_DIR": str(settings.data_dir.absolute()),
        "BGM_INBOX__FOLDER": str(inbox.absolute()),
        "BGM_DATABASE_URL": settings.resolved_database_url,
        "BGM_STEM_STORE": settings.resolved_stem_store,
        "BGM_NIGHT__TIME_ZONE": settings.night_zone,
        WORKING_FOLDER: str(Path.cwd()),
    }
    environment = defaults | dict(os.environ) | fixed
    if auth := environment.get(AUTH):
        environment.setdefault("PREFECT_API_AUTH_STRING", auth)
    return environment


def _wait_for(child: Child, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while child.pid is not None and time.monotonic() < deadline:
        if is_ready():
            return
        time.sleep(_POLL_S)
    raise _not_started(child)


def _not_started(child: Child) -> StoreError:
    how = f"has not started after {START_TIMEOUT_S:g} s" if child.pid else "ended at once"
    child.stop(STOP_S)
    return StoreError(f"{child.name} {how}: {child.last_line()}; see {child.log}")


def _check_free(place: Place) -> None:
    """A server of somebody else's must not be taken for the one that is started here."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((place.host, place.port))
        except OSError as error:
            cure = "end what listens there, or name another: bgm up --port"
            raise InputError(
                f"{place.host}:{place.port}: cannot be used ({error.strerror}); {cure}"
            ) from None


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedError
