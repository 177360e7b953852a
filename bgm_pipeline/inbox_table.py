"""Tables (CSV) that tell of the broadcast files beside them: channel, title, air time, audio stream."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path

from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.naming import Told, parse_air_start

COLUMNS = ("file", "channel", "title", "air_start", "audio_stream")

_MAX_BYTES = 16_000_000


@dataclass(slots=True)
class Table:
    """What a table tells."""

    told: dict[str, Told] = field(default_factory=dict)
    """By the file's path below the table's folder, as it is written there."""
    errors: list[str] = field(default_factory=list)
    """Lines that cannot be used: each names the table, the line, what is wrong and the cure."""
    notes: list[str] = field(default_factory=list)
    """What is no fault, but may not be what was meant."""


class _LineError(Exception):
    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")


def read_table(path: Path, zone: tzinfo, owner: str = "") -> Table:
    """Reads a table: its good lines whatever the others are.

    Args:
        zone: what times without an offset are meant in.
        owner: the file that a line tells of which names none; empty where every line has to name one.
    """
    table = Table()
    try:
        rows = _rows(path)
        line, head = next(rows, (1, []))
        if isinstance(head, _LineError):
            raise head
        columns = [cell.strip().lower() for cell in head]
        if not set(columns).intersection(COLUMNS[1:]) or not (owner or "file" in columns):
            expected = f"{', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
            needed = "" if owner else "file, and of "
            raise _LineError(line, f"no names of columns; start with a line of {needed}{expected}")
        if strange := [name for name in columns if name not in COLUMNS]:
            table.notes.append(f"{shown(path)}: not used: {shown(', '.join(strange))}")
        for line, row in rows:
            try:
                if isinstance(row, _LineError):
                    raise row
                file, told = _read_row(line, columns, row, owner, zone)
                if file in table.told:
                    raise _LineError(line, f"{shown(file)} was told of before; keep one line a file")
                table.told[file] = told
            except _LineError as error:
                table.errors.append(f"{shown(path)} {error}")
    except _LineError as error:
        table.errors.append(f"{shown(path)} {error}")
    return table


def _rows(path: Path) -> Iterator[tuple[int, list[str] | _LineError]]:
    """Rows that are not empty, each with the number of the line that it starts in, or what is wrong there."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise _LineError(1, "no plain file of at most 16 MB, so no table of programmes; move it away")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _LineError(1, f"cannot be read ({error.strerror}); change its permissions") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _LineError(line, "not UTF-8; save the table as CSV UTF-8") from None
    delimiter = max(",;\t", key=text.lstrip("\r\n").partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            if any(map(str.strip, row := next(rows))):
                yield line, row
        except csv.Error as error:
            # A quote that nothing ends holds what follows, up to the next one.
            lost = f"; nothing up to line {rows.line_num} is read" if rows.line_num > line else ""
            yield line, _LineError(line, f"{error}; see to its quotes{lost}")
        except StopIteration:
            return
        line = rows.line_num + 1


def _read_row(line: int, columns: list[str], row: list[str], owner: str, zone: tzinfo) -> tuple[str, Told]:
    if len(row) != len(columns):
        cells = f"{len(row)} cells under {len(columns)} columns"
        raise _LineError(line, f"{cells}; put text that holds the separator in quotes")
    cells_by_name = dict(zip(columns, map(str.strip, row), strict=True))
    file = cells_by_name.get("file") or owner
    if not file:
        raise _LineError(line, "no file is named; write its name in the column file")
    air_start, note = None, ""
    if text := cells_by_name.get("air_start"):
        try:
            air_start, note = parse_air_start(text, zone)
        except ValueError:
            raise _LineError(line, f"air_start {text!r} is no time; write 2026-03-31 20:15") from None
    numbers = cells_by_name.get("audio_stream", "").split()
    if not all(number.isdecimal() and len(number) < 6 for number in numbers):
        raise _LineError(line, f"audio_stream {' '.join(numbers)!r} is no number; see bgm probe")
    streams = tuple(map(int, numbers))
    return file, Told(
        cells_by_name.get("channel", ""), cells_by_name.get("title", ""), air_start, streams, note
    )
