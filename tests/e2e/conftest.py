"""`bgm up` as users start it: a real server and worker, once for all tests; and a real browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from nights import environment_of, record, small_settings
from playwright.sync_api import Page, sync_playwright

from bgm_pipeline import query
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.session import open_store

BGM = [sys.executable, "-c", "from bgm_pipeline.cli import main; main()"]
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
]


def wait_for(what: str, found: Callable[[], Any], seconds: float = 120) -> Any:
    """What is found at last."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return answer


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class House:
    """A monitoring house: its folders, and the server that `bgm up` started there."""

    folder: Path
    settings: Settings
    url: str
    environment: dict[str, str]
    process: subprocess.Popen[str]
    client: httpx.Client
    """Asks the server; one for all questions, since making one takes as long as an answer."""

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def said(self) -> str:
        """What `bgm up` has said so far."""
        return (self.folder / "up.txt").read_text()

    def bgm(self, *arguments: str, **changes: str) -> str:
        """The answer of a command that ends well."""
        done = self.try_bgm(*arguments, **changes)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def try_bgm(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*BGM, *arguments],
            cwd=self.folder,
            env=self.environment | changes,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def episodes(self) -> dict[str, dict[str, Any]]:
        """What `bgm episodes` says, by the file's name; asked in this process, since tests ask often."""
        with open_store(self.settings) as store:
            rows = query.episodes(store).to_dict("records")
        return {Path(row["path"]).name: row for row in rows}

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        """An answer of the server's own API; asked again, as by Prefect's own client, where its SQLite is
        busy or it takes too long."""

        def answer() -> httpx.Response | None:
            try:
                got = self.client.request(method, f"{self.url}/api{path}", json=body)
            except httpx.ReadTimeout:
                return None
            return None if got.status_code == httpx.codes.SERVICE_UNAVAILABLE else got.raise_for_status()

        got: httpx.Response = wait_for("the server is busy all the time", answer, 180)
        return got.json() if got.content else None

    def flow_runs(self) -> dict[str, dict[str, Any]]:
        """Every flow run of an episode, by its name."""
        runs = self.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["process-episode"]}}})
        return {run["name"]: run for run in runs}

    def wait_for_flow_run(self, name: str, *states: str, seconds: float = 120) -> dict[str, Any]:
        """The flow run of that name, as soon as it is in one of these states."""
        run: dict[str, Any] = wait_for(
            f"{name} is not {' or '.join(states)} but {self.flow_runs().get(name)}",
            lambda: (found := self.flow_runs().get(name)) and found["state_name"] in states and found,
            seconds,
        )
        return run

    def night(self) -> None:
        """Asks for a nightly run, and waits until it has ended."""
        nightly = self.ask("/deployments/name/nightly/nightly", method="GET")
        run = self.ask(f"/deployments/{nightly['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
        runs = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        ended = {"COMPLETED", "FAILED"}
        wait_for("no night", lambda: self.ask("/flow_runs/filter", runs)[0]["state_type"] in ended)


def processes_of(folder_of_house: Path) -> list[str]:
    """Every process that was started there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"BGM_DATA_DIR={folder_of_house}/".encode() in environment and command:
            found.append(f"{folder.name} {command}")
    return found


def start_house(folder: Path, detector: Path, *options: str, **changes: str) -> House:
    """Starts `bgm up`, as over ssh: it is to outlast the terminal."""
    settings = small_settings(folder / "data", folder / "inbox", detector)
    (folder / "inbox").mkdir(exist_ok=True)
    hidden = ("PREFECT_", "BGM_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= environment_of(settings) | changes
    port = free_port()
    command = ["nohup", *BGM, "up", "--port", str(port), "--inbox", "inbox", *options]
    with (folder / "up.txt").open("w") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, text=True, start_new_session=True
        )
    client = httpx.Client(timeout=30)
    return House(folder, settings, f"http://127.0.0.1:{port}", environment, process, client)


def open_house(folder: Path, detector: Path, *options: str, **changes: str) -> House:
    """Starts `bgm up` and waits until it says that it is ready."""
    house = start_house(folder, detector, *options, **changes)
    wait_for("bgm up is not ready", lambda: "ready: " in house.said or house.process.poll() is not None, 200)
    assert house.process.poll() is None, house.said
    return house


def close_house(house: House) -> None:
    """Stops it as systemd does; it ends well, and leaves nothing running."""
    house.process.send_signal(signal.SIGTERM)
    try:
        assert house.process.wait(90) == 0, house.said
        assert house.said.splitlines()[-1].startswith("bgm: stopped; ")
        assert processes_of(house.folder) == []
    finally:
        house.process.kill()
        house.client.close()


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, detector: Path) -> Iterator[House]:
    opened = open_house(tmp_path_factory.mktemp("house"), detector)
    yield opened
    close_house(opened)


@dataclass
class Night:
    """What the first night found: a recording, and two files that are damaged."""

    good: str
    damaged: tuple[Path, Path]
    good_run: dict[str, Any]
    failed_run: dict[str, Any]
    """Of the first of these files."""


@pytest.fixture(scope="session")
def first_night(house: House) -> Night:
    good = record(house.inbox / "EINS_2026-03-31_20-15-00_Show.wav").name
    damaged = (
        house.inbox / "ZWEI_2026-03-31_20-15-00_News.wav",
        house.inbox / "ZWEI_2026-03-31_21-15-00_Film.wav",
    )
    for path in damaged:
        path.write_text(f"{path.name} is not whole yet")
    house.night()
    good_run = house.wait_for_flow_run(good, "Completed")
    failed_run, _ = (house.wait_for_flow_run(path.name, "Failed") for path in damaged)
    return Night(good, damaged, good_run, failed_run)


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no chromium; make test installs it (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1400, "height": 900})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()
