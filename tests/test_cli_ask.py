"""Asking from the command line."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import soundfile
from store.samples import ON_AIR, add_episode, add_programme, add_run, folder_of, identity, music, sha256
from typer.testing import CliRunner, Result

from bgm_pipeline.cli import app
from bgm_pipeline.errors import BgmError
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.session import open_store
from bgm_pipeline.types import Episode

Bgm = Callable[..., Result]
BGM = [sys.executable, "-c", "from bgm_pipeline.cli import main; main()"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with 1 news, 2 a quiz without music, 3 a drama of another channel, 4 that never ran."""
    folder = tmp_path_factory.mktemp("data")
    with open_store(Settings(data_dir=folder, database_url="", stem_store="")) as store:
        add_programme(store, "1.ts", (-3.0, None, 2.0), "One", "Evening News", ON_AIR)
        add_programme(store, "2.ts", (None,), "One", "Quiz", ON_AIR + timedelta(days=3))
        add_programme(store, "3.ts", (-20.0, 0.0), "Two", "Drama", ON_AIR + timedelta(days=5))
        add_episode(store, "4.ts", "Two", "Tomorrow")
    yield folder


@pytest.fixture
def bgm(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Bgm:
    """Runs a command on that store; an error that is not shown as one line fails the test."""
    monkeypatch.setenv("BGM_DATA_DIR", str(data_dir))
    monkeypatch.delenv("BGM_DATABASE_URL", raising=False)
    monkeypatch.delenv("BGM_STEM_STORE", raising=False)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, [str(one) for one in arguments])
        if result.exception is not None and not isinstance(result.exception, BgmError | SystemExit):
            raise result.exception
        return result

    return run


def asked(result: Result) -> list[tuple[int, float]]:
    assert result.exit_code == 0, result.output
    return [(row["episode_id"], row.get("start_s", -1)) for row in json.loads(result.stdout)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", [4, 3, 2, 1]),
        ("--channel One", [2, 1]),
        ("--title news", [1]),
        ("--since 2026-04-02", [3, 2]),
        ("--since 2026-04-02 --until 2026-04-04", [2]),
        ("--until 2026-03-31T20:16+00:00", [1]),
        ("--state new", [4]),
        ("--music", [3, 1]),
        ("--no-music", [2]),
        ("--episode 3", [3]),
        ("--limit 1", [4]),
    ],
)
def test_episodes(bgm: Bgm, arguments: str, expected: list[int]) -> None:
    found = asked(bgm("episodes", *arguments.split(), "--format", "json"))
    assert [episode_id for episode_id, _ in found] == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("segments", [(1, 0), (1, 12), (1, 24), (2, 0), (3, 0), (3, 12)]),
        ("segments --channel Two --limit 1", [(3, 0)]),
        ("segments --title quiz", [(2, 0)]),
        ("segments --since 2026-03-31T20:15:13Z --until 2026-03-31T20:15:24Z", [(1, 12)]),
        ("segments --state done --no-music", [(1, 12), (2, 0)]),
        ("segments --music --episode 1", [(1, 0), (1, 24)]),
        ("segments --min-probability 0.9", [(1, 24), (3, 12)]),
        ("segments --max-level -3", [(1, 0), (3, 0)]),
        ("segments --min-level -3 --max-level 1.5", [(1, 0), (3, 12)]),
        ("events", [(1, 0), (1, 24), (3, 0)]),
        ("events --music --min-probability 0.9 --min-level 1", [(1, 24)]),
        ("events --episode 2", []),
    ],
)
def test_segments_and_events(bgm: Bgm, arguments: str, expected: list[tuple[int, float]]) -> None:
    assert asked(bgm(*arguments.split(), "--format", "json")) == expected


def test_a_table_is_what_people_get(bgm: Bgm) -> None:
    result = bgm("segments", "--episode", "1")
    assert result.stdout.startswith("episode 1, channel One, title Evening News, model net\n")
    assert "00:00:24.000  00:00:36.000  yes           99 %    +2.0 dB" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(("zone", "offset"), [("Asia/Tokyo", "+09:00"), ("America/New_York", "-04:00")])
def test_days_and_times_are_those_of_the_inbox_whatever_zone_the_machine_is_in(
    bgm: Bgm, monkeypatch: pytest.MonkeyPatch, zone: str, offset: str
) -> None:
    """The news of 31 March, 20:15 in UTC, are on air on 1 April in Tokyo."""
    monkeypatch.setenv("BGM_INBOX__TIME_ZONE", zone)
    there = ON_AIR.astimezone(ZoneInfo(zone))
    day, day_before = f"{there:%Y-%m-%d}", f"{there - timedelta(days=1):%Y-%m-%d}"
    assert asked(bgm("episodes", "--until", day, "--format", "json")) == [(1, -1)]
    assert asked(bgm("episodes", "--until", day_before, "--format", "json")) == []
    in_it = f"{there + timedelta(seconds=13):%Y-%m-%d %H:%M:%S}"
    found = asked(bgm("segments", "--since", in_it, "--until", day, "--format", "json"))
    assert found == [(1, 12), (1, 24)]
    assert f"{there:%Y-%m-%d %H:%M:%S}{offset}" in bgm("segments", "--episode", "1").stdout
    (row,) = json.loads(bgm("episodes", "--episode", "1", "--format", "json").stdout)
    assert row["air_start"] == there.isoformat()


def test_a_long_table_is_cut_and_says_so(bgm: Bgm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGM_DATA_DIR", str(tmp_path))
    with open_store(Settings(data_dir=tmp_path, database_url="", stem_store="")) as store:
        add_programme(store, "long.ts", (None,) * 501)
    result = bgm("segments")
    assert result.stdout.endswith("500 rows\n")
    assert result.stderr == "bgm: only the first 500; more with --limit, all with -o FILE.csv\n"
    assert bgm("segments", "--limit", "501").stdout.endswith("501 rows\n")
    assert len(bgm("segments", "--format", "csv").stdout.splitlines()) == 502


@pytest.mark.parametrize("name", ["answer.csv", "answer.json", "answer.parquet", "answer.txt", "answer.xlsx"])
def test_an_answer_goes_to_a_file_in_the_format_of_its_name(bgm: Bgm, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    result = bgm("events", "-o", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    if name == "answer.txt":
        assert path.read_text().endswith("3 rows\n")
    else:
        read = getattr(pd, f"read_{path.suffix[1:].replace('xlsx', 'excel')}")
        assert read(path)["end_s"].tolist() == [12, 36, 24]


@pytest.mark.parametrize(("form", "start"), [("parquet", b"PAR1"), ("xlsx", b"PK")])
def test_what_is_no_text_goes_down_a_pipe_but_not_to_a_terminal(
    bgm: Bgm, data_dir: Path, form: str, start: bytes
) -> None:
    result = bgm("events", "--format", form)
    assert result.stdout_bytes.startswith(start)

    terminal, end = pty.openpty()
    command = [*BGM, "events", "--format", form]
    done = subprocess.run(command, stdout=end, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(end)
    os.close(terminal)
    assert done.stderr == f"bgm: {form} is not for a terminal; name a file: -o FILE.{form}\n"
    assert done.returncode == 1


@pytest.mark.parametrize("form", ["csv", "json", "xlsx", "parquet"])
def test_who_reads_no_further_or_not_at_all_gets_no_traceback(bgm: Bgm, form: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [*BGM, "segments", "--format", form]
    piped = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert piped.stderr == ""
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False
    )
    assert closed.stderr == "bgm: the standard output is closed; name a file: -o FILE\n"
    assert closed.returncode == 1


def test_a_long_answer_is_read_and_written_in_parts(bgm: Bgm, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {name: bgm(name, "--format", "csv").stdout for name in ("segments", "events")}
    monkeypatch.setattr("bgm_pipeline.query.FRAME_ROWS", 2)
    assert {name: bgm(name, "--format", "csv").stdout for name in ("segments", "events")} == expected
    assert bgm("segments", "--limit", "5").stdout.endswith("5 rows\n")


def test_labels(bgm: Bgm, tmp_path: Path) -> None:
    assert bgm("labels", "1").stdout.startswith("0.000000\t12.000000\tmusic 80 %")
    path = tmp_path / "music.vtt"
    assert bgm("labels", "1", "--format", "webvtt", "-o", str(path)).stdout == ""
    assert path.read_text().startswith("WEBVTT\n\n00:00:00.000 --> 00:00:12.000\n")
    for options, start in (("", "WEBVTT\n"), ("--format audacity", "0.000000\t12.000000\t")):
        assert bgm("labels", "1", "-o", str(path), *options.split()).exit_code == 0
        assert path.read_text().startswith(start)


def test_a_stem_is_cut_by_seconds_or_timecode_and_silence_is_told(bgm: Bgm, tmp_path: Path) -> None:
    path = tmp_path / "span.wav"
    result = bgm("stem", "1", "00:00:10.5", "25.25", "-o", str(path))
    assert result.exit_code == 0
    assert result.stderr == "bgm: no stem was kept from 00:00:12.000 to 00:00:24.000: silence there\n"
    found, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000
    expected = (music(0)[168_000:], np.zeros(192_000, np.float32), music(2)[:20_000])
    assert np.array_equal(found, np.concatenate(expected))
    assert bgm("stem", "1", "0", "12", "-o", str(path)).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("stem 1 0 99 -o x.wav", "episode 1 goes from 00:00:00.000 to 00:00:36.000"),
        ("stem 1 soon 9 -o x.wav", "not a time: 'soon'"),
        ("stem 4 0 1 -o x.wav", "episode 4 has no finished run"),
        ("stem 1 0 1 -o x.ogg", "x.ogg: a stem is written as .flac or .wav"),
        ("labels 9", "episode 9 has no finished run"),
        ("segments --since soon", "not a date or time: 'soon'"),
        ("segments --state gone", "no such state: gone"),
        ("segments --until 9999-12-31", "the year must be from 1900 to 9000"),
        ("events --no-music", "events are spans of music"),
        ("events -o no/such/folder.csv", "no/such/folder.csv: cannot be written"),
        ("events -o a.xls", "a.xls: no format is known by .xls; name a file in .txt, .csv, .xlsx, .json, "),
    ],
)
def test_what_cannot_be_answered_is_one_clear_error(bgm: Bgm, arguments: str, complaint: str) -> None:
    result = bgm(*arguments.split())
    assert isinstance(result.exception, BgmError)
    assert complaint in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("stem 0 1 2 -o x.wav", "EPISODE"),
        ("labels 99999999999999999999", "EPISODE"),
        ("timeline 99999999999999999999 -o x.png", "EPISODE"),
        ("rerun 99999999999999999999", "[EPISODE]..."),
        ("reprocess 0", "[EPISODE]..."),
        ("segments --min-probability 2", "--min-probability"),
        ("segments --limit -1", "--limit"),
    ],
)
def test_numbers_that_nothing_can_have_are_refused(bgm: Bgm, arguments: str, named: str) -> None:
    result = bgm(*arguments.split())
    assert result.exit_code == 2
    assert f"Invalid value for '{named}'" in result.stderr


def test_a_wrong_variable_is_one_line_and_no_traceback(bgm: Bgm) -> None:
    environment = os.environ | {"BGM_THREADS": "many"}
    done = subprocess.run(
        [*BGM, "episodes"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bgm: BGM_THREADS: Input should be a valid integer")
    assert done.stderr.count("\n") == 1


def test_store_check_tells_removes_and_ends_with_1_while_something_is_wrong(
    bgm: Bgm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_DATA_DIR", str(tmp_path))
    with open_store(Settings(data_dir=tmp_path, database_url="", stem_store="")) as store:
        add_programme(store, "1.ts", (1.0, 2.0))
        folder = folder_of(store.stems) / store.stems.namespace
    assert bgm("store", "check", "--deep").exit_code == 0

    stray = folder / "stray.flac"
    stray.write_bytes(b"")
    result = bgm("store", "check")
    assert (result.exit_code, result.stdout.splitlines()) == (
        1,
        [f"{stray}: belongs to no run; remove it with: bgm store check --remove"],
    )
    result = bgm("store", "check", "--remove")
    assert (result.exit_code, result.stdout.splitlines()) == (0, [f"removed {stray}"])

    lost = next(folder.rglob("000001.flac"))
    lost.unlink()
    result = bgm("store", "check", "--remove")
    assert (result.exit_code, result.stdout.splitlines()) == (
        1,
        [f"{lost}: the stem is missing; make it anew: bgm process /inbox/1.ts"],
    )


def test_store_drop_asks_and_drops_what_was_named(
    bgm: Bgm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_DATA_DIR", str(tmp_path))
    with open_store(Settings(data_dir=tmp_path, database_url="", stem_store="")) as store:
        for number in (1, 2, 3, 4, 5):
            add_programme(store, f"{number}.ts", (1.0, None), "One", f"Test {number}")

    def left() -> list[int]:
        return [number for number, _ in asked(bgm("episodes", "--format", "json"))]

    result = bgm("store", "drop", "1", "9")
    assert (result.exit_code, str(result.exception)) == (1, "there is no episode 9; bgm episodes lists them")
    assert len(left()) == 5
    result = CliRunner().invoke(app, ["store", "drop", "1", "2"], input="n\ny\n")
    assert "drop episode 1 (One, Test 1, /inbox/1.ts), its results and its stems?" in result.stdout
    assert result.exit_code == 0 and result.stdout.endswith("dropped episode 2\n")
    assert 2 not in left() and len(left()) == 4

    with open_store(Settings(data_dir=tmp_path, database_url="", stem_store="")) as store:
        store.start_run(3, identity("3.ts", "new"))
        result = bgm("store", "drop", "5", "3", "3", "1", "--yes")
    assert (result.exit_code, result.stdout) == (1, "dropped episode 5\ndropped episode 1\n")
    assert result.stderr.startswith("bgm: episode 3 is being processed (run ")
    assert sorted(left()) == [3, 4]
    assert bgm("store", "check").exit_code == 0

    monkeypatch.setenv("BGM_STEM_STORE", str(tmp_path / "not mounted"))
    result = bgm("store", "drop", "4", "--yes")
    assert result.exit_code == 1 and "not the stem store of this database" in result.stderr
    monkeypatch.delenv("BGM_STEM_STORE")
    assert sorted(left()) == [3, 4]


def test_a_correction_that_takes_a_recording_out_of_the_log_tells_so(
    bgm: Bgm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorder writes the same name every day; both are one broadcast, if told of one air time."""
    monkeypatch.setenv("BGM_DATA_DIR", str(tmp_path))
    today, tomorrow = (f"{ON_AIR + timedelta(days=days):%Y-%m-%d %H:%M}+00:00" for days in (0, 1))
    with open_store(Settings(data_dir=tmp_path, database_url="", stem_store="")) as store:
        for number, name in enumerate(("first", "second")):
            told = Episode(Path("/inbox/rec.ts"), "One", name, ON_AIR + timedelta(days=number))
            add_run(store, store.register_episode(told, sha256(name), 1_000), identity(name), (1.0,))
    taken = "took the place of episode 1, which is reported no more; bgm store drop 1 removes that"
    hidden = "is not reported: another recording took its place"
    assert bgm("correct", "2", "--air-start", today).stderr == f"bgm: episode 2 {taken}\n"
    assert bgm("correct", "2", "--title", "Second").stderr == ""
    for command in ("labels 1", "stem 1 0 1 -o x.wav"):
        assert f"episode 1 {hidden}; bgm episodes shows" in str(bgm(*command.split()).exception)
    assert bgm("correct", "1", "--title", "First").stderr == f"bgm: episode 1 {hidden}; see bgm episodes\n"
    assert bgm("correct", "1", "--air-start", tomorrow).stderr == ""
    assert bgm("labels", "1").exit_code == 0
    back = bgm("correct", "1", "--air-start", today)
    assert back.stderr == f"bgm: episode 1 {hidden}; see bgm episodes\n"


@pytest.mark.parametrize(
    "command",
    [
        *("episodes", "segments", "events --format csv", "log", "labels 1", "stem 1 0 1 -o x.wav"),
        *(
            "timeline 1 -o x.png",
            "correct 1 --title x",
            "store check",
            "store drop 1 --yes",
            "store drop-old",
        ),
    ],
)
def test_a_question_to_the_wrong_place_makes_no_database(
    bgm: Bgm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The clerk's shell has not the settings of the service."""
    monkeypatch.setenv("BGM_DATA_DIR", str(tmp_path / "data"))
    result = bgm(*command.split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(result.exception) == (
        f"database {tmp_path}/data/bgm.sqlite is not there yet; see that BGM_DATA_DIR or BGM_DATABASE_URL is "
        "right (the first bgm process or bgm nightly makes it)"
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["status", "rerun 1", "reprocess 1"])
def test_an_operator_who_asks_the_wrong_place_makes_no_database_either(
    bgm: Bgm, tmp_path: Path, command: str
) -> None:
    data = tmp_path / "data"
    environment = os.environ | {"BGM_DATA_DIR": str(data), "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    done = subprocess.run(
        [*BGM, *command.split()], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr.startswith(f"bgm: database {data}/bgm.sqlite is not there yet; see that BGM_DATA_DIR")
    assert (done.returncode, done.stdout) == (1, "")
    assert not data.exists()


def test_db_upgrade_makes_the_tables(bgm: Bgm, pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGM_DATABASE_URL", pg_url)
    result = bgm("episodes")
    assert str(result.exception).endswith("has no tables yet; run: bgm db upgrade")
    assert bgm("db", "upgrade").exit_code == 0
    assert bgm("episodes").stdout == "0 rows\n"


def test_help_does_not_wait_for_what_it_does_not_need() -> None:
    heavy = "{'torch', 'pandas', 'sqlalchemy', 'alembic', 'matplotlib', 'pyarrow', 'numpy'}"
    script = f"import sys, bgm_pipeline.cli; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
