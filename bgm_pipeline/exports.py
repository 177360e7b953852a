"""Answers of `bgm_pipeline.query` as tables, workbooks, CSV, JSON and Parquet, and events as labels.

Nothing slow is imported here: the commands' help needs the names of the formats.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TextIO, get_args
from zoneinfo import ZoneInfo

from bgm_pipeline.errors import InputError
from bgm_pipeline.folders import replacing, writing
from bgm_pipeline.timebase import format_clock, format_timecode, s_to_ms

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

    from bgm_pipeline.store.repository import Store

Format = Literal["table", "csv", "xlsx", "json", "parquet"]
LabelFormat = Literal["audacity", "webvtt"]


def format_of(form: Format | None, out: Path | None) -> Format:
    """The format that was asked for; else the one that the file's name ends in; a table where it has no
    ending, or .txt.

    Raises:
        InputError: the name ends in something else.
    """
    if form or out is None:
        return form or "table"
    by_ending: dict[str, Format] = {".txt": "table"}
    by_ending |= {f".{known}": known for known in get_args(Format) if known != "table"}
    ending = out.suffix.lower()
    if ending and ending not in by_ending:
        known = ", ".join(by_ending)
        raise InputError(f"{out}: no format is known by {ending}; name a file in {known}, or give --format")
    return by_ending.get(ending, "table")


def write(frame: DataFrame, form: Format, out: Path | None = None) -> None:
    """Write an answer to a file, or to standard output.

    A file is there once it is whole; until then what was there stays. One of CSV begins with a byte order
    mark; what goes to other programs through a pipe does not.

    Moments are ISO 8601 with their offset, but for Parquet: it has the name of their zone, or UTC where that
    has none. What is not known is empty in CSV and null in JSON, which is a list of objects, one a line.
    Times inside a recording are numbers in seconds (`start_s`, `end_s`).

    JSON and Parquet hold every text as it is. CSV is opened with spreadsheets, which take text for a formula
    where it starts like one: there it gets an apostrophe in front, and control characters are spelled out.
    They are in workbooks, too, whose texts need no apostrophe; of a text, a cell holds 32,767 UTF-16 units.

    Raises:
        InputError: the file cannot be written, or the format is not for a terminal, or cannot hold it.
    """
    write_frames(iter((frame,)), form, out)


def write_frames(frames: Iterator[DataFrame], form: Format, out: Path | None = None) -> None:
    """As `write`, an answer in parts, of which there is one at least. But for a table, no more than one part
    is in the memory."""
    if out is not None:
        with writing(out, _CURE), replacing(out) as file:
            # Without the mark Excel takes UTF-8 for the code page of its country.
            file.write(codecs.BOM_UTF8 if form == "csv" else b"")
            _WRITERS[form](frames, file)
    elif sys.stdout is None:
        raise InputError("the standard output is closed; name a file: -o FILE")
    elif form in ("parquet", "xlsx") and sys.stdout.isatty():
        raise InputError(f"{form} is not for a terminal; name a file: -o FILE.{form}")
    elif form == "table":
        from rich.console import Console  # noqa: PLC0415

        is_terminal = sys.stdout.isatty()
        console = Console(width=max(Console().width, _WIDTH)) if is_terminal else _unbroken(sys.stdout)
        _print(_joined(frames), console)
    else:
        _WRITERS[form](frames, sys.stdout.buffer)
        sys.stdout.flush()


def write_file(content: bytes, out: Path) -> None:
    """Write a file.

    Raises:
        InputError: it cannot be written.
    """
    with writing(out, _CURE), replacing(out) as file:
        file.write(content)


def _write_table(frames: Iterator[DataFrame], file: BinaryIO) -> None:
    text = io.StringIO()
    _print(_joined(frames), _unbroken(text))
    file.write(text.getvalue().encode())


def _joined(frames: Iterator[DataFrame]) -> DataFrame:
    from pandas import concat  # noqa: PLC0415

    return concat(frames, ignore_index=True)


def _write_parquet(frames: Iterator[DataFrame], file: BinaryIO) -> None:
    from pyarrow import Table  # noqa: PLC0415
    from pyarrow.parquet import ParquetWriter  # noqa: PLC0415

    named = map(_with_named_zones, frames)
    tables = (Table.from_pandas(frame, preserve_index=False) for frame in named)
    first = next(tables)
    with ParquetWriter(file, first.schema) as writer:
        for table in chain((first,), tables):
            writer.write_table(table)


def _with_named_zones(frame: DataFrame) -> DataFrame:
    """With moments in UTC where no program could look their zone up, as one without a name."""
    moments = frame.select_dtypes("datetimetz").columns
    nameless = [name for name in moments if not _is_known(str(frame[name].dt.tz))]
    return frame.assign(**{name: frame[name].dt.tz_convert("UTC") for name in nameless})


def _is_known(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _write_csv(frames: Iterator[DataFrame], file: BinaryIO) -> None:
    for number, frame in enumerate(map(_with_iso_moments, frames)):
        free = {name: frame[name].map(_for_spreadsheet, na_action="ignore") for name in _WORDS & {*frame}}
        rows = frame.assign(**free).to_csv(index=False, header=number == 0, lineterminator="\n")
        file.write(rows.encode())


def _write_json(frames: Iterator[DataFrame], file: BinaryIO) -> None:
    before = "[\n"
    for frame in map(_plain, frames):
        dumped = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in frame.to_dict("records"))
        rows = (_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", row) for row in dumped)
        file.write((before + ",\n".join(rows)).encode())
        before = ",\n"
    file.write(b"\n]\n")


def _write_workbook(frames: Iterator[DataFrame], file: BinaryIO) -> None:
    """One sheet whose first row names the columns, stays in sight and filters."""
    from xlsxwriter import Workbook  # noqa: PLC0415
    from xlsxwriter.exceptions import FileCreateError  # noqa: PLC0415

    # Its own files, since it calls whatever a pipe or a disk says a fault of its own, and leaves some behind.
    with TemporaryDirectory() as folder, TemporaryFile() as made:
        # Left to itself it makes formulas and links of texts that look like them.
        options = {"strings_to_formulas": False, "strings_to_urls": False}
        book = Workbook(made, {"constant_memory": True, "tmpdir": folder, **options})
        sheet = book.add_worksheet("bgm")
        sheet.freeze_panes(1, 0)
        plain = map(_plain, _fitting_a_sheet(frames))
        first = next(plain)
        for at, name in enumerate(first):
            longest = max((len(str(cell)) for cell in first[name].head(_LOOKED_AT)), default=0)
            sheet.set_column(at, at, min(max(len(str(name)) + 3, longest + 1), _WIDEST))
        sheet.write_row(0, 0, first.columns)
        last = 0
        rows = (frame.itertuples(index=False, name=None) for frame in chain((first,), plain))
        for last, row in enumerate(chain.from_iterable(rows), 1):
            sheet.write_row(last, 0, [_for_cell(cell) if isinstance(cell, str) else cell for cell in row])
        sheet.autofilter(0, 0, last, len(first.columns) - 1)
        try:
            book.close()
        except FileCreateError as error:
            cure = "make room there, or name another folder in TMPDIR"
            raise InputError(f"{folder}: a workbook cannot be made there ({error}); {cure}") from error
        made.seek(0)
        shutil.copyfileobj(made, file)


def _fitting_a_sheet(frames: Iterator[DataFrame]) -> Iterator[DataFrame]:
    rows = 0
    for frame in frames:
        rows += len(frame)
        if rows > SHEET_ROWS:
            raise InputError(
                f"a workbook holds {SHEET_ROWS} rows, and these are more; ask for less, with --since and "
                "--until, or for CSV or Parquet"
            )
        yield frame


_WRITERS: dict[Format, Callable[[Iterator[DataFrame], BinaryIO], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "xlsx": _write_workbook,
    "json": _write_json,
    "parquet": _write_parquet,
}

_CURE = "name another file"

SHEET_ROWS = 2**20 - 1
"""Rows of a workbook, below the one that names the columns; Excel opens no more."""

_CELL = 32_767
"""UTF-16 code units that Excel takes in a cell."""

_LOOKED_AT, _WIDEST = 500, 50
"""How many rows decide how wide a column is, and characters that it has at most."""

_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What steers a terminal or turns the direction of text; a new line is text of a title."""

_FORMULA = re.compile('(^|[\n,;"])([=+\\-@\uff1d\uff0b\uff0d\uff20])')
"""What begins a cell, in whatever country the spreadsheet is from, as a formula does; some take the wide
forms of the same characters, too."""


def _for_spreadsheet(text: str) -> str:
    return _FORMULA.sub(r"\1'\2", _spelled_out(text))


def _for_cell(text: str) -> str:
    return _spelled_out(text).encode("utf-16-le")[: 2 * _CELL].decode("utf-16-le", "ignore")


def _spelled_out(text: str) -> str:
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def labels(store: Store, episode_id: int, form: LabelFormat) -> str:
    """The events of an episode as an Audacity label track, or as WebVTT subtitles.

    Raises:
        InputError: there is no such episode, or no results of it are shown.
    """
    from bgm_pipeline import query  # noqa: PLC0415
    from bgm_pipeline.store.attempts import nothing_shown  # noqa: PLC0415

    if not store.is_shown(episode_id):
        raise nothing_shown(store, episode_id)
    spans = [
        (row["start_s"], row["end_s"], _label(row["music_probability"], row["music_to_speech_db"]))
        for row in query.events(store, episode_id=episode_id, tz=UTC).to_dict("records")
    ]
    if form == "audacity":
        return "".join(f"{start:.6f}\t{end:.6f}\t{label}\n" for start, end, label in spans)
    cues = (f"\n{_timecode(start)} --> {_timecode(end)}\n{label}\n" for start, end, label in spans)
    return "".join(("WEBVTT\n", *cues))


def _label(music_probability: float, music_to_speech_db: float) -> str:
    parts = ["music", _percent(music_probability), _db(music_to_speech_db)]
    return " ".join(part for part in parts if part)


def _plain(frame: DataFrame) -> DataFrame:
    """With values of Python's own alone, and None for what is not known."""
    plain = _with_iso_moments(frame)
    return plain.astype(object).where(plain.notna(), None)


def _with_iso_moments(frame: DataFrame) -> DataFrame:
    moments = frame.select_dtypes("datetimetz").columns
    return frame.assign(
        **{name: frame[name].map(lambda moment: moment.isoformat(), na_action="ignore") for name in moments}
    )


# --- tables ----------------------------------------------------------------------------------------


def _timecode(seconds: float) -> str:
    return format_timecode(s_to_ms(seconds))


def _whole_seconds(seconds: float) -> str:
    return format_clock(s_to_ms(seconds))


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _db(level_db: float) -> str:
    return "" if level_db != level_db else f"{level_db:+.1f} dB"  # noqa: PLR0124 - not a number


def _moment(moment: Any) -> str:
    return str(moment.isoformat(" ", "seconds"))


def _printable(text: Any) -> str:
    from bgm_pipeline.media.ffmpeg import shown  # noqa: PLC0415

    return shown(text)


_SHOWN: dict[str, tuple[str, Callable[[Any], str]]] = {
    "episode_id": ("episode", str),
    "channel": ("channel", _printable),
    "title": ("title", _printable),
    "titles": ("titles", _printable),
    "episode_ids": ("episodes", str),
    "air_start": ("on air", _moment),
    "air_end": ("until", _moment),
    "start_timecode": ("start", str),
    "end_timecode": ("end", str),
    "duration_s": ("length", _whole_seconds),
    "music_s": ("music", _whole_seconds),
    "music_share": ("share", _percent),
    "has_music": ("music", lambda has_music: "yes" if has_music else "-"),
    "music_probability": ("probability", _percent),
    "music_to_speech_db": ("to speech", _db),
    "is_skipped": ("skipped", lambda is_skipped: "yes" if is_skipped else "-"),
    "state": ("state", str),
    "reason": ("reason", _printable),
    "damage": ("damage", _printable),
    "model": ("model", _printable),
    "path": ("file", lambda path: _printable(Path(path).name)),
    "flow_run_url": ("flow run", _printable),
}
"""Which columns a table shows, under which name, and how."""

_WORDS = {"channel", "title", "titles", "damage", "reason", "model", "path"}
"""What may be broken into lines where the terminal is narrow."""

_OF_CHANNELS = {"air_end"}
"""What the table shows only of rows that are no part of one recording: else a length or timecodes tell it."""

_SAID_ONCE = {"episode_id", "channel", "title", "model"}
"""What goes into the line above the table where all rows have the same."""

_WIDTH = 110
"""A narrower terminal breaks the lines itself, where a narrower table would lose columns."""

_NUMBERS = {"episode_id", "duration_s", "music_s", "music_share", "music_probability", "music_to_speech_db"}


def _print(frame: DataFrame, console: Console) -> None:
    """What people read of an answer; columns that nothing is known for are left out."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    said_once, columns = [], []
    for name, (header, show) in _SHOWN.items():
        if name not in frame or (name in _OF_CHANNELS and "episode_id" in frame):
            continue
        known = frame[name].notna() & (frame[name].astype(object) != "")
        cells = zip(frame[name], known, strict=True)
        values = [show(value) if is_known else "" for value, is_known in cells]
        if name in _SAID_ONCE and known.any() and len(set(values)) == 1:
            said_once.append(f"{header} {values[0]}")
        elif known.any():
            columns.append(map(Text, values))
            is_word = name in _WORDS
            table.add_column(
                header,
                justify="right" if name in _NUMBERS else "left",
                no_wrap=not is_word,
                overflow="fold" if is_word else "ellipsis",
                min_width=len(header) if is_word else None,
            )
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    if said_once:
        console.print(Text(", ".join(said_once)))
    if columns:
        console.print(table)
    console.print(f"{len(frame)} row{'' if len(frame) == 1 else 's'}", highlight=False)


def _unbroken(file: TextIO) -> Console:
    """For files and other programs, which need no line breaks."""
    from rich.console import Console  # noqa: PLC0415

    return Console(file=file, width=10_000, color_system=None)
