"""Episodes and runs: registered, started, finished, failed, made again."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from bgm_pipeline import query
from bgm_pipeline.errors import StoreError
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.check import check_store
from bgm_pipeline.store.lease import LEASE_MS, is_alive, this_process
from bgm_pipeline.store.orm import EpisodeRow, EventRow, RunRow, SegmentRow, StemRow
from bgm_pipeline.store.repository import EpisodeBusyError, Store
from bgm_pipeline.store.session import open_store
from bgm_pipeline.types import Episode
from store.samples import (
    ON_AIR,
    add_episode,
    add_programme,
    add_run,
    everywhere,
    files,
    folder_of,
    identity,
    keys,
    make_result,
    music,
    rows,
    sha256,
)

LEVELS = (-3.0, None, 2.0)


def state(store: Store, episode_id: int) -> tuple[str, str]:
    row = query.episodes(store, episode_id=episode_id).iloc[0]
    return row["state"], row["reason"]


def test_same_bytes_are_the_same_episode_wherever_they_lie(store: Store) -> None:
    first = add_episode(store, "a.ts", channel="One", title="News", air_start=ON_AIR)
    moved = Episode(Path("/archive/renamed.ts"), title="Evening News")
    again = store.register_episode(moved, sha256("a.ts"), 1_000)
    other = add_episode(store, "b.ts")

    assert again == first != other
    row = query.episodes(store, episode_id=first, tz=UTC).iloc[0]
    assert row["path"] == "/archive/renamed.ts"
    assert (row["channel"], row["title"], row["air_start"]) == ("One", "Evening News", ON_AIR)


def test_what_may_be_older_than_what_is_known_only_fills_gaps(store: Store) -> None:
    episode_id = add_episode(store, "a.ts", title="Evening News")
    old = Episode(Path("/inbox/a.ts"), "One", "a", ON_AIR)
    for again in (old, Episode(Path("/inbox/a.ts"), "Two", "b", ON_AIR + timedelta(hours=1))):
        assert store.register_episode(again, sha256("a.ts"), 1_000, is_news=False) == episode_id
    row = query.episodes(store, episode_id=episode_id, tz=UTC).iloc[0]
    assert (row["channel"], row["title"], row["air_start"]) == ("One", "Evening News", ON_AIR)
    new = store.register_episode(old, sha256("b.ts"), 1_000, is_news=False)
    assert query.episodes(store, episode_id=new)["title"].item() == "a"


@everywhere
def test_what_was_corrected_outlasts_what_is_told(store: Store) -> None:
    episode_id = add_programme(store, "a.ts", LEVELS, "One", "News", ON_AIR)
    other = add_programme(store, "b.ts", LEVELS, "One", "News", ON_AIR)
    right = Episode(Path(), title="Late News", air_start=ON_AIR + timedelta(hours=1))
    before, after = store.correct_episode(episode_id, right)
    assert (before.title, before.air_start) == ("News", ON_AIR)
    again = Episode(Path("/archive/a.ts"), "Two", "News", ON_AIR)
    assert store.register_episode(again, sha256("a.ts"), 1_000) == episode_id

    row = query.episodes(store, episode_id=episode_id, tz=UTC).iloc[0]
    assert (row["channel"], row["title"], row["air_start"]) == ("Two", after.title, after.air_start)
    assert (row["path"], row["corrected"]) == ("/archive/a.ts", "air_start, title")
    assert (after.title, after.air_start) == ("Late News", right.air_start)

    _, withdrawn = store.correct_episode(episode_id, None)
    assert withdrawn.title == "Late News", "until somebody looks what the file tells"
    store.register_episode(again, sha256("a.ts"), 1_000)
    for number, channel in ((episode_id, "Two"), (other, "One")):
        row = query.episodes(store, episode_id=number, tz=UTC).iloc[0]
        assert (row["channel"], row["title"], row["air_start"]) == (channel, "News", ON_AIR)
        assert row["corrected"] == ""
    with pytest.raises(StoreError, match="there is no episode 99"):
        store.correct_episode(99, right)


def test_a_moment_comes_back_as_it_was_whatever_its_zone(store: Store) -> None:
    tokyo = datetime.fromisoformat("2026-03-31T05:15:00.250+09:00")
    episode_id = add_episode(store, "a.ts", air_start=tokyo)
    with store.reading() as connection:
        kept = connection.scalar(select(EpisodeRow.air_start).where(EpisodeRow.id == episode_id))
    assert kept == tokyo
    add_run(store, episode_id, identity("a.ts"), LEVELS)
    shown = query.segments(store)["air_start"].tolist()
    assert shown == [tokyo, tokyo + timedelta(seconds=12), tokyo + timedelta(seconds=24)]


def test_a_name_that_is_no_utf8_and_one_with_a_zero_can_be_kept(store: Store) -> None:
    odd = Episode(Path("/in/\udcff.ts"), title="a\0b")
    episode_id = store.register_episode(odd, sha256("odd"), 1)
    row = query.episodes(store, episode_id=episode_id).iloc[0]
    assert (row["path"], row["title"]) == ("/in/\\xff.ts", "a\\0b")


def test_a_finished_run_keeps_all_that_it_found(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    run_id = add_run(store, episode_id, identity("a.ts"), LEVELS, last_samples=40_000)

    with store.reading() as connection:
        run = connection.execute(select(RunRow)).one()
    assert (run.id, run.state, run.is_current, run.reason) == (run_id, "done", True, "")
    assert (run.model, run.model_sha256, run.source_sha256) == ("net", sha256("net"), sha256("a.ts"))
    assert (run.settings_sha256, run.code_version) == (sha256("settings"), "0.1.0")
    assert (run.duration_ms, run.music_ms, run.stem_count) == (26_500, 14_500, 2)
    assert (run.max_music_probability, run.min_music_to_speech_db, run.max_music_to_speech_db) == (
        0.99,
        -3,
        2,
    )
    assert run.selection == {"streams": [1], "reason": "the only one"}
    assert run.gaps == [{"reason": "missing packets", "start_ms": 0, "end_ms": 10}]
    assert run.damage == [{"message": "invalid frame", "count": 2}]
    assert run.stage_s == {"separate": 1.5}

    found = query.segments(store)
    assert found["start_s"].tolist() == [0, 12, 24]
    assert found["end_s"].tolist() == [12, 24, 26.5]
    assert found["has_music"].tolist() == [True, False, True]
    assert found["gap_s"].tolist() == [0.01, 0, 0]
    events = query.events(store)
    assert list(zip(events["start_s"], events["end_s"], strict=True)) == [(0, 12), (24, 26.5)]
    assert files(store) == keys(store)
    assert len(keys(store)) == 2


def test_a_programme_without_music_has_rows_and_no_files(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    run_id = add_run(store, episode_id, identity("a.ts"), (None, None))
    assert len(query.segments(store)) == 2
    assert len(query.events(store)) == 0
    assert store.find_done_run(episode_id, identity("a.ts")) == run_id


def test_nothing_of_a_run_is_seen_before_its_end(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    run_id = store.start_run(episode_id, identity("a.ts"))
    store.stems.begin(episode_id, run_id).write(0, music(0))
    assert state(store, episode_id) == ("running", "")
    assert len(query.segments(store)) == 0
    assert store.find_done_run(episode_id, identity("a.ts")) is None


def test_the_same_run_again_gives_the_same_rows_not_more(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    first = add_run(store, episode_id, identity("a.ts"), LEVELS)
    before = rows(store, episode_id)
    second = add_run(store, episode_id, identity("a.ts"), LEVELS)

    assert second != first
    assert rows(store, episode_id) == before
    assert len(query.segments(store)) == len(LEVELS)
    with store.reading() as connection:
        assert connection.scalars(select(RunRow.id)).all() == [second]
    assert files(store) == keys(store)


def test_another_model_takes_over_and_the_first_can_be_asked_for_again(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    old, new = identity("a.ts", "old"), identity("a.ts", "new")
    old_run = add_run(store, episode_id, old, LEVELS)
    add_run(store, episode_id, new, (1.0, 1.0, 1.0))
    assert set(query.segments(store)["model"]) == {"new"}
    assert len(query.segments(store)) == 3

    assert store.find_done_run(episode_id, old) == old_run
    assert set(query.segments(store)["model"]) == {"new"}, "who only looks changes nothing"
    assert store.make_current(episode_id, old_run)
    assert query.segments(store)["model"].tolist() == ["old"] * 3
    assert query.segments(store)["has_music"].tolist() == [True, False, True]
    assert files(store) == keys(store)
    assert len(keys(store)) == 5


def test_only_a_run_that_is_done_can_be_made_current(store: Store) -> None:
    episode_id, other = add_episode(store, "a.ts"), add_episode(store, "b.ts")
    shown_run = add_run(store, episode_id, identity("a.ts"), LEVELS)
    running = store.start_run(episode_id, identity("a.ts", "new"))
    assert store.make_current(episode_id, shown_run)
    assert not store.make_current(episode_id, running)
    assert not store.make_current(episode_id, running + 1)
    assert not store.make_current(other, shown_run)
    assert query.episodes(store, episode_id=episode_id)["run_id"].item() == shown_run


@pytest.mark.parametrize("end", ["done", "failed"])
def test_files_that_cannot_be_cleared_away_now_do_not_hide_how_a_run_ended(
    store: Store, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    episode_id = add_episode(store, "a.ts")
    run_id = store.start_run(episode_id, identity("a.ts"))
    writer = store.stems.begin(episode_id, run_id)
    folder = folder_of(store.stems) / store.stems.namespace / "0000"
    folder.mkdir(parents=True)
    (folder / str(episode_id)).write_text("a file where a folder should be")
    if end == "done":
        store.finish_run(run_id, make_result(writer, (None,)))
    else:
        store.fail_run(run_id, "no audio")
    assert state(store, episode_id) == (end, "no audio" if end == "failed" else "")
    assert "cannot be listed" in caplog.text


def test_results_whose_stem_was_lost_are_made_anew(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    run_id = add_run(store, episode_id, identity("a.ts"), LEVELS)
    assert store.find_done_run(episode_id, identity("a.ts")) == run_id
    store.stems.storage.remove(min(keys(store)))
    assert store.find_done_run(episode_id, identity("a.ts")) is None


@everywhere
def test_in_another_stem_store_nothing_is_lost_but_all_is_to_be_mounted(
    store_settings: Settings, store: Store
) -> None:
    store.confirm_stems()
    silent, heard = add_episode(store, "a.ts"), add_episode(store, "b.ts")
    add_run(store, silent, identity("a.ts"), (None,))
    store.confirm_stems()
    run_id = add_run(store, heard, identity("b.ts"), LEVELS)
    store.confirm_stems()
    place = f"{store_settings.resolved_stem_store}-unmounted"
    elsewhere = Settings(database_url=store_settings.resolved_database_url, stem_store=place)
    with open_store(elsewhere) as other:
        assert other.find_done_run(silent, identity("a.ts")) is not None
        for look in (lambda: other.find_done_run(heard, identity("b.ts")), other.confirm_stems):
            with pytest.raises(StoreError, match=f"{place}.*: not the stem store of this .*; mount it, or"):
                look()
        other.stems.storage.write(f"{other.stems.namespace}/0000/x", b"it is lost, as somebody says")
        assert other.find_done_run(heard, identity("b.ts")) is None
    assert store.find_done_run(heard, identity("b.ts")) == run_id


@everywhere
def test_a_failed_run_leaves_earlier_results_and_no_files(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    add_run(store, episode_id, identity("a.ts", "old"), LEVELS)
    before = rows(store, episode_id)
    run_id = store.start_run(episode_id, identity("a.ts", "new"))
    store.stems.begin(episode_id, run_id).write(0, music(0))
    store.fail_run(run_id, "/in/a.ts: no audio stream")

    assert state(store, episode_id) == ("failed", "/in/a.ts: no audio stream")
    assert rows(store, episode_id) == before
    assert files(store) == keys(store)
    assert store.find_done_run(episode_id, identity("a.ts", "new")) is None


def test_an_episode_at_work_is_busy_for_everyone_else(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    run_id = store.start_run(episode_id, identity("a.ts"))
    with pytest.raises(EpisodeBusyError, match=rf"episode {episode_id} is being processed \(run {run_id}"):
        store.start_run(episode_id, identity("a.ts"))
    store.fail_run(run_id, "stopped")
    assert store.start_run(episode_id, identity("a.ts")) > run_id


@everywhere
def test_a_run_of_a_dead_process_is_taken_over(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    dead = store.start_run(episode_id, identity("a.ts"))
    machine = this_process().rpartition(" ")[0]
    with store.writing() as session:
        session.execute(update(RunRow).values(owner=f"{machine} 4194303"))  # above any process number

    run_id = add_run(store, episode_id, identity("a.ts"), LEVELS)
    with store.reading() as connection:
        found = {run.id: run.state for run in connection.execute(select(RunRow.id, RunRow.state))}
    assert found == {dead: "failed", run_id: "done"}
    with pytest.raises(StoreError, match=f"run {dead} is not in progress"):
        store.finish_run(dead, make_result(store.stems.begin(episode_id, dead), LEVELS))
    assert files(store) == keys(store)


def add_at(store: Store, name: str, channel: str, air_start: datetime | None) -> int:
    """An episode whose file lies at one path, whatever its bytes."""
    told = Episode(Path("/inbox/a.ts"), channel, name, air_start)
    return store.register_episode(told, sha256(name), 1_000)


def test_a_recording_is_shown_no_more_when_another_of_its_air_time_lies_in_its_place(store: Store) -> None:
    others = []
    for name, channel, air_start in (
        ("of another channel", "Two", ON_AIR),
        ("of another day", "One", ON_AIR + timedelta(days=7)),
        ("of an unknown time", "One", None),
    ):
        others.append(add_at(store, name, channel, air_start))
        add_run(store, others[-1], identity(name), LEVELS)
    others.append(add_programme(store, "elsewhere.ts", LEVELS, "One", "", ON_AIR))
    wrong = add_at(store, "wrong", "One", ON_AIR)
    add_run(store, wrong, identity("wrong"), LEVELS)
    right = add_at(store, "right", "One", ON_AIR)
    store.fail_run(store.start_run(right, identity("right")), "no disk")
    assert store.is_shown(wrong), "until the newer one has results"

    add_run(store, right, identity("right"), LEVELS)
    assert set(query.segments(store)["episode_id"]) == {*others, right}
    assert store.replaced_by(right) == [wrong]
    assert not any(store.replaced_by(one) for one in (*others, wrong))

    former = store.find_done_run(wrong, identity("wrong"))
    assert former is not None and store.make_current(wrong, former)
    assert store.replaced_by(wrong) == [right]
    assert set(query.segments(store)["episode_id"]) == {*others, wrong}


@everywhere
@pytest.mark.parametrize("change", ["told", "corrected", "dropped", "moved"])
def test_a_recording_is_shown_again_that_turns_out_not_to_be_replaced(store: Store, change: str) -> None:
    first, second, later = numbers = [1, 2, 3]
    for number, name in zip(numbers, ("first", "second", "later"), strict=True):
        assert add_at(store, name, "One", ON_AIR) == number
        add_run(store, number, identity(name), LEVELS)
    assert store.replaced_by(later) == [first, second]
    if change == "told":  # the table that said when it was on air was that of the recording before
        assert add_at(store, "later", "One", ON_AIR + timedelta(days=1)) == later
    elif change == "corrected":
        store.correct_episode(later, Episode(Path(), air_start=ON_AIR + timedelta(days=1)))
    elif change == "dropped":
        store.drop_episode(later)
    else:
        moved = Episode(Path("/archive/a.ts"), "One", "later", ON_AIR)
        store.register_episode(moved, sha256("later"), 1_000)
    shown = {one for one in numbers if store.is_shown(one)}
    # Of those that lay in one place the newer one counts; what only moved had taken the place all the same.
    another = {second, later}
    by_change = {"told": another, "corrected": another, "dropped": {second}, "moved": {later}}
    assert shown == by_change[change]
    assert set(query.segments(store)["episode_id"]) == shown


@everywhere
def test_of_recordings_that_a_correction_makes_one_broadcast_the_newer_is_shown(store: Store) -> None:
    later = ON_AIR + timedelta(days=1)
    first, second = (add_at(store, name, "One", at) for name, at in (("first", ON_AIR), ("second", later)))
    for number, name in ((first, "first"), (second, "second")):
        add_run(store, number, identity(name), LEVELS)
    assert store.is_shown(first) and store.is_shown(second)
    store.correct_episode(second, Episode(Path(), air_start=ON_AIR))
    assert [store.is_shown(one) for one in (first, second)] == [False, True]
    store.correct_episode(first, Episode(Path(), air_start=later))
    assert [store.is_shown(one) for one in (first, second)] == [True, True]
    store.correct_episode(first, Episode(Path(), air_start=ON_AIR))
    assert [store.is_shown(one) for one in (first, second)] == [False, True]


@everywhere
def test_with_its_last_run_a_replaced_recording_is_dropped_whole(store: Store) -> None:
    for name in ("wrong", "right"):
        add_run(store, add_at(store, name, "One", ON_AIR), identity(name), LEVELS)
    assert store.drop_old_runs(datetime.now(UTC) - timedelta(days=1)) == []
    assert len(keys(store)) == 4, "nothing goes at once"
    assert store.drop_old_runs(datetime.now(UTC) + timedelta(days=1)) == [1]
    assert query.episodes(store)["title"].tolist() == ["right"]
    assert list(check_store(store, deep=True)) == []
    assert files(store) == keys(store)


def test_a_broadcast_that_was_never_processed_outlasts_the_one_of_another_day_in_its_place(
    store: Store,
) -> None:
    lost = add_at(store, "last week", "One", ON_AIR - timedelta(days=7))
    mended = add_at(store, "bad", "One", ON_AIR)
    right = add_at(store, "right", "One", ON_AIR)
    add_run(store, right, identity("right"), LEVELS)
    assert set(query.episodes(store)["episode_id"]) == {lost, right}
    assert mended not in set(query.episodes(store)["episode_id"])


@everywhere
def test_a_dropped_episode_leaves_nothing_and_takes_nothing_else_away(store: Store) -> None:
    kept, gone = add_episode(store, "kept.ts"), add_episode(store, "gone.ts")
    add_run(store, kept, identity("kept.ts"), LEVELS)
    before = rows(store, kept), files(store)
    add_run(store, gone, identity("gone.ts"), LEVELS)
    add_run(store, gone, identity("gone.ts", "new"), LEVELS)

    running = store.start_run(gone, identity("gone.ts", "newer"))
    store.stems.begin(gone, running).write(0, music(0))
    with pytest.raises(EpisodeBusyError, match=rf"episode {gone} is being processed \(run {running}"):
        store.drop_episode(gone)
    assert len(rows(store, gone)) > 0
    machine = this_process().rpartition(" ")[0]
    with store.writing() as session:
        dead = update(RunRow).where(RunRow.id == running).values(owner=f"{machine} 4194303")
        session.execute(dead)

    store.drop_episode(gone)
    with store.reading() as connection:
        for row in (RunRow.id, SegmentRow.run_id, EventRow.run_id, StemRow.run_id):
            assert len(set(connection.scalars(select(row)))) == 1, row
    assert (rows(store, kept), files(store)) == before
    assert {owner and owner[0] for _, owner in store.stems.contents()} == {kept}
    with pytest.raises(StoreError, match=f"run {running} is not in progress"):
        store.finish_run(running, make_result(store.stems.begin(gone, running), LEVELS))
    with pytest.raises(StoreError, match=f"there is no episode {gone}; bgm episodes lists them"):
        store.drop_episode(gone)
    assert add_episode(store, "gone.ts") > gone, "its number is not given to another one"


def test_signs_of_life() -> None:
    machine, _, number = this_process().rpartition(" ")
    assert is_alive(f"{machine} {number}", 0)
    assert not is_alive(f"{machine} 4194303", 0), "nobody here has that number"
    assert is_alive("elsewhere pid:[1] 4194303", 0), "nobody here can know"
    assert is_alive("elsewhere pid:[1] 1", -1_000), "the database's clock was set back by a little"
    assert not is_alive("elsewhere pid:[1] 1", LEASE_MS + 1)
    assert not is_alive("elsewhere pid:[1] 1", -86_400_000), "by a day: nobody is waited for until tomorrow"


def test_a_program_that_ends_gives_its_runs_up(store_settings: Settings, store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    with open_store(store_settings) as other:
        run_id = other.start_run(episode_id, identity("a.ts"))
        other.stems.begin(episode_id, run_id).write(0, music(0))
    assert state(store, episode_id) == ("failed", "given up: the program ended before the run did")
    assert files(store) == set()


def test_a_run_of_no_episode_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="there is no episode 77"):
        store.start_run(77, identity("a.ts"))


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    run_id = store.start_run(episode_id, identity("a.ts"))
    writer = store.stems.begin(episode_id, run_id)
    result = make_result(writer, LEVELS)
    twice = type(result)(
        **{name: getattr(result, name) for name in result.__slots__} | {"segments": result.segments * 2}
    )
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.finish_run(run_id, twice)
    assert state(store, episode_id)[0] == "running"
    assert len(query.segments(store)) == 0
    store.finish_run(run_id, result)
    assert len(query.segments(store)) == 3
