"""What became of a night's files, told in rows; without what processes them, which is slow to import."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rich.cells import cell_len

from bgm_pipeline.errors import BgmError
from bgm_pipeline.inbox import FoundFile
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.store.repository import EpisodeBusyError
from bgm_pipeline.timebase import format_clock, s_to_ms

log = logging.getLogger(__name__)

Outcome = Literal["new", "known", "failed", "busy", "waiting", "due", "started"]
"""New: processed tonight. Known: an earlier run has these results. Busy: another process is at work on it.
Waiting: not whole yet, or over the limit. Due: would be processed. Started: handed to a worker."""


@dataclass(frozen=True, slots=True)
class NightRow:
    """What became of one file."""

    file: str
    """Its path below the inbox, with forward slashes."""
    outcome: Outcome
    reason: str = ""
    """Why it failed, or was not taken; of one that was processed, what is wrong with the recording."""
    episode_id: int | None = None
    run_id: int | None = None
    """The run that queries show."""
    music_s: float | None = None
    duration_s: float | None = None
    seconds: float | None = None
    """How long it took tonight."""
    is_damaged: bool = False
    """Whether something is wrong with the recording, though it was processed."""


@dataclass(frozen=True, slots=True)
class NightReport:
    """What became of every media file of the inbox."""

    rows: tuple[NightRow, ...]
    errors: tuple[str, ...] = ()
    """What could not be read in tables and folders."""
    notes: tuple[str, ...] = ()

    @property
    def has_failed(self) -> bool:
        """Whether there is something that somebody has to see to."""
        return bool(self.errors) or any(row.outcome == "failed" for row in self.rows)

    @property
    def summary(self) -> str:
        """One line: how many files had which outcome, and how much music was found tonight."""
        counts = Counter(row.outcome for row in self.rows)
        parts = [f"{count} {outcome}" for outcome, count in sorted(counts.items())]
        if counts["new"]:
            new = [row for row in self.rows if row.outcome == "new"]
            if damaged := sum(row.is_damaged for row in new):
                parts.append(f"{damaged} damaged")
            parts.append(f"{_timecode(sum(row.music_s or 0.0 for row in new))} of music found")
        return ", ".join(parts) or "no media file in the inbox"

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as plain values, for JSON."""
        return [{**asdict(row), "file": shown(row.file)} for row in self.rows]

    def to_text(self) -> str:
        """The rows as a table, and the summary."""
        head = ("outcome", "episode", "duration", "music", "took", "file", "reason")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
        table = "".join(f"{_aligned(line, widths)}\n" for line in lines) if self.rows else ""
        return f"{table}{self.summary}\n"


def guarded(found: FoundFile, work: Callable[[], NightRow]) -> NightRow:
    """The row that `work` gives, or one that says why it gives none; with the seconds that it took."""
    began = time.monotonic()
    try:
        row = work()
    except EpisodeBusyError as error:
        row = NightRow(found.file, "busy", str(error))
    except BgmError as error:
        row = NightRow(found.file, "failed", str(error))
    except Exception as error:
        # A fault of the program's own: it must not cost the other files their night.
        log.exception("%s failed", shown(found.file))
        row = NightRow(found.file, "failed", shown(f"{type(error).__name__}: {error}"))
    return replace(row, seconds=round(time.monotonic() - began, 3))


def _cells(row: NightRow) -> tuple[str, ...]:
    times = [_timecode(value) if value is not None else "" for value in (row.duration_s, row.music_s)]
    took = "" if row.seconds is None else f"{row.seconds:.1f} s"
    episode = "" if row.episode_id is None else str(row.episode_id)
    return row.outcome, episode, *times, took, shown(row.file), row.reason


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _timecode(seconds: float) -> str:
    return format_clock(s_to_ms(seconds))
