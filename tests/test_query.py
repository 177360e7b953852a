"""Asking the database from Python: every filter, alone and with others."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from sqlalchemy import Row, event, text
from store.samples import ON_AIR, add_episode, add_programme, add_run, files, identity, on_sqlite

from bgm_pipeline import filters as filters_module
from bgm_pipeline import query
from bgm_pipeline.errors import InputError
from bgm_pipeline.filters import EpisodeFilters, SpanFilters, parse_moment
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store, upgrade_database
from bgm_pipeline.zones import local_zone

NEWS, QUIZ, LATE = "Evening News", "100 % Quiz", "ÄRZTE late"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def year(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Four programmes of two channels, of which one never ran, and one whose air time nobody knows.

    Numbers are 1 news, 2 quiz, 3 late night, 4 new, 5 unknown; a segment takes 12 s. No test changes it.
    """
    url = request.getfixturevalue("new_pg_database")() if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("year"), database_url=url, stem_store="")
    upgrade_database(settings)
    with open_store(settings) as store:
        add_programme(store, "1.ts", (-3.0, None, 2.0), "One", NEWS, ON_AIR)
        add_programme(store, "2.ts", (None, None), "One", QUIZ, ON_AIR + timedelta(days=1))
        add_programme(store, "3.ts", (-20.0, -20.0, None, 0.0), "Two", LATE, ON_AIR + timedelta(hours=3))
        add_episode(store, "4.ts", "Two", "Tomorrow", ON_AIR + timedelta(days=2))
        add_programme(store, "5.ts", (5.0,))
        failing = store.start_run(2, identity("2.ts", "other"))
        store.fail_run(failing, "out of memory")
        yield store


def at(seconds: float) -> datetime:
    """A moment after the news began."""
    return ON_AIR + timedelta(seconds=seconds)


def ids(frame: pd.DataFrame) -> list[int]:
    return frame["episode_id"].tolist()


def spans(frame: pd.DataFrame) -> list[tuple[int, float, float]]:
    return list(zip(frame["episode_id"], frame["start_s"], frame["end_s"], strict=True))


def test_episodes_come_newest_first_with_what_is_known_of_them(year: Store) -> None:
    found = query.episodes(year, tz=UTC)
    assert tuple(found.columns) == query.EPISODE_COLUMNS
    assert ids(found) == [5, 4, 2, 3, 1], "who has no air time may be new, and comes first"
    news = found[found["episode_id"] == 1].iloc[0]
    assert (news["channel"], news["title"], news["state"], news["model"]) == ("One", NEWS, "done", "net")
    assert (news["duration_s"], news["music_s"], news["music_share"]) == (36, 24, pytest.approx(2 / 3))
    assert (news["air_start"], news["air_end"]) == (ON_AIR, ON_AIR + timedelta(seconds=36))
    assert (news["gap_s"], news["damage"]) == (0.01, "invalid frame (x 2)")
    new = found[found["episode_id"] == 4].iloc[0]
    assert (new["state"], new["reason"], new["damage"]) == ("new", "", "")
    assert pd.isna(new["run_id"]) and pd.isna(new["duration_s"]) and pd.isna(new["air_end"])
    assert found["air_start"].isna().tolist() == [True, False, False, False, False]


def test_a_failed_attempt_shows_its_reason_and_leaves_earlier_results(year: Store) -> None:
    quiz = query.episodes(year, episode_id=2).iloc[0]
    assert (quiz["state"], quiz["reason"]) == ("failed", "out of memory")
    assert (quiz["model"], quiz["duration_s"], quiz["music_s"]) == ("net", 24, 0)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"channel": "One"}, [2, 1]),
        ({"channel": "one"}, []),
        ({"title": "news"}, [1]),
        ({"title": "% quiz"}, [2]),
        ({"title": "0_"}, []),
        ({"title": "ärzte"}, [3]),
        ({"title": "a\u0308rzte"}, [3]),
        ({"state": "new"}, [4]),
        ({"state": "done"}, [5, 3, 1]),
        ({"state": "failed"}, [2]),
        ({"state": "running"}, []),
        ({"music": True}, [5, 3, 1]),
        ({"music": False}, [2]),
        ({"episode_id": 3}, [3]),
        ({"episode_id": 33}, []),
        ({"limit": 2}, [5, 4]),
        ({"limit": 0}, []),
        ({"since": at(3_600)}, [4, 2, 3]),
        ({"until": at(3_600)}, [1]),
        ({"since": date(2026, 4, 1), "until": date(2026, 4, 1)}, [2]),
        ({"since": date(2026, 3, 31), "until": date(2026, 3, 31)}, [3, 1]),
        ({"channel": "One", "since": date(2026, 4, 1), "state": "failed"}, [2]),
        ({"channel": None, "title": None, "music": None, "limit": None}, [5, 4, 2, 3, 1]),
    ],
)
def test_filters_of_episodes(year: Store, filters: EpisodeFilters, expected: list[int]) -> None:
    assert ids(query.episodes(year, **filters | {"tz": UTC})) == expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"episode_id": 1}, [(1, 0, 12), (1, 12, 24), (1, 24, 36)]),
        ({"music": True, "channel": "One"}, [(1, 0, 12), (1, 24, 36)]),
        ({"music": False, "channel": "Two"}, [(3, 24, 36)]),
        ({"min_probability": 0.9}, [(1, 24, 36), (3, 36, 48), (5, 0, 12)]),
        ({"max_music_to_speech_db": -20.0}, [(3, 0, 12), (3, 12, 24)]),
        (
            {"min_music_to_speech_db": -3.0, "max_music_to_speech_db": 2.0},
            [(1, 0, 12), (1, 24, 36), (3, 36, 48)],
        ),
        ({"state": "failed"}, [(2, 0, 12), (2, 12, 24)]),
        ({"title": "LATE", "limit": 1}, [(3, 0, 12)]),
        ({"since": at(24), "until": at(300)}, [(1, 24, 36)]),
        (
            {"since": ON_AIR + timedelta(seconds=23.999), "until": ON_AIR + timedelta(seconds=24)},
            [(1, 12, 24)],
        ),
        ({"since": at(36), "until": at(10_800)}, []),
    ],
)
def test_filters_of_segments(
    year: Store, filters: SpanFilters, expected: list[tuple[int, float, float]]
) -> None:
    assert spans(query.segments(year, **filters)) == expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [(1, 0, 12), (1, 24, 36), (3, 0, 24), (3, 36, 48), (5, 0, 12)]),
        ({"music": True, "episode_id": 3}, [(3, 0, 24), (3, 36, 48)]),
        ({"min_probability": 0.9, "channel": "One"}, [(1, 24, 36)]),
        ({"max_music_to_speech_db": -10}, [(3, 0, 24)]),
        (
            {"since": ON_AIR + timedelta(hours=3, seconds=23), "until": date(2026, 3, 31)},
            [(3, 0, 24), (3, 36, 48)],
        ),
    ],
)
def test_filters_of_events(
    year: Store, filters: SpanFilters, expected: list[tuple[int, float, float]]
) -> None:
    assert spans(query.events(year, **filters | {"tz": UTC})) == expected


def test_segments_tell_their_times_and_who_made_them(year: Store) -> None:
    found = query.segments(year, episode_id=1, tz=ZoneInfo("Asia/Tokyo"))
    assert tuple(found.columns) == query.SEGMENT_COLUMNS
    last = found.iloc[-1]
    assert (last["start_timecode"], last["end_timecode"]) == ("00:00:24.000", "00:00:36.000")
    assert last["air_start"] == ON_AIR + timedelta(seconds=24)
    assert last["air_start"].isoformat() == "2026-04-01T05:15:24+09:00"
    assert (last["music_probability"], last["music_to_speech_db"]) == (0.99, 2)
    assert (last["mixture_db"], last["music_db"], last["model"]) == (-20, -23, "net")
    assert pd.isna(found.iloc[1]["music_to_speech_db"])
    assert query.segments(year, episode_id=5)["air_start"].isna().all()
    assert tuple(query.events(year).columns) == query.EVENT_COLUMNS


def test_a_date_means_the_day_of_the_zone_that_is_asked_for(year: Store) -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    day = date(2026, 4, 1)
    assert ids(query.episodes(year, since=day, until=day, tz=tokyo)) == [3, 1]
    assert ids(query.episodes(year, since=day, until=day, tz=UTC)) == [2]


@pytest.mark.parametrize("ask", [query.episodes, query.segments, query.events])
def test_an_empty_answer_has_the_columns_and_types_of_a_full_one(
    year: Store, ask: Callable[..., pd.DataFrame]
) -> None:
    full, empty = ask(year), ask(year, channel="none")
    assert len(full) > 0 and len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


@on_sqlite
@pytest.mark.parametrize(
    ("ask", "filters", "complaint"),
    [
        (query.episodes, {"colour": "red"}, "no such filter: colour; there are channel, title"),
        (query.episodes, {"min_probability": 0.5}, "no such filter: min_probability"),
        (query.segments, {"state": "lost"}, "no such state: lost; there are new, running, done, failed"),
        (query.segments, {"limit": -1}, "a limit cannot be negative"),
        (query.events, {"music": False}, "events are spans of music"),
        (query.events, {"since": datetime(2026, 1, 1)}, "has no time zone"),
        (query.events, {"until": date(9999, 12, 31)}, "the year must be from 1900 to 9000"),
    ],
)
def test_filters_that_cannot_be_meant_are_refused(
    store: Store, ask: Callable[..., pd.DataFrame], filters: SpanFilters, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        ask(store, **filters)


def test_moments_are_read_as_people_write_them() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    assert parse_moment("2026-03-31") == date(2026, 3, 31)
    assert parse_moment(" 2026-03-31 20:15 ", tokyo) == datetime(2026, 3, 31, 20, 15, tzinfo=tokyo)
    assert parse_moment("2026-03-31T20:15:30+02:00") == datetime(2026, 3, 31, 18, 15, 30, tzinfo=UTC)
    assert parse_moment("20260331") == date(2026, 3, 31)
    told: list[str] = []
    paris = ZoneInfo("Europe/Paris")
    twice = parse_moment("2026-10-25 02:30", paris, told.append)
    assert isinstance(twice, datetime) and twice.astimezone(UTC) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert told == ["2026-10-25 02:30 came twice as summer time ended; taken for the first"]
    far = parse_moment("9999-12-31 23:59", ZoneInfo("America/New_York"))
    assert far.year == 9999, "left to who asks with it"
    in_local_time = parse_moment("2026-03-31 20:15")
    assert isinstance(in_local_time, datetime) and in_local_time.tzinfo == local_zone()
    for wrong in ("yesterday", "2026-13-01", "31.03.2026", ""):
        with pytest.raises(InputError, match="not a date or time: "):
            parse_moment(wrong)
    assert parse_moment("2026-03-31T20:15Z") == ON_AIR


def ask_sql(store: Store, statement: str) -> Sequence[Row[Any]]:
    with store.reading() as connection:
        return connection.execute(text(statement)).all()


def test_the_view_of_music_segments(year: Store) -> None:
    found = ask_sql(year, "SELECT * FROM music_segments ORDER BY episode_id, segment_index")
    numbers = [(row.episode_id, row.segment_index) for row in found]
    assert numbers == [(1, 0), (1, 2), (3, 0), (3, 1), (3, 3), (5, 0)]
    late = found[4]
    assert (late.channel, late.title, late.start_ms, late.end_s) == ("Two", LATE, 36_000, 48)
    assert (late.music_probability, late.music_to_speech_db) == (0.99, 0)
    assert (late.mixture_db, late.music_db) == (-20, -23)
    on_air = datetime.fromisoformat(str(late.air_start))
    assert (on_air if on_air.tzinfo else on_air.replace(tzinfo=UTC)) == at(10_836)
    assert late.stem_key in files(year)
    assert (late.model, late.code_version) == ("net", "0.1.0")


def test_the_view_of_music_minutes(year: Store) -> None:
    found = ask_sql(year, "SELECT * FROM music_minutes_by_programme ORDER BY episode_id")
    assert [row.episode_id for row in found] == [1, 2, 3, 5]
    assert [round(row.minutes, 6) for row in found] == [0.6, 0.4, 0.8, 0.2]
    assert [round(row.music_minutes, 6) for row in found] == [0.4, 0, 0.6, 0.2]
    assert [round(row.music_share, 6) for row in found] == [0.666667, 0, 0.75, 1]
    assert found[0].title == NEWS


def test_views_show_one_run_of_an_episode(store: Store) -> None:
    episode_id = add_programme(store, "1.ts", (1.0, None))
    add_run(store, episode_id, identity("1.ts", "better"), (1.0, 1.0))
    segments = ask_sql(store, "SELECT model FROM music_segments")
    minutes = ask_sql(store, "SELECT model FROM music_minutes_by_programme")
    assert [row.model for row in segments] == ["better"] * 2
    assert [row.model for row in minutes] == ["better"]


def plan_of(store: Store, ask: Callable[[], object]) -> str:
    """How SQLite finds the rows of a question."""
    asked: list[tuple[str, object]] = []

    def listen(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", listen)
    ask()
    event.remove(store.engine, "before_cursor_execute", listen)
    statement, parameters = asked[-1]
    with store.reading() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
        return "\n".join(row.detail for row in plan)


@pytest.mark.parametrize("year", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("ask", "filters", "index"),
    [
        (query.episodes, {"since": date(2026, 1, 1)}, "ix_episodes_air_start"),
        (query.episodes, {"channel": "One", "since": date(2026, 1, 1)}, "ix_episodes_channel_air_start"),
        (query.episodes, {"limit": 50}, "ix_episodes_air_start"),
        (query.segments, {"channel": "One", "since": date(2026, 1, 1)}, "ix_episodes_channel_air_start"),
        (query.segments, {"episode_id": 1}, "uq_runs_current_of_episode"),
        (query.events, {"since": date(2026, 1, 1)}, "ix_episodes_air_start"),
    ],
)
def test_questions_go_through_the_indexes(
    year: Store, ask: Callable[..., pd.DataFrame], filters: SpanFilters, index: str
) -> None:
    plan = plan_of(year, lambda: ask(year, **filters))
    assert index in plan
    assert "SCAN segments" not in plan
    assert "SCAN events" not in plan
    assert "SCAN runs" not in plan


@pytest.mark.parametrize("year", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "filters", [{}, {"music": True}, {"max_music_to_speech_db": -20.0}, {"min_probability": 0.9}]
)
def test_the_first_rows_are_found_without_sorting_all(
    year: Store, filters: SpanFilters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters_module, "_FEW", 0)
    plan = plan_of(year, lambda: query.segments(year, **filters | {"limit": 100})).splitlines()
    assert plan == [
        "SCAN episodes USING INDEX ix_episodes_air_start",
        "SEARCH runs USING INDEX uq_runs_current_of_episode (episode_id=?)",
        "SEARCH segments USING PRIMARY KEY (run_id=?)",
    ]


@pytest.mark.parametrize("year", ["sqlite"], indirect=True)
@pytest.mark.parametrize("filters", [{"min_probability": 0.99}, {"max_music_to_speech_db": -20.0}])
def test_rare_rows_are_found_without_walking_all_episodes(year: Store, filters: SpanFilters) -> None:
    found = query.segments(year, **filters)
    assert 0 < len(found) < len(query.segments(year))
    assert "SCAN" not in plan_of(year, lambda: query.segments(year, **filters))


@pytest.mark.parametrize("few", [0, 1, 1000])
@pytest.mark.parametrize(
    "filters",
    [
        {"min_probability": 0.9},
        {"min_music_to_speech_db": -5.0},
        {"max_music_to_speech_db": -5.0},
        {"min_probability": 0.9, "max_music_to_speech_db": -5.0},
        {"min_probability": 1.0},
    ],
)
def test_rare_and_common_rows_are_answered_alike(
    year: Store, filters: SpanFilters, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    least_db, most_db = filters.get("min_music_to_speech_db"), filters.get("max_music_to_speech_db")
    expected = query.segments(year)
    expected = expected[expected["music_probability"] >= filters.get("min_probability", 0)]
    if least_db is not None:
        expected = expected[expected["music_to_speech_db"] >= least_db]
    if most_db is not None:
        expected = expected[expected["music_to_speech_db"] <= most_db]
    monkeypatch.setattr(filters_module, "_FEW", few)
    found = query.segments(year, **filters)
    assert found.to_dict("records") == expected.to_dict("records")


def test_answers_in_parts_are_the_same_and_of_one_state_of_the_database(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_programme(store, "1.ts", (None, 1.0, None, 2.0, None), "One", NEWS)
    add_programme(store, "2.ts", (1.0, None), "One", QUIZ, ON_AIR)
    monkeypatch.setattr(query, "FRAME_ROWS", 3)
    for whole, parts in ((query.segments, query.segment_frames), (query.events, query.event_frames)):
        expected = whole(store, tz=UTC)
        found = list(parts(store, tz=UTC))
        assert [len(frame) for frame in found] == ([3, 3, 1] if whole is query.segments else [3])
        pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), expected)
        (nothing,) = parts(store, channel="none")
        pd.testing.assert_frame_equal(nothing, whole(store, channel="none"))
        with pytest.raises(InputError, match="no such state"):
            parts(store, state="gone")
    begun = query.segment_frames(store, tz=UTC)
    first = next(begun)
    store.drop_episode(1)
    assert sum(map(len, begun)) + len(first) == 7
    assert len(query.segments(store)) == 2
