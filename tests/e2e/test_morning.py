"""The operator's morning, in a real browser: red episodes, their reason, Retry, green."""

import re
from typing import Any

from nights import record
from playwright.sync_api import Page, expect

from bgm_pipeline.store.check import check_store
from bgm_pipeline.store.session import open_store
from .conftest import House


def press_retry(page: Page, house: House, url: str) -> None:
    page.goto(url)
    page.locator("button[aria-label*='menu' i], .p-icon-button-menu button").first.click()
    page.get_by_role("menuitem", name="Retry").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()


def test_retry_in_the_browser_mends_one_episode_and_touches_no_other(house: House, page: Page) -> None:
    good = record(house.inbox / "EINS_2026-03-31_20-15-00_Show.wav")
    bad = house.inbox / "ZWEI_2026-03-31_20-15-00_News.wav"
    bad.write_text("not whole yet")
    house.night()
    house.wait_for_flow_run(good.name, "Completed")
    failed = house.wait_for_flow_run(bad.name, "Failed")
    before = house.episodes()
    assert before[good.name]["state"] == "done"
    assert before[bad.name]["state"] == "failed"
    reason, url = before[bad.name]["reason"], before[bad.name]["flow_run_url"]
    assert str(bad) in reason and failed["id"] in url
    assert failed["state"]["message"] == reason

    page.goto(url)
    page.screenshot(path="/tmp/failed.png")
    page.wait_for_timeout(8000)
    page.screenshot(path="/tmp/failed2.png")
    open("/tmp/page.html", "w").write(page.content())
    expect(page.get_by_text(reason).first).to_be_visible()
    record(bad, seed=1)
    press_retry(page, house, url)
