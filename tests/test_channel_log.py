"""The music log: air time, every second once."""

import csv
import io
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from store.samples import ON_AIR, add_episode, add_programme, identity, on_sqlite

from bgm_pipeline import query
from bgm_pipeline.channel_log import LOG_COLUMNS, ChannelLog, channel_log
from bgm_pipeline.errors import InputError
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store
from bgm_pipeline.timebase import s_to_samples
from bgm_pipeline.types import AudioSelection, Event, Gap, RunResult

HOLE_S = 0.3
PARIS = ZoneInfo("Europe/Paris")

Spans = Sequence[tuple[float, float]]
"""Where music is, seconds from the start of the recording."""


def at(seconds: float) -> datetime:
    return ON_AIR + timedelta(seconds=seconds)


def add(
    store: Store,
    name: str,
    music: Spans,
    air_start: datetime | None = ON_AIR,
    channel: str = "One",
    duration_s: float = 60.0,
    levels: Sequence[tuple[float, float | None]] = (),
    gaps: Spans = (),
) -> int:
    """A recording with events at these places; `levels` are their probabilities and dB, else 0.8 and -3."""
    episode_id = add_episode(store, f"{name}.ts", channel, name, air_start)
    run_id = store.start_run(episode_id, identity(f"{name}.ts"))
    levels = levels or [(0.8, -3.0)] * len(music)
    events = tuple(
        Event(s_to_samples(start), s_to_samples(end), probability, level)
        for (start, end), (probability, level) in zip(music, levels, strict=True)
    )
    writer = store.stems.begin(episode_id, run_id)
    store.finish_run(
        run_id,
        RunResult(
            duration_samples=s_to_samples(duration_s),
            container="mpegts",
            selection=AudioSelection((1,), "the only one"),
            gaps=tuple(Gap(s_to_samples(start), s_to_samples(end), "missing") for start, end in gaps),
            damage=(),
            segments=(),
            events=events,
            stems=writer.commit(),
            stage_s={},
        ),
    )
    return episode_id


def spans(log: ChannelLog) -> list[tuple[str, float, float]]:
    """Titles of each row, and its start and end, in seconds after `ON_AIR`."""
    starts, ends = (log.rows[name] - ON_AIR for name in ("air_start", "air_end"))
    return [
        (titles, start.total_seconds(), end.total_seconds())
        for titles, start, end in zip(log.rows["titles"], starts, ends, strict=True)
    ]


def day(store: Store, number: int, last: int | None = None, channel: str | None = None) -> ChannelLog:
    first, until = date(2026, 3, number), date(2026, 3, last or number)
    return channel_log(store, HOLE_S, channel=channel, since=first, until=until, tz=UTC)


def test_a_row_tells_all_that_is_known_of_it(store: Store) -> None:
    add(store, "News", [(10, 20)], levels=[(0.9, None)])
    add(store, "Tail", [(0, 15), (40, 41)], at(18), levels=[(0.7, -6.5), (1, 0)])
    log = channel_log(store, HOLE_S, tz=PARIS)
    assert tuple(log.rows.columns) == LOG_COLUMNS
    first, second = log.rows.to_dict("records")
    assert first == {
        "channel": "One",
        "air_start": at(10),
        "air_end": at(33),
        "duration_s": 23.0,
        "titles": "News; Tail",
        "episode_ids": "1; 2",
        "music_probability": 0.9,
        "music_to_speech_db": -6.5,
    }
    assert first["air_start"].isoformat() == "2026-03-31T22:15:10+02:00"
    assert (second["titles"], second["episode_ids"], second["duration_s"]) == ("Tail", "2", 1)
    assert (log.sums, log.asked_ms) == ((("One", 24_000, 78_000),), None)


def test_days_share_what_is_on_air_at_midnight_and_add_up(store: Store) -> None:
    """The song goes on in the next file, after a hole of 0.2 s that midnight cuts in two."""
    midnight = datetime(2026, 3, 31, tzinfo=UTC)
    add(store, "Old", [(50, 59.9)], midnight - timedelta(seconds=60))
    add(store, "New", [(0.1, 20), (50, 61)], midnight)
    add(store, "Newer", [(0, 3)], midnight + timedelta(days=1, seconds=-2))
    first, second, both = day(store, 30), day(store, 31), day(store, 30, 31)
    assert [(row.titles, row.duration_s) for row in first.rows.itertuples()] == [("Old", 10)]
    assert second.rows["duration_s"].tolist() == [20, 11, 2]
    assert second.rows["air_start"].iloc[0] == midnight
    assert both.rows["titles"].tolist() == ["Old; New", "New", "Newer"]
    assert both.rows["duration_s"].tolist() == [30, 11, 2]
    (of_first,), (of_second,), (of_both,) = first.sums, second.sums, both.sums
    assert of_first.music_ms + of_second.music_ms == of_both.music_ms == 43_000
    assert of_first.recorded_ms + of_second.recorded_ms == of_both.recorded_ms == 122_000
    assert (first.asked_ms, both.asked_ms) == (86_400_000, 172_800_000)


@on_sqlite
def test_a_range_holds_back_what_lies_outside(store: Store) -> None:
    add(store, "News", [(0, 10), (20, 30), (40, 50)])
    log = channel_log(store, HOLE_S, since=at(10), until=at(22.5), tz=UTC)
    assert spans(log) == [("News", 20, 22.5)]
    assert (log.sums, log.asked_ms) == ((("One", 2_500, 12_500),), 12_500)
    assert spans(channel_log(store, HOLE_S, since=at(50), tz=UTC)) == []


@on_sqlite
def test_overlapping_recordings_count_once(store: Store) -> None:
    add(store, "News", [(0, 5), (40, 60)])
    add(store, "Quiz", [(0, 12), (30, 35)], at(50))
    add(store, "Again", [(41, 60)])
    log = channel_log(store, HOLE_S, tz=UTC)
    assert spans(log) == [("News", 0, 5), ("News; Again; Quiz", 40, 62), ("Quiz", 80, 85)]
    assert log.sums == (("One", 32_000, 110_000),)


def test_gaps_are_not_recorded_unless_another_recording_has_what_they_lack(store: Store) -> None:
    """It began late, lost packets and ended early; ten seconds of that are in another recording."""
    add(
        store, "Day", [(6_000, 6_060)], duration_s=86_400, gaps=[(0, 1_800), (7_000, 7_600), (82_500, 86_400)]
    )
    assert channel_log(store, HOLE_S, tz=UTC).sums == (("One", 60_000, 80_100_000),)
    add(store, "Again", [], at(7_050), duration_s=20, gaps=[(5, 15)])
    assert channel_log(store, HOLE_S, tz=UTC).sums == (("One", 60_000, 80_110_000),)
    part = channel_log(store, HOLE_S, since=at(7_500), until=at(7_700), tz=UTC)
    assert part.sums == (("One", 0, 100_000),)
    silent = channel_log(store, HOLE_S, since=at(100), until=at(200), tz=UTC)
    assert silent.sums == (("One", 0, 0),), "that a recording was there, without a second of audio, is told"


@on_sqlite
@pytest.mark.parametrize(("later_s", "rows"), [(0, 1), (0.3, 1), (0.301, 2)])
def test_a_song_over_two_files_is_one_row(store: Store, later_s: float, rows: int) -> None:
    add(store, "First", [(30, 60)])
    add(store, "Second", [(0, 30)], at(60 + later_s))
    assert len(channel_log(store, HOLE_S, tz=UTC).rows) == rows


@on_sqlite
def test_events_of_one_recording_stay_apart_unless_another_joins_them(store: Store) -> None:
    apart = [(0, 10), (10.2, 20), (30, 31), (31.2, 32), (32.2, 33)]
    add(store, "News", apart)
    assert spans(channel_log(store, HOLE_S, tz=UTC)) == [("News", *span) for span in apart]
    add(store, "Quiz", [(2, 9), (31.1, 40)])
    log = channel_log(store, HOLE_S, tz=UTC)
    assert spans(log) == [("News; Quiz", 0, 10), ("News", 10.2, 20), ("News; Quiz", 30, 40)]
    add(store, "Late", [(10.25, 11)])
    assert spans(channel_log(store, HOLE_S, tz=UTC))[0] == ("News; Quiz; Late", 0, 20)


def test_channels_keep_to_themselves(store: Store) -> None:
    add(store, "Drama", [(0, 10)], channel="Two")
    add(store, "News", [(5, 15)])
    add(store, "Silence", [], at(3_600), channel="Three")
    add(store, "Nameless", [(0, 1)], channel="")
    log = channel_log(store, HOLE_S, tz=UTC)
    assert log.rows["channel"].tolist() == ["", "One", "Two"]
    assert spans(log) == [("Nameless", 0, 1), ("News", 5, 15), ("Drama", 0, 10)]
    assert [(one.channel, one.music_ms) for one in log.sums] == [
        ("", 1_000),
        ("One", 10_000),
        ("Three", 0),
        ("Two", 10_000),
    ]
    assert spans(channel_log(store, HOLE_S, channel="Two", tz=UTC)) == [("Drama", 0, 10)]
    assert spans(channel_log(store, HOLE_S, channel="", tz=UTC)) == [("Nameless", 0, 1)]
    nothing = channel_log(store, HOLE_S, channel="two", tz=UTC)
    assert nothing.sums == (("two", 0, 0),)
    assert nothing.rows.dtypes.to_dict() == log.rows.dtypes.to_dict()


def test_a_channel_is_one_however_its_accents_are_made_up(store: Store) -> None:
    composed, decomposed = "T\u00e9l\u00e9", "Te\u0301le\u0301"
    add(store, "News", [(0, 10)], channel=composed)
    add(store, "Quiz", [(0, 10)], channel=decomposed)
    for channel in (None, composed, decomposed):
        log = channel_log(store, HOLE_S, channel=channel, tz=UTC)
        assert log.sums == ((composed, 10_000, 60_000),)
        assert (spans(log), set(log.rows["channel"])) == ([("News; Quiz", 0, 10)], {composed})


def test_what_cannot_be_in_it_is_counted(store: Store) -> None:
    add(store, "News", [(0, 10)])
    add(store, "Undated", [(0, 10)], None)
    add(store, "Undated too", [(0, 10)], None, "Two")
    add_episode(store, "new.ts", "Two", "Tomorrow", at(3_600))
    add_episode(store, "newer.ts", "Two", "Another day", at(90_000))
    for channel, expected in ((None, (2, 1)), ("Two", (1, 1)), ("One", (1, 0))):
        log = day(store, 31, channel=channel)
        assert (log.without_air_time, log.without_results) == expected
    assert spans(channel_log(store, HOLE_S, channel="One", tz=UTC)) == [("News", 0, 10)]


def test_a_failed_recording_counts_on_the_day_that_it_may_have_gone_on_into(store: Store) -> None:
    """It began at 23:00, another at 22:00; an hour and a half is the longest of those with results."""
    midnight = datetime(2026, 4, 1, tzinfo=UTC)
    add(store, "Film", [(0, 10)], at(86_400), duration_s=5_400)
    for name, hours_before in (("late.ts", 1), ("early.ts", 2)):
        episode_id = add_episode(store, name, "One", name, midnight - timedelta(hours=hours_before))
        store.fail_run(store.start_run(episode_id, identity(name)), "no audio stream")
    log = channel_log(store, HOLE_S, since=date(2026, 4, 1), until=date(2026, 4, 1), tz=UTC)
    assert log.without_results == 1
    found = query.episodes(store, since=date(2026, 4, 1), tz=UTC)
    assert found["title"].tolist() == ["Film", "late.ts"], "bgm episodes tells which it is"


@on_sqlite
def test_a_year_of_many_channels_fits_into_the_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel at a time, and of its events what the log tells."""
    monkeypatch.setattr("bgm_pipeline.query.FRAME_ROWS", 500)
    for number in range(20):
        music = [(3 * one, 3 * one + 1) for one in range(400)]
        add(store, f"News {number}", music, at(1_200 * number), f"Channel {number % 4}", duration_s=1_200)
    channel_log(store, HOLE_S, channel="Channel 0", tz=UTC)  # what is imported for it does not count
    tracemalloc.start()
    log = channel_log(store, HOLE_S, tz=UTC)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(log.rows) == 8_000
    assert log.rows["titles"].iloc[[0, -1]].tolist() == ["News 0", "News 19"]
    assert peak_bytes < 500 * len(log.rows)


@on_sqlite
def test_what_queries_do_not_show_is_not_in_it(store: Store) -> None:
    """The results that newer ones took the place of, and those of a run that failed."""
    episode_id = add(store, "News", [(0, 10)])
    failing = store.start_run(episode_id, identity("News.ts", "other"))
    store.fail_run(failing, "out of memory")
    log = channel_log(store, HOLE_S, tz=UTC)
    assert (spans(log), log.without_results) == ([("News", 0, 10)], 0)


@on_sqlite
def test_a_day_on_which_clocks_change_is_as_long_as_it_is(store: Store) -> None:
    summer_ends = datetime(2026, 10, 25, 0, 59, 50, tzinfo=UTC)
    add(store, "Night", [(0, 20)], summer_ends)
    autumn, spring = date(2026, 10, 25), date(2026, 3, 29)
    log = channel_log(store, HOLE_S, since=autumn, until=autumn, tz=PARIS)
    (row,) = log.rows.to_dict("records")
    assert row["air_start"].isoformat() == "2026-10-25T02:59:50+02:00"
    assert row["air_end"].isoformat() == "2026-10-25T02:00:10+01:00"
    assert (row["duration_s"], log.asked_ms) == (20, 25 * 3_600_000)
    assert channel_log(store, HOLE_S, since=spring, until=spring, tz=PARIS).asked_ms == 23 * 3_600_000


@on_sqlite
@pytest.mark.parametrize("until", [at(0), at(-1)])
def test_a_range_that_ends_before_it_begins_is_refused(store: Store, until: datetime) -> None:
    with pytest.raises(InputError, match="the range ends before it begins"):
        channel_log(store, HOLE_S, since=at(0), until=until)


Bgm = Callable[..., CompletedProcess[str]]


@pytest.fixture
def filled(own_store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGM_INBOX__TIME_ZONE", "Europe/Paris")
    with open_store(Settings()) as store:
        add(store, "=News", [(0, 10), (50, 60)])
        add(store, "Quiz", [(0.2, 10), (30.5, 31.25)], at(60))
        add(store, "Undated", [(0, 10)], None)
        add_programme(store, "drama.ts", (None,), "Two\x1b[2J", "Drama", ON_AIR)


def test_of_one_channel_the_command_tells_of_recordings_that_may_be_its(filled: None, bgm: Bgm) -> None:
    with open_store(Settings()) as store:
        add(store, "Nameless", [(0, 10)], channel="")
        add(store, "Nameless another day", [(0, 10)], at(86_400), channel="")
        add(store, "Nameless and undated", [(0, 10)], None, channel="")
    day = ("--since", "2026-03-31", "--until", "2026-03-31")
    no_air_time = "left out: no air time is known"
    assert bgm("log", "--channel", "One", *day).stderr.splitlines()[1:] == [
        f"bgm: 2 recordings are {no_air_time}",
        "bgm: 1 recording is left out: no channel is known, so that it may be this one",
    ]
    assert bgm("log", "--channel", "Three", *day).stderr.splitlines()[1:] == [
        f"bgm: 1 recording is {no_air_time}",
        "bgm: 1 recording is left out: no channel is known, so that it may be this one",
    ]
    assert bgm("log", *day).stderr.splitlines()[3:] == [f"bgm: 2 recordings are {no_air_time}"]


def test_the_command_writes_rows_and_tells_the_sums_beside_them(filled: None, bgm: Bgm) -> None:
    done = bgm("log", "--since", "2026-03-31", "--until", "2026-03-31", "--format", "csv")
    assert done.returncode == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["channel"], row["air_start"], row["air_end"], row["duration_s"]) for row in rows] == [
        ("One", "2026-03-31T22:15:00+02:00", "2026-03-31T22:15:10+02:00", "10.0"),
        ("One", "2026-03-31T22:15:50+02:00", "2026-03-31T22:16:10+02:00", "20.0"),
        ("One", "2026-03-31T22:16:30.500000+02:00", "2026-03-31T22:16:31.250000+02:00", "0.75"),
    ]
    assert [row["titles"] for row in rows] == ["'=News", "'=News; Quiz", "Quiz"]
    assert done.stderr.splitlines() == [
        "bgm: One: 00:00:30 of music in 00:02:00 recorded, of 24:00:00 asked for",
        r"bgm: Two\x1b[2J: 00:00:00 of music in 00:00:11 recorded, of 24:00:00 asked for",
        "bgm: 1 recording is left out: no air time is known",
    ]
    of_one = bgm("log", "--channel", "One", "--until", "2026-03-31", "--format", "json")
    assert of_one.stderr.splitlines()[0] == "bgm: One: 00:00:30 of music in 00:02:00 recorded"
    apart = bgm("log", "--channel", "One", "--format", "csv", BGM_DETECTION__MIN_DURATION_OFF_S="0.1")
    assert len(apart.stdout.splitlines()) == 5, "who fills shorter holes joins what lies closer"


def test_the_command_draws_a_table_and_writes_files(filled: None, bgm: Bgm, tmp_path: Path) -> None:
    shown = bgm("log", "--since", "2026-03-31").stdout.splitlines()
    assert shown[0] == "channel One"
    assert " ".join(shown[2].split()) == "titles episodes on air until length probability to speech"
    row = "=News; Quiz 1; 2 2026-03-31 22:15:50+02:00 2026-03-31 22:16:10+02:00 00:00:20 80 % -3.0 dB"
    assert " ".join(shown[5].split()) == row
    for name in ("log.xlsx", "log.parquet"):
        assert bgm("log", "-o", tmp_path / name).stdout == ""
        read = pd.read_excel if name.endswith("xlsx") else pd.read_parquet
        assert read(tmp_path / name)["duration_s"].tolist() == [10, 20, 0.75]


def test_a_long_table_is_cut_but_its_sums_are_of_all(
    filled: None, bgm: Bgm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgm_pipeline.cli_ask.TABLE_ROWS", 2)
    done = bgm("log", "--channel", "One")
    assert done.stdout.splitlines()[-1] == "2 rows"
    assert done.stderr.splitlines()[:2] == [
        "bgm: only the first 2; all with -o FILE.csv",
        "bgm: One: 00:00:30 of music in 00:02:00 recorded",
    ]
    assert len(bgm("log", "--format", "csv").stdout.splitlines()) == 4
