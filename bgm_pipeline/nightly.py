"""A night's work: every new file of an inbox is processed once, and a report says what became of each."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from pandas import isna

from bgm_pipeline import query
from bgm_pipeline.errors import MediaError, StoreError
from bgm_pipeline.inbox import FoundFile, scan_inbox
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.media.probe import check_readable
from bgm_pipeline.night_report import NightReport, NightRow, Outcome, guarded
from bgm_pipeline.pipeline import Networks, Processed, Progress, process_episode, run_identity
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.rows import kept_path, values_told

_PATHS_AT_ONCE = 1000
"""In one question, which databases let have so many parameters."""


@dataclass(frozen=True, slots=True)
class NightPlan:
    """What there is to do."""

    due: tuple[FoundFile, ...]
    rows: tuple[NightRow, ...]
    """Files that nothing is to be done about."""
    errors: tuple[str, ...]
    notes: tuple[str, ...]


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
        limit: so many files at most; the others are left to the next night. One that turns out to be known,
            as a copy does, is not counted.
        handle: sees to one file; `process_found` if left out.
        tell: is told every row as soon as it is known.

    Raises:
        InputError: there is no such folder, or a setting cannot be used.
        StoreError: the database cannot be read.
    """
    plan = plan_night(inbox, store, networks, settings)
    rows = list(plan.rows)
    for row in rows:
        tell(row)
    count = 0
    for found in plan.due:
        if count == limit:
            row = over_limit_row(found)
        elif found.has_changed:  # while others were seen to: what was told may be of another recording
            row = changed_row(found)
        else:
            row = handle(found) if handle else process_found(found, store, networks, settings)
            count += row.outcome != "known"
        rows.append(row)
        tell(row)
    return NightReport(tuple(rows), plan.errors, plan.notes)


def plan_night(inbox: Path, store: Store, networks: Networks, settings: Settings) -> NightPlan:
    """What there is to do in an inbox; nothing is done yet.

    A file that lies where an earlier run found it, unchanged since, is not read again. What failed and is
    unchanged, or cannot be read, comes last, so that under a limit it takes no new file's turn.

    Raises:
        InputError: there is no such folder, or a setting cannot be used.
        StoreError: the database cannot be read.
    """
    scanned = scan_inbox(inbox, settings.inbox)
    rows = [NightRow(file, "waiting", reason) for file, reason in scanned.waiting]
    earlier = _episodes_by_path(store, scanned.ready)
    due: list[FoundFile] = []
    due_last: list[FoundFile] = []
    for found in scanned.ready:
        episodes = earlier[kept_path(found.episode.path)]
        known = _find_known(found, episodes, store, networks, settings)
        if known is not None:
            rows.append(known)
        elif _seems_to_fail(found, episodes):
            due_last.append(found)
        else:
            due.append(found)
    return NightPlan((*due, *due_last), tuple(rows), scanned.errors, scanned.notes)


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
            found.episode,
            store,
            networks,
            settings,
            audio_streams=streams,
            show=False,
            is_of_inbox=True,
            progress=progress,
        )
        return done_row(found, done, store)

    return guarded(found, work)


def over_limit_row(found: FoundFile) -> NightRow:
    """The row of a file that is left to the next night."""
    return NightRow(found.file, "waiting", "over the limit; the next night takes it")


def changed_row(found: FoundFile) -> NightRow:
    """The row of a file that is not the one any more that was looked at."""
    return NightRow(found.file, "waiting", "changed since it was looked at; the next night takes it")


def done_row(found: FoundFile, done: Processed, store: Store) -> NightRow:
    """The row of a file that was processed, or turned out to be known.

    Raises:
        StoreError: the database cannot be read, or the episode was dropped meanwhile.
    """
    episodes = query.episodes(store, episode_id=done.episode_id, tz=UTC).to_dict("records")
    if not episodes:
        raise StoreError(f"its episode {done.episode_id} was dropped meanwhile")
    return _row(found, "new" if done.is_new else "known", episodes[0], done.notes)


def _row(found: FoundFile, outcome: Outcome, episode: dict[Any, Any], notes: Sequence[str] = ()) -> NightRow:
    is_copy = episode["path"] != kept_path(found.episode.path)
    wrong = shown(episode["damage"])
    own = f"the same bytes as {shown(episode['path'])}, which counts" if is_copy else wrong
    reason = "; ".join(filter(None, (*notes, own)))
    music_s, duration_s = (round(float(episode[name]), 3) for name in ("music_s", "duration_s"))
    episode_id, run_id = int(episode["episode_id"]), int(episode["run_id"])
    return NightRow(
        found.file, outcome, reason, episode_id, run_id, music_s, duration_s, is_damaged=bool(wrong)
    )


def _episodes_by_path(store: Store, ready: Sequence[FoundFile]) -> defaultdict[str, list[dict[Any, Any]]]:
    """The episodes of these files: a store keeps those of years."""
    by_path = defaultdict(list)
    paths = [kept_path(found.episode.path) for found in ready]
    for at in range(0, len(paths), _PATHS_AT_ONCE):
        frame = query.episodes(store, paths=paths[at : at + _PATHS_AT_ONCE], tz=UTC)
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
    told = values_told(found.episode).items()
    return any(value != episode[name] for name, value in told if name not in episode["corrected"])
