"""`bgm up` in good and in bad times."""

import os
import signal
from pathlib import Path

import pytest
from nights import record

from .conftest import House, free_port, open_house, processes_of, wait_for

pytestmark = pytest.mark.timeout(600)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_nights_are_scheduled(house: House) -> None:
    """Fails where Prefect's scheduler does not work with the SQLAlchemy that is installed."""
    scheduled = {
        "flows": {"name": {"any_": ["nightly"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    due = wait_for("no night is to come", lambda: house.ask("/flow_runs/filter", scheduled))
    assert all(run["auto_scheduled"] for run in due)


def test_a_run_whose_worker_dies_is_taken_up_again_by_itself(house: House) -> None:
    path = record(house.inbox / "VIER_2026-03-31_20-15-00_Long.wav", seed=4)
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
    house = open_house(tmp_path, detector)
    assert len(processes_of(tmp_path)) >= 3
    house.process.kill()
    house.process.wait(10)
    wait_for("something is left", lambda: not processes_of(tmp_path), 20)
