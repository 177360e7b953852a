"""The operator's morning: red episodes, their reasons, Retry in a real browser, green."""

import json
from pathlib import Path
from typing import Any

import pytest
from nights import record
from playwright.sync_api import Page, expect
from sqlalchemy import select

from bgm_pipeline import query
from bgm_pipeline.store.check import check_store
from bgm_pipeline.store.orm import RunRow, StemRow
from bgm_pipeline.store.session import open_store

from .conftest import House, Night, wait_for

pytestmark = pytest.mark.timeout(600)


def stems(house: House) -> dict[str, list[str]]:
    """The stems' hashes of every run, by the file; each is there, with the bytes that were written."""
    with open_store(house.settings) as store:
        assert list(check_store(store, deep=True)) == []
        with store.reading() as connection:
            kept = select(RunRow.episode_id, StemRow.sha256).join_from(
                RunRow, StemRow, StemRow.run_id == RunRow.id
            )
            rows = connection.execute(kept).all()
        names = query.episodes(store).set_index("episode_id")["path"].map(lambda path: Path(path).name)
    found: dict[str, list[str]] = {}
    for episode_id, sha256 in rows:
        found.setdefault(names[episode_id], []).append(sha256)
    return found


def press_retry(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("button", name="Retry").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()


def test_what_failed_is_mended_and_run_again_alone(house: House, first_night: Night, page: Page) -> None:
    good, failed = first_night.good, first_night.failed_run
    by_click, by_command = first_night.damaged
    before = house.episodes()
    row = before[by_click.name]
    assert (before[good]["state"], row["state"]) == ("done", "failed")
    assert row["reason"].startswith(f"{by_click}: not a media file")
    assert failed["state"]["message"] == row["reason"]
    assert failed["id"] in row["flow_run_url"]
    table = house.bgm("episodes", "--state", "failed")
    assert row["reason"] in table and row["flow_run_url"] in table
    status = house.bgm("status")
    assert "1 done, 2 failed, 0 running, 0 not begun" in status
    assert row["reason"] in status and "online" in status and "queue    empty" in status
    kept = stems(house)[good]
    assert len(kept) == 1

    record(by_click, seed=1)
    press_retry(page, row["flow_run_url"])
    retried = house.wait_for_flow_run(by_click.name, "Completed")
    expect(page.get_by_text("Completed").first).to_be_visible()
    page.close()  # what it shows is drawn again and again
    assert (retried["id"], retried["run_count"]) == (failed["id"], 2)
    after = house.episodes()
    assert (after[by_click.name]["state"], after[by_command.name]["state"]) == ("done", "failed")
    assert after[by_click.name]["flow_run_url"] == row["flow_run_url"]

    record(by_command, seed=2)
    assert "1 started" in house.try_bgm("rerun", "--failed").stderr
    again = house.wait_for_flow_run(by_command.name, "Completed")
    assert again["run_count"] == 2
    assert {row["state"] for row in house.episodes().values()} == {"done"}
    assert house.flow_runs()[good]["run_count"] == first_night.good_run["run_count"] == 1
    assert house.episodes()[good]["run_id"] == before[good]["run_id"]
    assert len(house.flow_runs()) == 3
    found = stems(house)
    assert found[good] == kept
    assert sorted(found) == sorted((good, by_click.name, by_command.name))
    assert all(len(sha256s) == 1 for sha256s in found.values())
    assert house.try_bgm("rerun", "--failed").stderr == "no such episode\n"


def test_what_is_made_anew_stands_beside_the_old_until_that_is_dropped(
    house: House, first_night: Night
) -> None:
    name = first_night.good
    old: dict[str, Any] = house.episodes()[name]
    number = str(old["episode_id"])

    known = house.bgm("reprocess", number)
    assert known.startswith(f"known: episode {number}")
    changes = {"BGM_DETECTION__ONSET": "0.75"}
    assert house.bgm("reprocess", number, **changes).startswith(f"started: episode {number}")

    def newer() -> bool:
        return bool(house.episodes()[name]["run_id"] != old["run_id"])

    wait_for("no newer run", newer)
    runs = [run for run in house.ask("/flow_runs/filter", {}) if run["name"] == name]
    assert sorted(run["parameters"]["changes"].get("detection", {}).get("onset", 0) for run in runs) == [
        0,
        0.75,
    ]
    with open_store(house.settings) as store, store.reading() as connection:
        settings = select(RunRow.settings).where(RunRow.episode_id == old["episode_id"]).order_by(RunRow.id)
        assert [row["detection"]["onset"] for row in connection.scalars(settings)] == [0.7, 0.75]
    assert len(stems(house)[name]) == 2

    assert house.bgm("store", "drop-old", "--days", "0") == f"dropped run {old['run_id']}\n"
    assert len(stems(house)[name]) == 1
    assert newer()
    status = json.loads(house.bgm("status", "--format", "json"))
    assert status["queue"] == {} and status["night"]["failed"] == 0
