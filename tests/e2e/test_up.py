"""`bgm up` in good and in bad times."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from nights import record

from flows import api, rescue

from .conftest import House, Night, close_house, free_port, open_house, processes_of, start_house, wait_for

pytestmark = pytest.mark.timeout(600)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def automations_off(house: House) -> Iterator[None]:
    """As if the events were lost that they wait for."""
    automations = house.ask("/automations/filter", {})

    def switch(enabled: bool) -> None:
        for one in automations:
            house.ask(f"/automations/{one['id']}", {"enabled": enabled}, "PATCH")

    switch(False)
    yield
    switch(True)


def test_it_outlasts_the_terminal_that_it_was_started_from(house: House) -> None:
    house.process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        house.process.wait(3)
    assert "stopping" not in house.said


def test_nights_are_scheduled(house: House) -> None:
    """Fails where Prefect's scheduler does not work with the SQLAlchemy that is installed."""
    scheduled = {
        "flows": {"name": {"any_": ["nightly"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    due = wait_for("no night is to come", lambda: house.ask("/flow_runs/filter", scheduled))
    assert all(run["auto_scheduled"] for run in due)


def test_a_run_whose_worker_dies_is_taken_up_again_by_itself(house: House) -> None:
    path = record(house.inbox / "VIER_2026-03-31_20-15-00_Long.wav", 60, seed=4)
    house.night()
    running = house.wait_for_flow_run(path.name, "Running", "Completed")
    assert running["state_name"] == "Running", "it ended before it could be disturbed"
    pid = int(running["infrastructure_pid"])
    os.kill(pid, signal.SIGSTOP)  # so that it does not end before its worker does
    os.kill(parent_of(pid), signal.SIGKILL)
    done = house.wait_for_flow_run(path.name, "Completed", seconds=240)
    assert (done["id"], done["run_count"]) == (running["id"], 2)
    assert house.episodes()[path.name]["state"] == "done"
    assert not Path(f"/proc/{pid}").exists()
    assert "worker-1 ended (-9); it begins again" in house.said


def test_a_dead_run_that_no_automation_saw_is_taken_up_all_the_same(
    house: House, first_night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flow_run() -> Any:
        return house.ask(f"/flow_runs/{first_night.good_run['id']}", method="GET")

    run = flow_run()
    monkeypatch.setattr(rescue, "EVERY_S", 0.0)
    monkeypatch.setattr(rescue, "LEFT_TO_AUTOMATION_S", 0.0)
    monkeypatch.setattr(api, "NO_SIGN_OF_LIFE_S", 1.0)
    said: list[str] = []
    environment = os.environ | house.environment | {"PREFECT_API_URL": f"{house.url}/api"}
    with closing(api.Api(f"{house.url}/api", None)) as server:
        watch = rescue.Rescue(server, environment, tmp_path)
        try:
            with automations_off(house):
                running = {"state": {"type": "RUNNING"}, "force": True}  # as if its process died unseen
                house.ask(f"/flow_runs/{run['id']}/set_state", running)
                wait_for("it is not seen", lambda: watch.look(said.append) or said)
                wait_for("it is not done again", lambda: flow_run()["state_name"] == "Completed")
        finally:
            watch.stop(5)
    assert "some flow runs have crashed" in said[0]
    assert flow_run()["run_count"] == run["run_count"] + 2, "the run that died counts, too"
    states = house.ask(f"/flow_run_states/?flow_run_id={run['id']}", method="GET")
    assert any("no sign of life" in (state["message"] or "") for state in states)


def test_two_at_once_and_a_port_that_is_taken_are_one_line(house: House, tmp_path: Path) -> None:
    second = house.try_bgm("up", "--port", str(free_port()))
    assert second.returncode == 1
    assert "another bgm up runs here" in second.stderr and len(second.stderr.splitlines()) == 1
    taken = house.try_bgm("up", "--port", house.url.rpartition(":")[2], BGM_DATA_DIR=str(tmp_path))
    assert taken.returncode == 1
    assert "cannot be used (Address already in use)" in taken.stderr and len(taken.stderr.splitlines()) == 1


def test_no_server_is_one_line(tmp_path: Path, house: House) -> None:
    for command in ("status", "deploy"):
        done = house.try_bgm(command, PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api")
        assert done.returncode == 1
        assert "no Prefect server answers; start it with bgm up" in done.stderr.splitlines()[-1]


def test_killed_it_leaves_nothing_running(tmp_path: Path, detector: Path) -> None:
    house = start_house(tmp_path, detector)
    wait_for("it does not start", lambda: len(processes_of(tmp_path)) >= 3, 200)
    house.process.kill()
    house.client.close()
    assert house.process.wait(10) == -signal.SIGKILL
    wait_for("something is left", lambda: not processes_of(tmp_path), 20)


def test_the_demo_leaves_the_users_own_store_alone(tmp_path: Path, detector: Path) -> None:
    database, stems = tmp_path / "own.sqlite", tmp_path / "own"
    own = {"BGM_DATABASE_URL": f"sqlite:///{database}", "BGM_STEM_STORE": str(stems)}
    house = open_house(tmp_path, detector, "--demo", **own)
    try:
        places = re.search(r"look at it with: (.*) \S*bgm status", house.said)
        assert places is not None
        told = dict(word.split("=", 1) for word in places[1].split())
        house.settings = house.settings.model_copy(update={"data_dir": tmp_path / told["BGM_DATA_DIR"]})
        ended = ["done", "done", "done", "failed"]
        wait_for(
            "it goes on", lambda: sorted(row["state"] for row in house.episodes().values()) == ended, 240
        )
        assert "3 done, 1 failed" in house.bgm("status", **told)
    finally:
        close_house(house)
    assert not database.exists() and not stems.exists()
