"""Names and titles that would be more than text: formulas, commands, SQL, HTML, codes of the terminal."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nights import environment_of, record, small_settings
from openpyxl import load_workbook
from rendered import render
from sqlalchemy import text
from store.samples import ON_AIR, add_programme, on_sqlite

from bgm_pipeline import exports, query
from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation.timeline import draw, timeline_of
from bgm_pipeline.naming import compile_patterns, read_name
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store

TITLES = [
    "=cmd|'/C calc'!A0",
    "+1+1",
    "-2+3+cmd|' /C calc'!A0",
    '@SUM(A1)"',
    "x;=1+1",
    'x"=1+1',
    "a\n=1+1",
    "\t=1+1",
    "＝1+1",
    "{=1+1}",
    "'; DROP TABLE episodes; --",
    "100 %' OR '1'='1",
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "[click](javascript:alert(1)) ![](http://127.0.0.1/x)",
    "$(touch pwned) `touch pwned`",
    "../../../etc/passwd",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31mred",
    "line\r\nbgm: all is well",
    "\u202egnp.exe",
    r"$\frac{",
    "{title} %s %n {0}",
    "[red]b[/red]",
    "--> 00:00:01.000",
]
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and what turns the direction of text."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
free_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
tricky = st.lists(st.sampled_from(list("=+-@;,\"'\n\r\t\x1ba1＝"))).map("".join)


def cells_of(table: bytes, delimiter: str) -> list[str]:
    """The cells of the columns of text, as a spreadsheet reads them."""
    return [
        cell
        for row in csv.reader(io.StringIO(table.decode(), newline=""), delimiter=delimiter)
        for cell in row
    ]


@pytest.mark.parametrize("title", TITLES)
def test_a_title_is_only_a_title(store: Store, title: str) -> None:
    add_programme(store, "other.ts", (0.0,), "Other", "Other")
    add_programme(store, f"{title.replace('/', ':')}.ts", (-3.0,), title, title, ON_AIR)
    asked = query.events(store, channel=title, title=title)
    assert asked["title"].tolist() == [title]
    assert asked["channel"].tolist() == [title]
    with store.reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM episodes")) == 2
    table = render(query.episodes(store), "table").decode()
    assert all(line.isprintable() for line in table.splitlines())
    assert table.endswith("2 rows\n")
    assert json.loads(render(asked, "json"))[0]["title"] == title
    assert exports.labels(store, 2, "webvtt").splitlines()[2:] == [
        "00:00:00.000 --> 00:00:12.000",
        "music 80 % -3.0 dB",
    ]


@on_sqlite
def test_a_title_is_only_a_title_in_a_picture(store: Store, store_settings: Settings, tmp_path: Path) -> None:
    add_programme(store, "1.ts", (-3.0,), r"$\frac{", "<b>\x1b[2J</b>")
    draw(timeline_of(store, 1, store_settings), tmp_path / "timeline.svg")
    assert b"\x1b" not in (tmp_path / "timeline.svg").read_bytes()


@given(st.one_of(free_text, tricky, st.sampled_from(TITLES)))
def test_no_text_becomes_a_formula_of_a_spreadsheet(title: str) -> None:
    frame = pd.DataFrame({"channel": [title], "title": ["x"], "path": [f"/inbox/{title}"]}, dtype="string")
    table = render(frame, "csv")
    for delimiter in (",", ";"):
        assert not [cell for cell in cells_of(table, delimiter) if cell.startswith(FORMULA)]
    assert not STEERS.search(table.decode())
    (row,) = csv.DictReader(io.StringIO(table.decode(), newline=""))
    if title.isalnum():
        assert row["channel"] == title


@given(st.one_of(free_text, tricky, st.sampled_from(TITLES)))
def test_every_text_is_a_text_in_a_workbook(title: str) -> None:
    frame = pd.DataFrame({"title": [title], "path": [f"{title}x"]}, dtype="string")
    sheet = load_workbook(io.BytesIO(render(frame, "xlsx"))).active
    assert sheet is not None
    cells = [sheet.cell(2, column) for column in (1, 2)]
    assert cells[1].data_type == "s" and cells[1].hyperlink is None
    assert cells[0].data_type == ("s" if title else "n"), "nothing is nothing"
    assert not STEERS.search(str(cells[1].value))
    if title.isalnum():
        assert cells[0].value == title


@given(st.one_of(free_text, tricky))
def test_json_holds_every_text_as_it_is(title: str) -> None:
    frame = pd.DataFrame({"title": [title]}, dtype="string")
    rendered = render(frame, "json").decode()
    assert json.loads(rendered) == [{"title": title}]
    assert not STEERS.search(rendered)


def test_numbers_below_zero_stay_numbers(store: Store) -> None:
    add_programme(store, "1.ts", (-3.25,), "One")
    (row,) = csv.DictReader(io.StringIO(render(query.events(store), "csv").decode()))
    assert row["music_to_speech_db"] == "-3.25"


@on_sqlite
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(free_text)
def test_the_database_gives_every_title_back(store: Store, title: str) -> None:
    episode_id = add_programme(store, "same.ts", (0.0,), title=title or "x")
    kept = unicodedata.normalize("NFC", title or "x")
    assert query.episodes(store, episode_id=episode_id)["title"].tolist() == [kept]


@given(st.text("{}%|*/ \\\n(?P<x>+)[]^$YmdHMSzchanelit", max_size=40), st.text(max_size=40))
def test_no_template_breaks_the_reader(templates: str, name: str) -> None:
    try:
        told = read_name(name, compile_patterns(templates), UTC)
    except InputError as error:
        assert str(error).startswith("BGM_INBOX__PATTERNS: ")
    else:
        assert told.title in name.replace("_", " ") or told.title == name.rpartition("/")[2]


def test_a_night_of_hostile_names_prints_lines_that_steer_no_terminal(
    bgm: Callable[..., CompletedProcess[str]], tmp_path: Path, inbox: Path, detector: Path
) -> None:
    """A quarter of the files are recordings."""
    config = small_settings(tmp_path / "data", inbox, detector)
    for number, title in enumerate(TITLES):
        path = inbox / f"EINS_2026-03-31_20-{number:02d}-00_{title.replace('/', ':')}.wav"
        if number % 4:
            path.write_text(f"no recording {number}")
        else:
            record(path, 0.5, seed=number)
    commands = (
        ("nightly", inbox),
        ("episodes",),
        ("episodes", "--format", "json"),
        ("probe", *sorted(inbox.iterdir())[::3]),
    )
    done = [bgm(*command, **environment_of(config)) for command in commands]
    said = "".join(one.stdout + one.stderr for one in done)
    assert "Traceback" not in said
    assert all(line.isprintable() for line in said.split("\n"))
    with open_store(config) as store:
        found = query.episodes(store)
    assert len(found) == len(TITLES)
    assert (found["state"] == "done").sum() == (len(TITLES) + 3) // 4
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    ("command", "complaint"),
    [(("db", "upgrade"), ": its folder cannot be made"), (("labels", 1), " is not there yet")],
)
def test_an_error_is_one_line_whatever_is_in_it(
    bgm: Callable[..., CompletedProcess[str]], command: tuple[object, ...], complaint: str
) -> None:
    done = bgm(*command, BGM_DATA_DIR="/dev/null/\x1b[31m\nx")
    said = done.stdout + done.stderr
    assert said.startswith(f"bgm: database /dev/null/\\x1b[31m\\nx/bgm.sqlite{complaint}")
    assert said.removesuffix("\n").isprintable()
