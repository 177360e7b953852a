"""Nights on real small files: what is done once, what fails, what waits, and what a broken night leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from nights import environment_of, record, small_settings
from pandas.testing import assert_frame_equal
from sqlalchemy import text
from store.samples import files, keys
from typer.testing import CliRunner, Result

from bgm_pipeline import cli_nightly, query
from bgm_pipeline.channel_log import channel_log
from bgm_pipeline.errors import BgmError, InputError, StoreError
from bgm_pipeline.inbox import FoundFile
from bgm_pipeline.morning import morning_of
from bgm_pipeline.night_report import NightReport, NightRow
from bgm_pipeline.nightly import plan_night, process_found, run_nightly
from bgm_pipeline.pipeline import Networks, process_episode
from bgm_pipeline.settings import DetectionSettings, Settings
from bgm_pipeline.store.check import check_store
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store
from bgm_pipeline.types import Episode, RunIdentity

COMMAND = "import typer; from bgm_pipeline import cli_nightly as c; a = typer.Typer(); c.register(a); a()"
AT_NIGHT = datetime(2026, 3, 31, 18, 15, tzinfo=UTC)

opened: list[str] = []
sys.addaudithook(lambda name, arguments: opened.append(str(arguments[0])) if name == "open" else None)


@pytest.fixture
def config(tmp_path: Path, inbox: Path, detector: Path) -> Settings:
    return small_settings(tmp_path / "data", inbox, detector)


@pytest.fixture
def store(config: Settings) -> Iterator[Store]:
    with open_store(config) as opened_store:
        yield opened_store


@pytest.fixture(scope="session")
def networks(detector: Path) -> Networks:
    return Networks(Settings(model="passthrough", detector=str(detector), device="cpu", threads=1))


@pytest.fixture
def night(store: Store, networks: Networks, config: Settings, inbox: Path) -> Callable[[], NightReport]:
    return lambda: run_nightly(inbox, store, networks, config)


@pytest.fixture
def twins(inbox: Path) -> tuple[Path, Path]:
    """One spot that was delivered twice."""
    first = record(inbox / "EINS_2026-03-31_20-15-00_Spot.wav")
    return first, Path(shutil.copy(first, inbox / "ZWEI_2026-04-01_21-00-00_Spot.wav"))


@pytest.fixture
def environment(config: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same settings for the command."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment_of(config).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bgm(environment: None) -> Iterator[Callable[..., Result]]:
    """Runs `bgm nightly`; whoever tests gets its own reaction to signals back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    app = typer.Typer()
    cli_nightly.register(app)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, list(map(str, arguments)))

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def outcomes(report: NightReport) -> dict[str, str]:
    return {row.file: row.outcome for row in report.rows}


def test_what_is_wrong_with_a_recording_is_in_the_nights_report_and_in_the_mornings(
    inbox: Path, store: Store, night: Callable[[], NightReport]
) -> None:
    path = record(inbox / "EINS_2026-03-31_20-15-00_Show.wav")
    path.write_bytes(path.read_bytes()[:-10_000])
    report = night()
    (row,) = report.rows
    assert (row.outcome, row.is_damaged) == ("new", True)
    assert "cut short?" in row.reason and row.reason in report.to_text()
    assert report.summary.startswith("1 new, 1 damaged, ")
    assert not report.has_failed
    morning = morning_of(store, datetime.now(UTC) - timedelta(hours=1))
    assert "1 done (1 damaged), 0 failed" in morning.summary


def test_new_files_become_rows_and_the_second_night_reads_none_of_them(
    inbox: Path, store: Store, night: Callable[[], NightReport]
) -> None:
    record(inbox / "EINS_2026-03-31_20-15-00_Late_show.ts", 14, start_s=12.5)
    record(inbox / "ZWEI/2026-03-31/21.00 News.wav", 3)
    report = night()
    assert [(row.outcome, row.reason) for row in report.rows] == [("new", ""), ("new", "")]
    first, second = report.rows
    assert first.duration_s == pytest.approx(14, abs=0.1)
    assert first.music_s == pytest.approx(1.5, abs=0.2)
    assert not report.has_failed
    episodes = query.episodes(store).set_index("episode_id")
    assert tuple(episodes.loc[first.episode_id, ["channel", "title", "state"]]) == (
        "EINS",
        "Late show",
        "done",
    )
    assert episodes.loc[first.episode_id, "air_start"] == AT_NIGHT
    assert tuple(episodes.loc[second.episode_id, ["channel", "title"]]) == ("ZWEI", "News")
    assert len(query.segments(store, episode_id=first.episode_id)) == 2
    assert files(store) == keys(store)

    opened.clear()
    again = night()
    assert [(row.outcome, row.run_id) for row in again.rows] == [
        ("known", first.run_id),
        ("known", second.run_id),
    ]
    assert again.rows[0].music_s == first.music_s
    assert not [path for path in opened if path.startswith(str(inbox))]
    assert not again.has_failed


def test_of_two_files_with_the_same_bytes_the_one_seen_first_counts_as_long_as_it_is_there(
    twins: tuple[Path, Path], store: Store, night: Callable[[], NightReport]
) -> None:
    first, second = twins

    def shown_as() -> tuple[str, str]:
        (episode,) = query.episodes(store).to_dict("records")
        return episode["channel"], episode["path"]

    night()
    for _ in range(2):
        rows = night().rows
        assert {(row.file, row.outcome, row.reason) for row in rows} == {
            (first.name, "known", ""),
            (second.name, "known", f"the same bytes as {first}, which counts"),
        }
        assert shown_as() == ("EINS", str(first))
    record(first, seed=1)  # a recorder that uses its names again
    assert outcomes(night()) == {first.name: "new", second.name: "known"}
    assert set(query.episodes(store)["channel"]) == {"EINS", "ZWEI"}


def test_an_airing_that_is_another_one_now_is_told_with_what_it_was(
    twins: tuple[Path, Path], store: Store, night: Callable[[], NightReport]
) -> None:
    first, second = twins
    night()
    first.unlink()
    was, now = "EINS, 2026-03-31 20:15:00+02:00, Spot", "ZWEI, 2026-04-01 21:00:00+02:00, Spot"
    moved = f"known as {was} before, now as {now}"
    for told in (moved, ""):
        report = night()
        assert [(row.file, row.outcome, row.reason) for row in report.rows] == [(second.name, "known", told)]
        assert told in report.to_text()
    assert query.episodes(store)["channel"].tolist() == ["ZWEI"]


def test_a_correction_outlasts_the_name_and_the_night_reads_the_file_no_more(
    inbox: Path, store: Store, night: Callable[[], NightReport]
) -> None:
    record(inbox / "EINS_2026-03-31_20-15-00_Show.wav")
    night()
    store.correct_episode(1, Episode(Path(), "ZWEI", "Late show", AT_NIGHT + timedelta(minutes=5)))
    opened.clear()
    assert [(row.outcome, row.reason) for row in night().rows] == [("known", "")]
    assert not [path for path in opened if path.startswith(str(inbox))]
    store.correct_episode(1, None)
    was, now = "ZWEI, 2026-03-31 20:20:00+02:00, Late show", "EINS, 2026-03-31 20:15:00+02:00, Show"
    told = f"known as {was} before, now as {now}"
    for reason in (told, ""):
        assert [(row.outcome, row.reason) for row in night().rows] == [("known", reason)]


def test_the_first_airing_stays_where_a_table_tells_it_of_the_second_file_or_both_leave(
    twins: tuple[Path, Path], store: Store, night: Callable[[], NightReport]
) -> None:
    """As docs/nightly.md has it."""
    first, second = twins
    table = second.with_suffix(".csv")
    table.write_text("channel,title,air_start\nEINS,Spot,2026-03-31 20:15\n")
    night()
    first.unlink()
    assert [(row.outcome, row.reason) for row in night().rows] == [("known", "")]
    second.unlink()
    assert night().rows == ()
    (episode,) = query.episodes(store).to_dict("records")
    assert (episode["channel"], episode["air_start"]) == ("EINS", AT_NIGHT)


def test_a_recording_that_took_the_place_of_a_wrong_one_is_reported_alone(
    inbox: Path, store: Store, night: Callable[[], NightReport]
) -> None:
    path = record(inbox / "EINS_2026-03-31_20-15_Show.wav", 20)
    night()
    wrong = path.read_bytes()
    record(path, 4, seed=1)
    replaced = "took the place of episode 1, which is reported no more; bgm store drop 1 removes that"

    def reported() -> dict[int, float]:
        log = channel_log(store, 0.3, tz=UTC)
        assert (log.replaced, log.without_results) == (1, 0)
        with store.reading() as connection:
            view = text("SELECT episode_id, music_minutes * 60 FROM music_minutes_by_programme")
            minutes = {number: round(seconds) for number, seconds in connection.execute(view)}
        (numbers,), (seconds,) = log.rows["episode_ids"], log.rows["duration_s"]
        assert minutes == {int(numbers): round(seconds)}
        assert set(query.events(store)["episode_id"]) == set(minutes)
        assert log.sums[0].recorded_ms == log.sums[0].music_ms
        return minutes

    (row,) = night().rows
    assert (row.outcome, row.reason) == ("new", replaced)
    assert reported() == {2: 4}
    former = query.episodes(store, episode_id=1).to_dict("records")[0]
    assert (former["state"], former["reason"]) == ("done", "not reported: another recording took its place")
    assert list(check_store(store, deep=True)) == []
    morning = morning_of(store, datetime.now(UTC) - timedelta(hours=1))
    assert (morning.done, morning.music_s) == (1, 4.0)
    assert [row.reason for row in night().rows] == [""]

    path.write_bytes(wrong)
    (row,) = night().rows
    assert (row.outcome, row.reason) == ("known", replaced.replace("1", "2"))
    assert reported() == {1: 20}

    assert store.drop_old_runs(datetime.now(UTC)) == [2]
    assert query.episodes(store)["episode_id"].tolist() == [1]
    assert list(check_store(store, deep=True)) == []
    assert files(store) == keys(store)


@pytest.mark.parametrize("name", ["rec_0001.wav", "ZWEI_2026-03-31_20-15_Show.wav"])
def test_another_recording_or_channel_at_the_same_path_stands_beside_the_former(
    inbox: Path, store: Store, night: Callable[[], NightReport], name: str
) -> None:
    """Where nobody knows when it was on air, or it is plain that that was another time."""
    path = record(inbox / name)
    night()
    record(path, seed=1)
    path.with_suffix(".csv").write_text("channel,air_start\nEINS,2026-04-07 20:15\n")
    assert [(row.outcome, row.reason) for row in night().rows] == [("new", "")]
    assert query.episodes(store)["run_id"].notna().tolist() == [True, True]


def test_a_file_that_is_recorded_over_in_the_night_waits_and_gets_no_other_ones_title(
    inbox: Path, store: Store, networks: Networks, config: Settings, night: Callable[[], NightReport]
) -> None:
    record(inbox / "a.wav", seed=1)
    path, table = record(inbox / "rec_0001.wav", seed=2), inbox / "rec_0001.csv"
    table.write_text("title,air_start\nLast week,2026-03-24 20:15\n")
    (inbox / "a.csv").write_text("air_start\n2026-03-24 19:00\n")

    def handle(found: FoundFile) -> NightRow:
        record(path, 4, seed=3)
        return process_found(found, store, networks, config)

    report = run_nightly(inbox, store, networks, config, handle=handle)
    assert outcomes(report) == {"a.wav": "new", "rec_0001.wav": "waiting"}
    assert report.rows[1].reason == "changed since it was looked at; the next night takes it"
    assert not report.has_failed
    table.write_text("title,air_start\nThis week,2026-03-31 20:15\n")
    assert outcomes(night()) == {"a.wav": "known", "rec_0001.wav": "new"}
    assert set(query.episodes(store)["title"]) == {"a", "This week"}


def test_a_night_gives_the_same_rows_as_each_file_alone(
    inbox: Path, store: Store, networks: Networks, config: Settings, tmp_path: Path
) -> None:
    path = record(inbox / "K_2026-03-31_20-15-00_a.ts", 14, start_s=5)
    run_nightly(inbox, store, networks, config)
    alone = config.model_copy(update={"data_dir": tmp_path / "alone"})
    alone = Settings(**alone.model_dump())
    with open_store(alone) as other:
        process_episode(Episode(path, "K", "a", AT_NIGHT), other, networks, alone)
        for ask in (query.segments, query.events):
            assert len(ask(other)) > 0
            assert_frame_equal(ask(store), ask(other))
        columns = ["channel", "title", "air_start", "duration_s", "music_s", "state", "source_sha256"]
        assert_frame_equal(query.episodes(store)[columns], query.episodes(other)[columns])


def test_a_bad_file_fails_with_its_reason_and_stops_no_other(
    inbox: Path, store: Store, night: Callable[[], NightReport]
) -> None:
    bad = inbox / "A_2026-03-31_20-15-00_bad.ts"
    bad.write_text("this is no transport stream\n" * 50)
    (inbox / "B_2026-03-31_20-15-00_empty.ts").touch()
    record(inbox / "C_2026-03-31_20-15-00_good.wav")
    report = night()
    rows = {row.file[0]: row for row in report.rows}
    assert {name: row.outcome for name, row in rows.items()} == {"A": "failed", "B": "failed", "C": "new"}
    assert str(bad) in rows["A"].reason and "\n" not in rows["A"].reason
    assert report.has_failed
    (failed,) = query.episodes(store, state="failed").to_dict("records")
    assert failed["path"] == str(bad)
    assert failed["reason"] == rows["A"].reason

    record(bad)
    assert outcomes(night())[bad.name] == "new"


def test_a_fault_of_the_program_costs_one_file_alone(
    inbox: Path, store: Store, networks: Networks, config: Settings
) -> None:
    record(inbox / "a.wav", seed=1)
    record(inbox / "b.wav", seed=2)

    def broken(stage: str, done_s: float, total_s: float | None) -> None:
        if done_s:
            raise ZeroDivisionError("a fault")

    def handle(found: FoundFile) -> NightRow:
        progress = {"progress": broken} if found.file == "a.wav" else {}
        return process_found(found, store, networks, config, **progress)

    first, second = run_nightly(inbox, store, networks, config, handle=handle).rows
    assert (first.outcome, first.reason, second.outcome) == ("failed", "ZeroDivisionError: a fault", "new")
    assert query.episodes(store, state="failed")["reason"].tolist() == [first.reason]
    assert outcomes(run_nightly(inbox, store, networks, config)) == {"a.wav": "new", "b.wav": "known"}


def test_a_growing_file_waits_and_is_taken_the_next_time(
    inbox: Path, store: Store, networks: Networks, config: Settings
) -> None:
    path = record(inbox / "a.wav")
    (inbox / "b.ts.part").write_text("x")
    settings = config.model_copy(update={"inbox": config.inbox.model_copy(update={"settle_s": 60})})
    report = run_nightly(inbox, store, networks, settings)
    assert outcomes(report) == {"a.wav": "waiting", "b.ts.part": "waiting"}
    assert "60 s ago" in report.rows[0].reason
    assert not report.has_failed
    assert query.episodes(store).empty
    os.utime(path, (time.time() - 61,) * 2)
    assert outcomes(run_nightly(inbox, store, networks, settings))["a.wav"] == "new"


def test_other_settings_are_another_run_and_earlier_ones_are_known(
    inbox: Path, store: Store, networks: Networks, config: Settings, night: Callable[[], NightReport]
) -> None:
    path = record(inbox / "a.wav")
    (first,) = night().rows
    config.detection.min_duration_on_s = 2.0
    (second,) = night().rows
    assert (second.outcome, second.episode_id) == ("new", first.episode_id)
    assert second.run_id != first.run_id
    config.detection.min_duration_on_s = 0.5
    before = runs_of(store)
    assert not plan_night(inbox, store, networks, config).due
    assert outcomes(night()) == {"a.wav": "known"}
    assert runs_of(store) == before, "what was asked for last stays shown"
    os.utime(path)
    (third,) = night().rows
    assert (third.outcome, third.run_id) == ("known", second.run_id), "it was read, and left as it was"
    (inbox / "a.csv").write_text("title\nNews\n")
    assert outcomes(night()) == {"a.wav": "known"}
    assert query.episodes(store)["title"].tolist() == ["News"]
    assert query.episodes(store)["run_id"].tolist() == [second.run_id]


def test_retention_leaves_what_a_night_would_make_anew(
    inbox: Path, store: Store, networks: Networks, config: Settings, night: Callable[[], NightReport]
) -> None:
    """An operator has made results with other settings, which are to stay."""
    path = record(inbox / "a.wav", seed=1)
    (first,) = night().rows
    other = config.model_copy(update={"detection": DetectionSettings(min_duration_on_s=2.0)})
    shown = process_episode(Episode(path), store, networks, other)
    between = datetime.now(UTC)
    record(inbox / "b.wav", seed=2)
    assert outcomes(night()) == {"a.wav": "known", "b.wav": "new"}
    assert store.drop_old_runs(between) == []
    assert set(outcomes(night()).values()) == {"known"}
    assert query.episodes(store, title="a")["run_id"].tolist() == [shown.run_id]
    assert store.drop_old_runs(datetime.now(UTC)) == [first.run_id], "by then no night had these settings"
    assert files(store) == keys(store)


def test_broken_files_take_no_new_ones_turn(
    inbox: Path, store: Store, networks: Networks, config: Settings
) -> None:
    for day in (1, 2, 3):
        (inbox / f"K_2026-01-0{day}_20-15-00_bad.wav").write_text(f"no sound {day}")
    (inbox / "K_2026-01-04_20-15-00_empty.wav").touch()
    run_nightly(inbox, store, networks, config)
    mended = record(inbox / "K_2026-01-03_20-15-00_bad.wav", seed=1)
    new = record(inbox / "K_2026-03-31_20-15-00_new.wav", seed=2)
    for path in (mended, new):
        assert outcomes(run_nightly(inbox, store, networks, config, limit=1))[path.name] == "new"
    counts = Counter(outcomes(run_nightly(inbox, store, networks, config, limit=1)).values())
    assert counts == {"known": 2, "failed": 1, "waiting": 2}


def test_copies_take_no_new_ones_turn(
    inbox: Path, store: Store, networks: Networks, config: Settings
) -> None:
    spot = record(inbox / "K_2026-01-01_20-15-00_spot.wav", seed=1)
    for day in (2, 3):
        shutil.copy(spot, inbox / f"K_2026-01-0{day}_20-15-00_spot.wav")
    new = record(inbox / "K_2026-03-31_20-15-00_new.wav", seed=2)
    for path in (spot, new):
        assert outcomes(run_nightly(inbox, store, networks, config, limit=1))[path.name] == "new"


def test_a_stem_store_that_is_not_mounted_stops_the_night_and_costs_nothing(
    inbox: Path, store: Store, config: Settings, networks: Networks, night: Callable[[], NightReport]
) -> None:
    path = record(inbox / "a.wav", seed=1)
    night()
    kept, runs = keys(store), runs_of(store)
    mounted = Path(config.resolved_stem_store)
    away = mounted.rename(mounted.with_name("on another machine"))
    mounted.mkdir()
    with pytest.raises(StoreError, match="mount it"):
        night()
    with pytest.raises(StoreError, match="mount it"):
        process_episode(Episode(path), store, networks, config, force=True)
    assert runs_of(store)[:1] == runs
    path.unlink()
    record(inbox / "b.wav", seed=2)
    (row,) = night().rows
    assert row.outcome == "failed" and "mount it" in row.reason
    assert files(store) == set()

    mounted.rmdir()
    away.rename(mounted)
    record(path, seed=1)
    assert outcomes(night()) == {"a.wav": "known", "b.wav": "new"}
    assert kept < keys(store) == files(store)

    shutil.rmtree(mounted)
    (mounted / store.stems.namespace / "0000").mkdir(parents=True)
    assert set(outcomes(night()).values()) == {"new"}, "it was lost, and is told to be"


def runs_of(store: Store) -> list[tuple[object, ...]]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT * FROM runs ORDER BY id"))]


def test_a_table_that_comes_later_tells_of_what_is_known(
    inbox: Path, store: Store, night: Callable[[], NightReport]
) -> None:
    record(inbox / "a.wav")
    night()
    (inbox / "inbox.csv").write_text("file,channel,title,air_start\na.wav,ZDF,Nachrichten,2026-03-31 20:15\n")
    (row,) = night().rows
    assert row.outcome == "known"
    (episode,) = query.episodes(store).to_dict("records")
    assert (episode["channel"], episode["title"], episode["air_start"]) == ("ZDF", "Nachrichten", AT_NIGHT)
    opened.clear()
    assert outcomes(night()) == {"a.wav": "known"}
    assert str(inbox / "a.wav") not in opened


def test_a_bad_table_is_an_error_of_the_night_but_its_file_is_done(
    inbox: Path, bgm: Callable[..., Result]
) -> None:
    record(inbox / "a.wav")
    (inbox / "inbox.csv").write_text("file,air_start\na.wav,tomorrow\n")
    result = bgm(inbox, "--format", "json")
    assert result.exit_code == 1
    assert [row["outcome"] for row in json.loads(result.stdout)] == ["new"]
    assert f"{inbox / 'inbox.csv'} line 2: air_start 'tomorrow' is no time; write" in result.stderr


def test_the_audio_stream_of_a_table_is_used(
    inbox: Path, store: Store, night: Callable[[], NightReport]
) -> None:
    record(inbox / "a.wav")
    (inbox / "a.csv").write_text("audio_stream\n7\n")
    (row,) = night().rows
    assert row.outcome == "failed"
    assert "no audio stream 7" in row.reason
    (inbox / "a.csv").write_text("audio_stream\n0\n")
    assert [row.outcome for row in night().rows] == ["new"]


def test_the_same_bytes_twice_are_processed_once(inbox: Path, night: Callable[[], NightReport]) -> None:
    path = record(inbox / "a.wav")
    (inbox / "b.wav").write_bytes(path.read_bytes())
    first, second = night().rows
    assert (first.outcome, second.outcome) == ("new", "known")
    assert first.run_id == second.run_id
    assert set(outcomes(night()).values()) == {"known"}


def test_what_another_process_is_at_work_on_is_busy(
    inbox: Path, store: Store, config: Settings, night: Callable[[], NightReport]
) -> None:
    record(inbox / "a.wav")
    (row,) = night().rows
    assert row.episode_id is not None
    config.detection.onset = 0.9
    with open_store(config) as other:
        other.start_run(row.episode_id, RunIdentity("a", "b", "c", "d", "e"))
        report = night()
    assert [row.outcome for row in report.rows] == ["busy"]
    assert "is being processed" in report.rows[0].reason
    assert not report.has_failed
    assert [row.outcome for row in night().rows] == ["new"]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(inbox: Path, bgm: Callable[..., Result]) -> None:
    record(inbox / "a.wav", seed=1)
    assert bgm(inbox).exit_code == 0
    record(inbox / "b.wav", seed=2)
    (inbox / "c.ts.part").touch()
    result = bgm(inbox, "--dry-run")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["waiting", "known", "due"]
    assert "b.wav" in lines[3]
    assert lines[-1] == "1 due, 1 known, 1 waiting"
    assert bgm(inbox, "--dry-run").stdout == result.stdout


def test_the_command_writes_a_table_or_json_and_its_exit_code_tells(
    inbox: Path, bgm: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bgm(inbox).stdout == "no media file in the inbox\n"
    record(inbox / "a b\n番.wav", seed=1)
    record(inbox / "c.wav", seed=2)
    monkeypatch.setenv("BGM_INBOX__FOLDER", str(inbox))
    result = bgm("--limit", 1)
    assert result.exit_code == 0
    head, new, waiting, summary = result.stdout.splitlines()
    assert waiting.split()[:2] == ["waiting", "c.wav"]
    assert new.index("00:00:03") == head.index("duration")
    assert "a b\\n番.wav" in new
    assert summary == "1 new, 1 waiting, 00:00:03 of music found"
    (inbox / "bad.mp4").write_text("bad")
    out = tmp_path / "report.json"
    result = bgm("--format", "json", "-o", out)
    assert result.exit_code == 1
    assert result.stdout == ""
    rows = {row["file"]: row for row in json.loads(out.read_text())}
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "a b\\n番.wav": "known",
        "bad.mp4": "failed",
        "c.wav": "new",
    }
    assert rows["c.wav"]["music_s"] == rows["c.wav"]["duration_s"] == 3.0
    assert f"failed: {inbox / 'bad.mp4'}" in result.stderr


def test_a_report_that_cannot_be_written_is_said_before_the_work_or_printed(
    inbox: Path, bgm: Callable[..., Result], tmp_path: Path, store: Store
) -> None:
    record(inbox / "a.wav")
    early = bgm("-o", tmp_path / "nosuch" / "x.json", inbox)
    assert isinstance(early.exception, InputError)
    assert "there is no such folder" in str(early.exception)
    assert query.episodes(store).empty
    late = bgm("-o", tmp_path, "--format", "json", inbox)
    assert isinstance(late.exception, InputError)
    assert "Is a directory" in str(late.exception)
    assert [row["outcome"] for row in json.loads(late.stdout)] == ["new"]


def test_an_inbox_that_is_not_there_or_not_named_is_one_line(
    bgm: Callable[..., Result], tmp_path: Path, store: Store, networks: Networks, config: Settings
) -> None:
    result = bgm(tmp_path / "nowhere")
    assert isinstance(result.exception, InputError)
    assert "nowhere: no such folder" in str(result.exception)
    result = bgm()
    assert isinstance(result.exception, BgmError)
    assert "BGM_INBOX__FOLDER" in str(result.exception)
    with pytest.raises(InputError):
        plan_night(tmp_path / "nowhere", store, networks, config)


def test_a_night_that_is_stopped_goes_on_where_it_was(
    environment: None, inbox: Path, store: Store, night: Callable[[], NightReport]
) -> None:
    record(inbox / "a.wav", seed=1)
    record(inbox / "b.wav", 200, seed=2)
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(inbox)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (states := Counter(query.episodes(store)["state"]))["running"] or not states["done"]:
        assert time.monotonic() < deadline and command.poll() is None
        time.sleep(0.02)
    command.terminate()
    _, stderr = command.communicate(timeout=30)
    assert command.returncode == 128 + signal.SIGTERM
    assert stderr.splitlines()[-1] == "bgm: stopped by SIGTERM; run it again to go on"
    assert "Traceback" not in stderr
    (failed,) = query.episodes(store, state="failed").to_dict("records")
    assert failed["reason"] == "Stopped: stopped by SIGTERM"
    assert len(files(store)) == 1
    assert outcomes(night()) == {"a.wav": "known", "b.wav": "new"}


def test_two_nights_at_once_share_the_files(
    environment: None, inbox: Path, store: Store, networks: Networks, config: Settings, tmp_path: Path
) -> None:
    for number in range(4):
        record(inbox / f"{number}.wav", 4, seed=number)
    out = tmp_path / "report.json"
    arguments = [sys.executable, "-c", COMMAND, str(inbox), "--format", "json", "-o", str(out)]
    command = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    while query.episodes(store).empty:
        assert command.poll() is None
        time.sleep(0.01)
    here = outcomes(run_nightly(inbox, store, networks, config))
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 0, stderr
    there = {row["file"]: row["outcome"] for row in json.loads(out.read_text())}
    assert here.keys() == there.keys()
    assert all((here[name] == "new") != (there[name] == "new") for name in here)
    assert set(here.values()) | set(there.values()) <= {"new", "known", "busy"}
    assert query.episodes(store)["state"].tolist() == ["done"] * 4
