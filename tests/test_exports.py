"""Answers as people and programs take them away."""

import csv
import io
import json
import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from weakref import ref
from zoneinfo import TZPATH, ZoneInfo

import pandas as pd
import pytest
from openpyxl import load_workbook
from rendered import render
from store.samples import ON_AIR, add_episode, add_programme, identity

from bgm_pipeline import exports, query
from bgm_pipeline.errors import InputError, StoreError
from bgm_pipeline.exports import Format
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Store]:
    """Episode 1 with all that can be known, 2 with nothing known, 3 that never ran."""
    store = open_store(Settings(data_dir=tmp_path, database_url="", stem_store=""))
    add_programme(store, "1.ts", (-3.25, None, 2.0), 'One, "HD"', "[b]Nüws[/b]\n2", ON_AIR)
    add_programme(store, "2.ts", (5.0,))
    add_episode(store, "3.ts")
    with store:
        yield store


def as_text(frame: pd.DataFrame, form: Format) -> str:
    return render(frame, form).decode()


def test_json_is_a_list_of_objects_with_times_as_numbers(filled: Store) -> None:
    found = json.loads(as_text(query.segments(filled, tz=UTC), "json"))
    assert len(found) == 4
    assert list(found[0]) == list(query.SEGMENT_COLUMNS)
    assert found[1] | {"model": "net"} == {
        "episode_id": 1,
        "channel": 'One, "HD"',
        "title": "[b]Nüws[/b]\n2",
        "segment_index": 1,
        "start_timecode": "00:00:12.000",
        "end_timecode": "00:00:24.000",
        "start_s": 12.0,
        "end_s": 24.0,
        "air_start": "2026-03-31T20:15:12+00:00",
        "air_end": "2026-03-31T20:15:24+00:00",
        "has_music": False,
        "music_probability": 0.02,
        "music_to_speech_db": None,
        "mixture_db": -20.0,
        "music_db": -120.0,
        "gap_s": 0.0,
        "is_skipped": False,
        "run_id": 1,
        "model": "net",
    }
    assert isinstance(found[1]["start_s"], float)
    assert found[1]["has_music"] is False
    assert found[3]["air_start"] is None
    assert found[0]["music_to_speech_db"] == -3.25


def test_json_of_an_episode_that_never_ran_is_null_where_nothing_is_known(filled: Store) -> None:
    (found,) = json.loads(as_text(query.episodes(filled, episode_id=3), "json"))
    unknown = {name for name, value in found.items() if value is None}
    assert unknown == {
        *("air_start", "air_end", "duration_s", "music_s", "music_share", "gap_s"),
        *("run_id", "model", "started_at", "finished_at"),
    }
    (done,) = json.loads(as_text(query.episodes(filled, episode_id=1), "json"))
    assert datetime.fromisoformat(done["finished_at"]).tzinfo is not None
    assert done["run_id"] == 1 and isinstance(done["run_id"], int)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_nothing_found_is_still_well_formed(filled: Store, form: Format) -> None:
    nothing = as_text(query.events(filled, channel="none"), form)
    if form == "json":
        assert json.loads(nothing) == []
    else:
        assert nothing == ",".join(query.EVENT_COLUMNS) + "\n"


def test_csv_is_read_back_as_it_was(filled: Store) -> None:
    found = list(csv.DictReader(io.StringIO(as_text(query.segments(filled, tz=UTC), "csv"), newline="")))
    assert len(found) == 4
    assert (found[1]["channel"], found[1]["title"]) == ('One, "HD"', "[b]Nüws[/b]\n2")
    assert (found[1]["start_s"], found[1]["end_timecode"]) == ("12.0", "00:00:24.000")
    assert found[1]["air_start"] == "2026-03-31T20:15:12+00:00"
    assert (found[1]["music_to_speech_db"], found[3]["air_start"]) == ("", "")
    assert [row["has_music"] for row in found] == ["True", "False", "True", "True"]


def test_a_csv_file_is_marked_as_utf_8_for_spreadsheets_and_a_pipe_is_not(
    filled: Store, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "segments.csv"
    found = query.segments(filled, tz=UTC)
    exports.write(found, "csv", path)
    assert path.read_bytes().startswith("\ufeffepisode_id,".encode())
    assert list(pd.read_csv(path).columns) == list(query.SEGMENT_COLUMNS)
    exports.write(found, "csv")
    assert path.read_bytes().decode("utf-8-sig").encode() == capfdbinary.readouterr().out
    exports.write(found, "json", path)
    assert len(json.loads(path.read_bytes())) == 4


FILES = get_args(Format)[1:]


def parts_of(frame: pd.DataFrame, rows: int = 1) -> Iterator[pd.DataFrame]:
    return (frame.iloc[at : at + rows] for at in range(0, len(frame), rows))


@pytest.mark.parametrize("form", FILES)
def test_an_answer_in_parts_is_the_same_answer(filled: Store, tmp_path: Path, form: Format) -> None:
    """Also where what nothing is known for comes first."""
    asked = query.segments(filled, tz=UTC).iloc[::-1]
    whole, in_parts = tmp_path / f"whole.{form}", tmp_path / f"parts.{form}"
    exports.write(asked, form, whole)
    exports.write_frames(parts_of(asked), form, in_parts)
    if form in ("csv", "json"):
        assert in_parts.read_bytes() == whole.read_bytes()
    else:
        read = pd.read_parquet if form == "parquet" else pd.read_excel
        pd.testing.assert_frame_equal(read(in_parts), read(whole))


@pytest.mark.parametrize("form", FILES)
def test_no_more_than_a_part_of_an_answer_is_in_the_memory(
    filled: Store, tmp_path: Path, form: Format
) -> None:
    given: list[ref[pd.DataFrame]] = []
    most = 0

    def frames() -> Iterator[pd.DataFrame]:
        nonlocal most
        for frame in parts_of(pd.concat([query.segments(filled, tz=UTC)] * 5)):
            yield frame
            given.append(ref(frame))
            most = max(most, sum(one() is not None for one in given))

    exports.write_frames(frames(), form, tmp_path / f"segments.{form}")
    assert len(given) == 20 and most <= 3


@pytest.mark.parametrize("form", FILES)
def test_an_answer_that_breaks_off_leaves_the_file_that_was_there(
    filled: Store, tmp_path: Path, form: Format
) -> None:
    """The disk is full, or the database gone, when half of it is written."""
    path = tmp_path / f"segments.{form}"
    path.write_text("of yesterday")
    asked = query.segments(filled, tz=UTC)

    def breaking() -> Iterator[pd.DataFrame]:
        yield asked
        raise StoreError("the server is gone")

    with pytest.raises(StoreError, match="the server is gone"):
        exports.write_frames(breaking(), form, path)
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, former[1]))
    try:
        with pytest.raises(InputError, match=r"segments\.\w+: cannot be written \(File too large\)"):
            exports.write(pd.concat([asked] * 50), form, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert path.read_text() == "of yesterday"
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("segments")] == [path.name]


def test_what_is_no_file_is_written_to_as_it_is(filled: Store, tmp_path: Path) -> None:
    found = query.segments(filled, tz=UTC)
    with pytest.raises(InputError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        exports.write(found, "csv", Path("/dev/full"))
    link, there = tmp_path / "link.json", tmp_path / "there.json"
    there.write_text("")
    link.symlink_to(there)
    exports.write(found, "json", link)
    assert link.is_symlink() and len(json.loads(there.read_bytes())) == 4


def test_a_workbook_is_read_back_as_it_was(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "segments.xlsx"
    asked = query.segments(filled, tz=UTC)
    texts = ["=1+1", "{=1+1}", "http://example.org", "\x1b[31m"]
    exports.write(asked.assign(model=texts), "xlsx", path)
    found = pd.read_excel(path)
    assert list(found.columns) == list(query.SEGMENT_COLUMNS)
    assert found["title"].tolist()[:3] == ["[b]Nüws[/b]\n2"] * 3
    assert found["start_s"].tolist() == [0, 12, 24, 0]
    assert found["has_music"].tolist() == [True, False, True, True]
    assert found["air_start"].tolist()[:2] == ["2026-03-31T20:15:00+00:00", "2026-03-31T20:15:12+00:00"]
    assert found["air_start"].isna().tolist() == [False, False, False, True]
    sheet = load_workbook(path).active
    assert sheet is not None
    column = list(query.SEGMENT_COLUMNS).index("model") + 1
    cells = [sheet.cell(row, column) for row in range(2, 6)]
    assert [(cell.value, cell.hyperlink) for cell in cells] == [(text, None) for text in texts[:3]] + [
        (r"\x1b[31m", None)
    ]
    assert {cell.data_type for row in sheet.iter_rows() for cell in row} == {"s", "n", "b"}
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("A2", sheet.dimensions)


def test_a_workbook_of_episodes_leaves_empty_what_is_not_known(filled: Store, tmp_path: Path) -> None:
    exports.write(query.episodes(filled), "xlsx", tmp_path / "episodes.xlsx")
    found = pd.read_excel(tmp_path / "episodes.xlsx").set_index("episode_id")
    assert found.loc[[1, 2], "run_id"].tolist() == [1, 2]
    never_ran = found.loc[3]
    assert never_ran[["run_id", "duration_s", "started_at", "reason"]].isna().all()


def test_a_text_is_cut_where_a_cell_is_full(tmp_path: Path) -> None:
    path = tmp_path / "long.xlsx"
    exports.write(pd.DataFrame({"reason": ["x" * 40_000, "😀" * 20_000]}), "xlsx", path)
    assert pd.read_excel(path)["reason"].tolist() == ["x" * 32_767, "😀" * 16_383]
    sheet = load_workbook(path).active
    assert sheet is not None and sheet.column_dimensions["A"].width < 60


def test_a_workbook_without_rows_names_its_columns(filled: Store, tmp_path: Path) -> None:
    exports.write(query.events(filled, channel="none"), "xlsx", tmp_path / "none.xlsx")
    found = pd.read_excel(tmp_path / "none.xlsx")
    assert (list(found.columns), len(found)) == (list(query.EVENT_COLUMNS), 0)


def test_more_rows_than_a_workbook_holds_are_refused() -> None:
    frame = pd.DataFrame({"episode_id": range(2**20)})
    with pytest.raises(InputError, match=r"holds 1048575 rows, and these are more; ask for less"):
        render(frame, "xlsx")


@pytest.mark.parametrize("form", ["csv", "xlsx", "json", "parquet"])
def test_an_answer_that_breaks_off_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format
) -> None:
    (temporary := tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (out := tmp_path / f"log.{form}").write_text("of yesterday")
    (beside := tmp_path / f"log.{form}.tmp").write_text("somebody's own")
    out.chmod(0o600)

    def frames(is_whole: bool) -> Iterator[pd.DataFrame]:
        yield pd.DataFrame({"episode_id": range(10_000)})
        if not is_whole:
            raise InputError("the database went away")

    with pytest.raises(InputError, match="went away"):
        exports.write_frames(frames(False), form, out)
    assert out.read_text() == "of yesterday"
    exports.write_frames(frames(True), form, out)
    assert out.stat().st_size > 10_000
    assert out.stat().st_mode & 0o777 == 0o600
    assert beside.read_text() == "somebody's own"
    assert {*tmp_path.iterdir()} == {temporary, out, beside} and not any(temporary.iterdir())


def test_parquet_is_read_back_with_its_types(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "segments.parquet"
    asked = query.segments(filled, tz=UTC)
    exports.write(asked, "parquet", path)
    found = pd.read_parquet(path)
    pd.testing.assert_frame_equal(found, asked, check_dtype=False, check_freq=False)
    assert found["air_start"].dtype == "datetime64[ms, UTC]"
    assert found["has_music"].dtype == bool


def test_parquet_can_be_read_where_the_zone_of_the_machine_has_no_name(filled: Store, tmp_path: Path) -> None:
    """As where /etc/localtime is a plain file."""
    path = tmp_path / "segments.parquet"
    (paris, *_) = (one for one in (Path(folder, "Europe/Paris") for folder in TZPATH) if one.is_file())
    with paris.open("rb") as file:
        nameless = ZoneInfo.from_file(file, key="local")
    exports.write(query.segments(filled, tz=nameless), "parquet", path)
    found = pd.read_parquet(path)
    assert found["air_start"][0] == ON_AIR
    exports.write(query.segments(filled, tz=ZoneInfo("Europe/Paris")), "parquet", path)
    assert str(pd.read_parquet(path)["air_start"].dt.tz) == "Europe/Paris"


def test_a_table_shows_timecodes_percent_and_db(filled: Store) -> None:
    lines = as_text(query.segments(filled, episode_id=1, tz=UTC), "table").splitlines()
    assert lines[0] == 'episode 1, channel One, "HD", title [b]Nüws[/b]\\n2, model net'
    cells = [line.split() for line in lines if ":" in line]
    assert cells == [
        ["2026-03-31", "20:15:00+00:00", "00:00:00.000", "00:00:12.000", "yes", "80", "%", "-3.2", "dB", "-"],
        ["2026-03-31", "20:15:12+00:00", "00:00:12.000", "00:00:24.000", "-", "2", "%", "-"],
        ["2026-03-31", "20:15:24+00:00", "00:00:24.000", "00:00:36.000", "yes", "99", "%", "+2.0", "dB", "-"],
    ]
    assert lines[-1] == "3 rows"


def test_a_table_of_episodes_says_what_became_of_them(filled: Store) -> None:
    filled.fail_run(filled.start_run(3, identity("3.ts")), "/inbox/3.ts: no audio stream")
    lines = as_text(query.episodes(filled, tz=UTC), "table").splitlines()
    (first,) = (line for line in lines if "Nüws" in line)
    told = "20:15:00+00:00 00:00:36 00:00:24 67 % done invalid frame (x 2) net 1.ts"
    assert first.split()[-12:] == told.split()
    (third,) = (line for line in lines if "3.ts" in line)
    assert third.split() == ["3", "failed", "/inbox/3.ts:", "no", "audio", "stream", "3.ts"]


def test_a_table_leaves_out_columns_that_nothing_is_known_for(filled: Store) -> None:
    table = as_text(query.segments(filled, episode_id=2), "table")
    assert "on air" not in table and "channel" not in table
    assert as_text(query.segments(filled, channel="none"), "table") == "0 rows\n"


@pytest.mark.parametrize(
    ("form", "out", "expected"),
    [
        (None, None, "table"),
        (None, Path("a.csv"), "csv"),
        (None, Path("a.JSON"), "json"),
        (None, Path("a.parquet"), "parquet"),
        (None, Path("a.xlsx"), "xlsx"),
        (None, Path("a.txt"), "table"),
        (None, Path("/dev/stdout"), "table"),
        ("csv", Path("a.csv.part"), "csv"),
        ("json", Path("a.csv"), "json"),
    ],
)
def test_the_format_is_the_one_asked_for_or_that_of_the_name(
    form: Format | None, out: Path | None, expected: str
) -> None:
    assert exports.format_of(form, out) == expected


def test_a_file_that_cannot_be_written_is_one_line(filled: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.csv: cannot be written \(No such file or directory\)"):
        exports.write(query.events(filled), "csv", tmp_path / "no" / "a.csv")


def test_audacity_labels_are_seconds_and_text_by_tabs(filled: Store) -> None:
    assert exports.labels(filled, 1, "audacity") == (
        "0.000000\t12.000000\tmusic 80 % -3.2 dB\n24.000000\t36.000000\tmusic 99 % +2.0 dB\n"
    )


def test_webvtt_has_a_cue_for_each_event(filled: Store) -> None:
    assert exports.labels(filled, 1, "webvtt") == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:12.000\nmusic 80 % -3.2 dB\n\n"
        "00:00:24.000 --> 00:00:36.000\nmusic 99 % +2.0 dB\n"
    )


def test_labels_of_a_programme_without_music_are_empty_and_not_an_error(filled: Store) -> None:
    silent = add_programme(filled, "4.ts", (None,))
    assert exports.labels(filled, silent, "audacity") == ""
    assert exports.labels(filled, silent, "webvtt") == "WEBVTT\n"


@pytest.mark.parametrize("episode_id", [3, 99])
def test_labels_need_a_finished_run(filled: Store, episode_id: int) -> None:
    with pytest.raises(InputError, match=f"episode {episode_id} has no finished run"):
        exports.labels(filled, episode_id, "audacity")
