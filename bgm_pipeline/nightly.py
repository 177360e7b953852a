"""A night's work: every new file of an inbox is processed once, and a report says what became of each."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pandas import isna
from rich.cells import cell_len

from bgm_pipeline import query
from bgm_pipeline.errors import BgmError, MediaError
from bgm_pipeline.inbox import FoundFile, scan_inbox
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.media.probe import check_readable
from bgm_pipeline.pipeline import Networks, Processed, Progress, process_episode, run_identity
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import EpisodeBusyError, Store
from bgm_pipeline.timebase import format_timecode, s_to_ms

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
    """Why it failed, or was not taken; one line."""
    episode_id: int | None = None
    run_id: int | None = None
    """The run that queries show."""
    music_s: float | None = None
    duration_s: float | None = None
    seconds: float | None = None
    """How long it took tonight."""


@dataclass(frozen=True, slots=True)
class NightPlan:
    """What there is to do."""

    due: tuple[FoundFile, ...]
    rows: tuple[NightRow, ...]
    """Files that nothing is to be done about."""
    errors: tuple[str, ...]
    notes: tuple[str, ...]


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
            music_s = sum(row.music_s or 0.0 for row in self.rows if row.outcome == "new")
            parts.append(f"{_timecode(music_s)} of music found")
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


def run_nightly(
    inbox: Path,
    store: Store,
    networks: Networks,
    settings: Settings,
    *,
    limit: int | None = None,
    handle: Callable[[FoundFile], NightRow] | None = None,
    tell: Callable[[NightRow], None] = lambda row: None,
) -> NightReport:
    """Process every file of an inbox that is whole and has no results yet, one after the other.

    A file that has results of these networks and settings keeps what is shown of it, even if it is of others.
    A file that fails stops no other, and is tried again the next night. A night that is broken off goes on
    where it was when it is run again; two at once share the files.

    Args:
        limit: so many files at most; the others are left to the next night.
        handle: sees to one file; `process_found` if left out.
        tell: is told every row as soon as it is known.

    Raises:
        InputError: there is no such folder, or a setting cannot be used.
        StoreError: the database cannot be read.
    """
    plan = plan_night(inbox, store, networks, settings, limit=limit)
    rows = list(plan.rows)
    for row in rows:
        tell(row)
    for found in plan.due:
        rows.append(handle(found) if handle else process_found(found, store, networks, settings))
        tell(rows[-1])
    return NightReport(tuple(rows), plan.errors, plan.notes)


def plan_night(
    inbox: Path, store: Store, networks: Networks, settings: Settings, *, limit: int | None = None
) -> NightPlan:
    """What there is to do in an inbox; nothing is done yet.

    A file that lies where an earlier run found it, unchanged since, is not read again. What failed and is
    unchanged, or cannot be read, comes last, so that under a limit it takes no new file's turn.

    Raises:
        InputError: there is no such folder, or a setting cannot be used.
        StoreError: the database cannot be read.
    """
    scanned = scan_inbox(inbox, settings.inbox)
    rows = [NightRow(file, "waiting", reason) for file, reason in scanned.waiting]
    earlier = _episodes_by_path(store)
    due: list[FoundFile] = []
    due_last: list[FoundFile] = []
    for found in scanned.ready:
        episodes = earlier[str(found.episode.path.absolute())]
        known = _find_known(found, episodes, store, networks, settings)
        if known is not None:
            rows.append(known)
        elif _seems_to_fail(found, episodes):
            due_last.append(found)
        else:
            due.append(found)
    due += due_last
    over = [] if limit is None else due[limit:]
    rows += [NightRow(found.file, "waiting", "over the limit; the next night takes it") for found in over]
    return NightPlan(tuple(due[:limit]), tuple(rows), scanned.errors, scanned.notes)


def process_found(
    found: FoundFile,
    store: Store,
    networks: Networks,
    settings: Settings,
    progress: Progress = lambda stage, done_s, total_s: None,
) -> NightRow:
    """Process one file, and say what became of it; whatever goes wrong with it is its row's reason."""

    def work() -> NightRow:
        streams = found.audio_streams
        done = process_episode(
            found.episode, store, networks, settings, audio_streams=streams, show=False, progress=progress
        )
        return done_row(found, done, store)

    return guarded(found, work)


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


def done_row(found: FoundFile, done: Processed, store: Store) -> NightRow:
    """The row of a file that was processed, or turned out to be known.

    Raises:
        StoreError: the database cannot be read.
    """
    (episode,) = query.episodes(store, episode_id=done.episode_id).to_dict("records")
    return _row(found, "new" if done.is_new else "known", episode)


def _row(found: FoundFile, outcome: Outcome, episode: dict[Any, Any]) -> NightRow:
    music_s, duration_s = (round(float(episode[name]), 3) for name in ("music_s", "duration_s"))
    episode_id, run_id = int(episode["episode_id"]), int(episode["run_id"])
    return NightRow(found.file, outcome, "", episode_id, run_id, music_s, duration_s)


def _episodes_by_path(store: Store) -> defaultdict[str, list[dict[Any, Any]]]:
    by_path = defaultdict(list)
    frame = query.episodes(store)
    for episode in frame[frame["started_at"].notna()].to_dict("records"):
        by_path[episode["path"]].append(episode)
    return by_path


def _find_known(
    found: FoundFile,
    episodes: Iterable[dict[Any, Any]],
    store: Store,
    networks: Networks,
    settings: Settings,
) -> NightRow | None:
    """The row of a file whose results are there, as far as that can be said without reading the file."""
    for episode in episodes:
        if not _is_unchanged(found, episode):
            continue
        identity = run_identity(episode["source_sha256"], networks, settings, found.audio_streams)
        run_id = store.find_done_run(episode["episode_id"], identity)
        if run_id is not None and _has_results(episode) and not _tells_more(found, episode):
            return _row(found, "known", episode)
    return None


def _seems_to_fail(found: FoundFile, episodes: Iterable[dict[Any, Any]]) -> bool:
    """Whether a file cannot be read, or is as it was when its newest run failed."""
    try:
        check_readable(found.episode.path)
    except MediaError:
        return True
    return any(one["state"] == "failed" and _is_unchanged(found, one) for one in episodes)


def _is_unchanged(found: FoundFile, episode: dict[Any, Any]) -> bool:
    """Whether a file looks as it did when the episode's newest run began."""
    try:
        status = found.episode.path.stat()
    except OSError:
        return False
    changed_at = max(status.st_mtime, status.st_ctime)
    return episode["size_bytes"] == status.st_size and changed_at <= episode["started_at"].timestamp()


def _has_results(episode: dict[Any, Any]) -> bool:
    """Whether it had when the database was asked; its first run may have ended since."""
    return not isna(episode["run_id"])


def _tells_more(found: FoundFile, episode: dict[Any, Any]) -> bool:
    told = found.episode
    return any(
        value and value != episode[name]
        for name, value in (
            ("channel", told.channel),
            ("title", told.title),
            ("air_start", told.air_start),
        )
    )


def _cells(row: NightRow) -> tuple[str, ...]:
    times = [_timecode(value) if value is not None else "" for value in (row.duration_s, row.music_s)]
    took = "" if row.seconds is None else f"{row.seconds:.1f} s"
    episode = "" if row.episode_id is None else str(row.episode_id)
    return row.outcome, episode, *times, took, shown(row.file), row.reason


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _timecode(seconds: float) -> str:
    return format_timecode(s_to_ms(seconds)).partition(".")[0]
