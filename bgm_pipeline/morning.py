"""What became of a night: numbers for the operator, and every failure with its reason."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from bgm_pipeline import query
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.store.repository import Store
from bgm_pipeline.timebase import format_clock, s_to_ms


@dataclass(frozen=True, slots=True)
class Failure:
    """An episode whose newest run failed."""

    episode_id: int
    file: str
    reason: str
    flow_run_url: str
    """Its flow run in Prefect's UI; empty where there was none."""


@dataclass(frozen=True, slots=True)
class Morning:
    """The episodes whose newest run began or ended since a moment, or goes on, and those that wait for their
    first."""

    since: datetime
    done: int
    failed: int
    running: int
    new: int
    damaged: int
    """Of those that are done; `bgm episodes` tells what is wrong with the recordings."""
    music_s: float
    """Length of all events of those that are done."""
    failures: tuple[Failure, ...]

    @property
    def summary(self) -> str:
        """One line."""
        music = format_clock(s_to_ms(self.music_s))
        done = f"{self.done} done" + (f" ({self.damaged} damaged)" if self.damaged else "")
        counts = f"{done}, {self.failed} failed, {self.running} running, {self.new} not begun"
        return f"since {self.since.isoformat(' ', 'minutes')}: {counts}; {music} of music found"

    def to_text(self) -> str:
        """The summary, and two lines for each failure."""
        lines = [self.summary]
        for one in self.failures:
            lines += [f"failed: episode {one.episode_id}, {one.file}", f"    {one.reason}"]
            lines += [f"    {one.flow_run_url}"] if one.flow_run_url else []
        return "\n".join(lines)


def morning_of(store: Store, since: datetime) -> Morning:
    """What became of the episodes that were seen to since a moment.

    Raises:
        StoreError: the database cannot be read.
    """
    found = query.episodes(store, tried_since=since, tz=since.tzinfo)
    rows = found[~query.are_replaced(found)].to_dict("records")
    states = Counter(row["state"] for row in rows)
    return Morning(
        since,
        states["done"],
        states["failed"],
        states["running"],
        states["new"],
        sum(row["state"] == "done" and bool(row["damage"]) for row in rows),
        sum(row["music_s"] for row in rows if row["state"] == "done"),
        tuple(
            Failure(row["episode_id"], shown(row["path"]), row["reason"], row["flow_run_url"])
            for row in rows
            if row["state"] == "failed"
        ),
    )
