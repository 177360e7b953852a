"""Machines whose time zone has no name that others know, or none at all."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess
from zoneinfo import TZPATH

import pytest
from nights import environment_of, record, small_settings

from bgm_pipeline.morning import morning_of
from bgm_pipeline.settings import load_settings
from bgm_pipeline.store.session import open_store

RULES = "CET-1CEST,M3.5.0,M10.5.0/3"
Bgm = Callable[..., CompletedProcess[str]]


@pytest.fixture
def set_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets this process run as on a machine whose TZ is another."""

    def change(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setattr("tzlocal.unix._cache_tz", None)

    return change


def test_a_zone_of_rules_is_one_line_with_its_cure(bgm: Bgm, set_to: Callable[[str], None]) -> None:
    set_to(RULES)
    cure = "set BGM_INBOX__TIME_ZONE, or TZ=Europe/Paris"
    for command in ("episodes", "log", "up"):
        done = bgm(command)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"bgm: this machine's time zone has no name that is known; {cure}\n"
    assert bgm("episodes", TZ="Europe/Paris").returncode == 0


def test_where_the_inbox_has_a_zone_nothing_asks_for_the_machine_s(
    bgm: Bgm,
    set_to: Callable[[str], None],
    tmp_path: Path,
    inbox: Path,
    detector: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment_of(small_settings(tmp_path / "data", inbox, detector)).items():
        monkeypatch.setenv(name, value)
    set_to(RULES)
    record(inbox / "K_2026-03-31_20-15_a.wav")
    assert bgm("process", record(tmp_path / "b.wav", seed=1)).stdout.startswith("episode 1: b.wav: ")
    for outcome in ("new", "known"):
        (row,) = json.loads(bgm("nightly", inbox, "--format", "json").stdout)
        assert row["outcome"] == outcome
    for command in ("episodes", "segments", "events", "log"):
        assert "2026-03-31T20:15:00+02:00" in bgm(command, "--format", "csv").stdout
    assert bgm("labels", 2).stdout.count("\t") == 2
    with open_store(load_settings()) as store:
        assert morning_of(store, datetime(2026, 1, 1, tzinfo=UTC)).done == 2


def test_schedules_want_a_zone_with_a_name(bgm: Bgm, set_to: Callable[[str], None], tmp_path: Path) -> None:
    """As where /etc/localtime is a plain file, and nothing says of which zone."""
    zone = next(path for folder in TZPATH if (path := Path(folder, "Europe/Paris")).is_file())
    set_to(str(shutil.copy(zone, tmp_path / "local")))
    assert bgm("db", "upgrade").returncode == 0
    assert bgm("episodes").returncode == 0
    done = bgm("up")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "bgm: BGM_NIGHT__TIME_ZONE: is not set, and the time zone here has no name but 'local', which "
        "schedules cannot be meant in; set it to one such as Europe/Paris\n"
    )
    assert load_settings(night={"time_zone": "Asia/Tokyo"}).night_zone == "Asia/Tokyo"
    assert load_settings(inbox={"time_zone": "Europe/Paris"}).night_zone == "Europe/Paris"


@pytest.mark.parametrize("command", [("store", "drop-old", "--days"), ("status", "--hours")])
def test_longer_ago_than_there_are_dates_is_refused(bgm: Bgm, command: tuple[str, ...]) -> None:
    done = bgm(*command, "1e9")
    assert done.returncode == 2
    assert f"'{command[-1]}'" in done.stderr and "Traceback" not in done.stderr
