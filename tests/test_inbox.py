"""What an inbox gives: which files, and what is told of them by names and tables."""

import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bgm_pipeline.errors import InputError
from bgm_pipeline.inbox import FoundFile, Inbox, scan_inbox
from bgm_pipeline.inbox_table import read_table
from bgm_pipeline.naming import Told, compile_patterns, read_name
from bgm_pipeline.settings import InboxSettings, load_settings

PARIS = ZoneInfo("Europe/Paris")
AT_2015 = datetime(2026, 3, 31, 20, 15, tzinfo=PARIS)


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Puts a file that settled an hour ago into the inbox."""

    def put_file(name: str | bytes, content: str | bytes = "x", age_s: float = 3600) -> Path:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    return put_file


def scan(folder: Path, sleep: Callable[[float], None] = lambda seconds: None, **changes: object) -> Inbox:
    return scan_inbox(folder, InboxSettings(time_zone="Europe/Paris", **changes), sleep)  # type: ignore[arg-type]


def only(inbox: Inbox) -> FoundFile:
    (found,) = inbox.ready
    return found


def read(name: str, patterns: str | None = None) -> Told:
    return read_name(name, compile_patterns(patterns or InboxSettings().patterns), PARIS)


@pytest.mark.parametrize(
    ("name", "channel", "title"),
    [
        ("KANAL_2026-03-31_20-15-00_Title", "KANAL", "Title"),
        ("KANAL_2_2026-03-31_20-15-00_The_late_show", "KANAL_2", "The late show"),
        ("KANAL_2026-03-31_20-15_Title", "KANAL", "Title"),
        ("KANAL-20260331-2015-A-Title", "KANAL", "A-Title"),
        ("KANAL-HD-20260331-2015-Title", "KANAL-HD", "Title"),
        ("KANAL_20260331_201500_Title", "KANAL", "Title"),
        ("Kanal 5 2026-03-31 20.15 Title", "Kanal 5", "Title"),
        ("KANAL/2026-03-31/20.15 Title", "KANAL", "Title"),
        ("archive/2026/KANAL/2026-03-31/20.15 Title", "KANAL", "Title"),
        ("recorder 1/KANAL_2026-03-31_20-15-00_Title", "KANAL", "Title"),
        ("KANAL_2026-03-31_20-15-00", "KANAL", ""),
        ("Канал_2026-03-31_20-15-00_Вечер\nдня", "Канал", "Вечер\nдня"),
    ],
)
def test_names_as_documented_tell_channel_title_and_air_time(name: str, channel: str, title: str) -> None:
    assert read(name) == Told(channel, title, AT_2015)


def test_the_names_of_the_handbook_are_those_that_are_understood() -> None:
    handbook = (Path(__file__).parents[1] / "docs" / "nightly.md").read_text()
    rows = re.findall(r"^\| `(\{channel\}.*)` \| `(.*)\.\w+` \|$", handbook, re.MULTILINE)
    assert [template for template, _ in rows] == InboxSettings().patterns.split(" | ")
    for template, name in rows:
        told = read(name)
        assert told == read(name, template)
        assert (told.channel, told.air_start) == ("EINS", AT_2015)
        assert told.title == ("Late show" if "{title}" in template else "")


@pytest.mark.parametrize(
    "name", ["holiday", "KANAL_2026-02-31_20-15-00", "x/KANAL_2026-03-31_25-15-00", "٢٠٢٦-٠٣-٣١"]
)
def test_a_name_that_tells_nothing_is_the_title(name: str) -> None:
    assert read(name) == Told(title=name.removeprefix("x/"))


def test_ones_own_templates_replace_the_others() -> None:
    own = "%Y%m%dT%H%M%S%z {*}[{channel}] {title} | {channel}/{title}"
    told = read("20260331T201500+0900 low (rec)[HBO.2] Who_is it", own)
    assert told == Told("HBO.2", "Who is it", datetime(2026, 3, 31, 11, 15, tzinfo=UTC))
    assert read("20260331T201500Z [HBO] x", own).air_start == datetime(2026, 3, 31, 20, 15, tzinfo=UTC)
    assert read("HBO/Who", own) == Told("HBO", "Who")
    assert read("KANAL_2026-03-31_20-15-00_Title", own) == Told(title="KANAL_2026-03-31_20-15-00_Title")


@pytest.mark.parametrize(
    ("patterns", "named"),
    [
        ("{chanel}_{title}", "{chanel}"),
        ("{channel}_%q", "%q"),
        ("{channel}{", "{"),
        ("100%", "%"),
        ("{title} {title}", "twice"),
        ("{title} %H.%M", "%Y %m %d"),
    ],
)
def test_a_template_that_cannot_be_read_is_named(patterns: str, named: str) -> None:
    with pytest.raises(InputError, match="BGM_INBOX__PATTERNS") as caught:
        compile_patterns(patterns)
    assert named in str(caught.value)


def test_the_environment_sets_templates_and_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BGM_INBOX__PATTERNS", "%Y%m%d%H%M {title}")
    monkeypatch.setenv("BGM_INBOX__TIME_ZONE", "Asia/Seoul")
    monkeypatch.setenv("BGM_INBOX__SETTLE_S", "0")
    monkeypatch.setenv("BGM_INBOX__LOOK_S", "0")
    (tmp_path / "202603312015 News.ts").touch()
    found = only(scan_inbox(tmp_path, load_settings().inbox))
    assert found.episode.title == "News"
    assert found.episode.air_start == datetime(2026, 3, 31, 11, 15, tzinfo=UTC)
    monkeypatch.setenv("BGM_INBOX__NAME_TIME_ZONE", "UTC")
    found = only(scan_inbox(tmp_path, load_settings().inbox))
    assert found.episode.air_start == datetime(2026, 3, 31, 20, 15, tzinfo=UTC)
    (tmp_path / "inbox.csv").write_text("file,air_start\n202603312015 News.ts,2026-03-31 20:15\n")
    found = only(scan_inbox(tmp_path, load_settings().inbox))
    assert found.episode.air_start == datetime(2026, 3, 31, 11, 15, tzinfo=UTC), "a table is the house's own"


@pytest.mark.parametrize(
    ("local", "utc", "note"),
    [
        ("2026-10-25_02-30-00", datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "twice"),
        ("2026-10-25_03-30-00", datetime(2026, 10, 25, 2, 30, tzinfo=UTC), ""),
        ("2026-03-29_02-30-00", datetime(2026, 3, 29, 1, 30, tzinfo=UTC), "never"),
        ("2026-03-29_03-30-00", datetime(2026, 3, 29, 1, 30, tzinfo=UTC), ""),
    ],
)
def test_where_summer_time_begins_and_ends_the_doubt_is_told(
    put: Callable[..., Path], tmp_path: Path, local: str, utc: datetime, note: str
) -> None:
    put(f"K_{local}_x.ts")
    inbox = scan(tmp_path)
    assert only(inbox).episode.air_start == utc
    assert note in " ".join(inbox.notes)
    assert bool(inbox.notes) == bool(note)
    put("inbox.csv", f"file,air_start\nK_{local}_x.ts,2026-10-25T02:30+01:00\n")
    assert only(scan(tmp_path)).episode.air_start == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert scan(tmp_path).notes == ()


def test_an_unknown_time_zone_is_named() -> None:
    for name in ("Mars/Olympus", "../../etc/passwd", "\0"):
        with pytest.raises(InputError, match="BGM_INBOX__TIME_ZONE"):
            _ = InboxSettings(time_zone=name).zone
    assert InboxSettings().zone.utcoffset(datetime(2026, 1, 1)) is not None


def test_media_files_of_all_folders_are_found_and_nothing_else(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("b.ts", "A.MXF", "one/two/c.mkv", "-rf.wav", "line\nbreak.mp4"):
        put(name)
    for name in ("notes.txt", ".hidden.ts", ".trash/d.ts", "e.ts.jpg", "list.m3u8", "ts", "f.ts~"):
        put(name)
    (tmp_path / "folder.ts").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    inbox = scan(tmp_path)
    assert [found.file for found in inbox.ready] == [
        "-rf.wav",
        "A.MXF",
        "b.ts",
        "line\nbreak.mp4",
        "one/two/c.mkv",
    ]
    assert inbox.ready[-1].episode.path == tmp_path / "one/two/c.mkv"
    assert not inbox.errors and not inbox.waiting


def test_folders_that_are_linked_to_are_looked_through(put: Callable[..., Path], tmp_path: Path) -> None:
    put("elsewhere/a.ts")
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/KANAL").symlink_to(tmp_path / "elsewhere")
    assert only(scan(tmp_path / "inbox")).file == "KANAL/a.ts"


def test_the_first_on_air_comes_first(put: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("a.ts", "Z_2026-03-31_20-15-00_x.ts", "B_2026-03-31_21-15-00_x.ts"):
        put(name)
    assert [found.file[0] for found in scan(tmp_path).ready] == ["Z", "B", "a"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        scan(tmp_path / "nowhere")


def test_a_file_that_changed_lately_waits_until_it_has_settled(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    path = put("a.ts", age_s=5)
    put("old.ts")
    inbox = scan(tmp_path, settle_s=60)
    assert only(inbox).file == "old.ts"
    assert inbox.waiting == (("a.ts", "changed less than 60 s ago"),)
    os.utime(path, (time.time() - 61,) * 2)
    assert [found.file for found in scan(tmp_path, settle_s=60).ready] == ["a.ts", "old.ts"]


def test_a_clock_that_is_ahead_does_not_hold_a_file_up_for_ever(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    put("from_another_zone.ts", age_s=-7200)
    put("just_now.ts", age_s=-3)
    inbox = scan(tmp_path, settle_s=60)
    assert only(inbox).file == "from_another_zone.ts"
    assert inbox.waiting[0][0] == "just_now.ts"


def test_a_file_that_grows_between_two_looks_waits_even_if_its_time_is_old(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    path = put("a.ts")
    asked: list[float] = []

    def copy_goes_on(seconds: float) -> None:
        asked.append(seconds)
        put("a.ts", "xx")

    inbox = scan(tmp_path, copy_goes_on, look_s=2)
    assert (inbox.ready, inbox.waiting) == ((), (("a.ts", "still changing"),))
    assert asked == [2]
    assert only(scan(tmp_path)).episode.path == path


def test_names_that_say_partial_wait(put: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("a.ts.part", "b.mkv.filepart", "c.ts", "c.ts.crdownload", "d.txt.part", "e.tmp"):
        put(name)
    inbox = scan(tmp_path)
    assert not inbox.ready
    assert dict(inbox.waiting) == {
        "a.ts.part": "not whole yet, as its name says",
        "b.mkv.filepart": "not whole yet, as its name says",
        "c.ts": "c.ts.crdownload lies beside it",
        "c.ts.crdownload": "not whole yet, as its name says",
    }


def test_a_table_tells_more_than_the_name(put: Callable[..., Path], tmp_path: Path) -> None:
    put("KANAL_2026-03-31_20-15-00_Title.ts")
    put("sub/b.mkv")
    put(
        "inbox.csv",
        "\ufefffile,Channel,title,air_start,audio_stream\r\n"
        'KANAL_2026-03-31_20-15-00_Title.ts,,"News, late",,1 3\r\n\r\n'
        "sub/b.mkv,ZWEI,,2026-03-31T18:15:00Z,\r\n",
    )
    first, second = scan(tmp_path).ready
    assert first.episode.channel == "KANAL"
    assert first.episode.title == "News, late"
    assert first.episode.air_start == second.episode.air_start == AT_2015
    assert first.audio_streams == (1, 3)
    assert (second.episode.channel, second.episode.title, second.audio_streams) == ("ZWEI", "b", ())


def test_the_nearest_table_counts_most(put: Callable[..., Path], tmp_path: Path) -> None:
    put("sub/a.ts")
    put("inbox.csv", "file;channel;title;audio_stream\nsub/a.ts;far;far;2\n")
    put("sub/INBOX.CSV", "file\tchannel\ttitle\na.ts\tnear\tnear\n")
    put("sub/a.csv", "title\nown\n")
    found = only(scan(tmp_path))
    assert (found.episode.channel, found.episode.title, found.audio_streams) == ("near", "own", (2,))


def test_accents_match_however_they_are_made_up(put: Callable[..., Path], tmp_path: Path) -> None:
    put("caf\u00e9.ts")
    put("inbox.csv", "file,title\ncafe\u0301.ts,found\n")
    inbox = scan(tmp_path)
    assert only(inbox).episode.title == "found"
    assert not [note for note in inbox.notes if "inbox.csv" in note]


@pytest.mark.parametrize(
    ("table", "line", "wrong", "cure"),
    [
        ("file,air_start\na.ts,31.3.2026\n", 2, "'31.3.2026'", "write 2026-03-31 20:15"),
        ("file,air_start\na.ts,2026-03-31\n", 2, "'2026-03-31'", "write 2026-03-31 20:15"),
        ("file,air_start\na.ts,0001-01-01 00:00+14:00\n", 2, "0001", "write 2026-03-31 20:15"),
        ("file,audio_stream\n\na.ts,first\n", 3, "'first'", "bgm probe"),
        ("file,title\na.ts,News, late\n", 2, "3 cells under 2 columns", "in quotes"),
        ("file,title\n,News\n", 2, "no file is named", "column file"),
        ("file,title\nb.ts,ok\na.ts,one\na.ts,two\n", 4, "told of before", "keep one line"),
        ('file,title\nb.ts,ok\na.ts,"News\n', 3, "end of data", "quotes"),
        ("file,titel\na.ts,News\n", 1, "no names of columns", "start with a line of file"),
        ("a.ts,News\n", 1, "no names of columns", "start with a line of file"),
        ("", 1, "no names of columns", "start with a line of file"),
        (b"file,title\na.ts,Caf\xe9\n", 2, "not UTF-8", "save the table as CSV UTF-8"),
    ],
)
def test_a_bad_table_is_told_of_with_line_and_cure_and_no_file_is_lost(
    put: Callable[..., Path], tmp_path: Path, table: str | bytes, line: int, wrong: str, cure: str
) -> None:
    put("a.ts")
    put("b.ts")
    put("inbox.csv", table)
    inbox = scan(tmp_path)
    (error,) = inbox.errors
    assert error.startswith(f"{tmp_path / 'inbox.csv'} line {line}: ")
    assert wrong in error and cure in error and "\n" not in error
    assert [found.file for found in inbox.ready] == ["a.ts", "b.ts"]
    assert inbox.ready[0].episode.title in ("a", "one")


def test_good_lines_count_beside_bad_ones(put: Callable[..., Path], tmp_path: Path) -> None:
    put("a.ts")
    put("inbox.csv", "file,title,genre\nmissing.ts,x,\na.ts\na.ts,good,\n../../etc/passwd,x,\n")
    inbox = scan(tmp_path)
    assert only(inbox).episode.title == "good"
    assert len(inbox.errors) == 1 and "line 3" in inbox.errors[0]
    assert [note.partition(": ")[2] for note in inbox.notes if "inbox.csv" in note] == [
        "not used: genre",
        "missing.ts is not here (yet)",
        "../../etc/passwd is not here (yet)",
    ]


def test_a_slip_with_quotes_costs_no_more_than_the_lines_it_names(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    for name in "abcde":
        put(f"{name}.ts")
    put("inbox.csv", 'file,title\na.ts,one\nb.ts,"Late" show\nc.ts,three\nd.ts,"News\ne.ts,five\n')
    inbox = scan(tmp_path)
    assert [found.episode.title for found in inbox.ready] == ["one", "b", "three", "d", "e"]
    assert [error.partition(" line ")[2] for error in inbox.errors] == [
        "3: ',' expected after '\"'; see to its quotes",
        "5: unexpected end of data; see to its quotes; nothing up to line 6 is read",
    ]


def test_a_table_may_begin_with_empty_lines(put: Callable[..., Path], tmp_path: Path) -> None:
    put("a.ts")
    put("inbox.csv", "\r\n\r\nfile;title\r\na.ts;found\r\n")
    inbox = scan(tmp_path)
    assert (only(inbox).episode.title, inbox.errors) == ("found", ())


def test_a_table_of_another_kind_that_belongs_to_no_file_is_left_alone(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    put("a.ts")
    put("ratings.csv", "minute,viewers\n1,2\n")
    inbox = scan(tmp_path)
    assert not inbox.errors
    assert not [note for note in inbox.notes if "ratings.csv" in note]


def test_files_without_an_air_time_are_told_since_no_question_with_dates_finds_them(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    put("EINS_2026-03-31_20-15-00_Show.ts")
    assert scan(tmp_path).notes == ()
    put("EINS-31.3.-Show.ts")
    put("b.ts")
    (note,) = scan(tmp_path).notes
    assert note.startswith("EINS-31.3.-Show.ts and 1 more: neither name nor table tells an air time")
    assert "BGM_INBOX__PATTERNS" in note


def test_a_pipe_with_a_tables_name_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "inbox.csv")
    (error,) = scan(tmp_path).errors
    assert "no plain file" in error


names = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=60)
digits = st.from_regex(
    r"[A-Z]?[_\- ]?[0-9]{4}-?[0-9]{2}-?[0-9]{2}[_ ./-][0-9]{2}[.-]?[0-9]{2}([.-]?[0-9]{2})?.*"
).filter(lambda path: not path.endswith("/"))  # a folder's, and no file's


@given(st.one_of(names, digits, st.tuples(names, digits, names).map("/".join)))
@example("K_2026-10-25_02-30-00_\ud800")
@example("K_1900-01-01_00-00-00_x")
def test_no_name_breaks_the_templates(name: str) -> None:
    told = read(name)
    assert told.air_start is None or told.air_start.utcoffset() is not None
    assert told.channel or told.title


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=40).filter(lambda name: not {0, 0x2F} & set(name)))
@example(b"\xff\xfe")
@example(b"-")
@example(b"x.part")
def test_no_file_name_breaks_an_inbox(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / f"inbox{time.monotonic_ns()}"
    folder.mkdir()
    path = folder / os.fsdecode(b"0" + name + b".ts")
    path.touch()
    (folder / "inbox.csv").write_bytes(b"file,title\n" + name + b".ts,x\n")
    found = only(scan(folder, settle_s=0))
    assert found.episode.path == path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text('file,title;"\n\r\t\0 1é', max_size=80).map(str.encode)))
@example(b"file,title\na,\0\n")
@example(b'file,audio_stream\na,"1\n2"\n')
def test_no_table_breaks_the_reader(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "inbox.csv"
    path.write_bytes(content)
    table = read_table(path, PARIS)
    assert all(error.startswith(f"{path} line ") for error in table.errors)
    assert table.told or table.errors or content.lower().lstrip(b"\xef\xbb\xbf").startswith(b"file")


@given(st.datetimes(datetime(1950, 1, 1), datetime(2099, 1, 1)))
def test_every_local_time_comes_back_unless_it_never_was(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    told = read(f"K_{moment:%Y-%m-%d_%H-%M-%S}_x")
    assert told.air_start is not None
    local = told.air_start.astimezone(UTC).astimezone(PARIS).replace(tzinfo=None)
    assert local == moment or ("never" in told.note and local - moment == timedelta(hours=1))
