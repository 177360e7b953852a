"""The music log: when music was on air on a channel, every second once; for reports to copyright societies.

Queries tell of recordings, which may overlap, end within a song and go on past midnight. The log tells of
air time: events are cut to the range that is asked for, and those of different recordings of a channel that
overlap, or hardly lie apart, are one row.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple

from bgm_pipeline import query
from bgm_pipeline.errors import InputError
from bgm_pipeline.filters import FIRST_YEAR, asked_range
from bgm_pipeline.store.rows import told_text
from bgm_pipeline.timebase import ms_to_s, s_to_ms
from bgm_pipeline.zones import local_zone

if TYPE_CHECKING:
    from pandas import DataFrame

    from bgm_pipeline.store.repository import Store

LOG_COLUMNS = (
    *("channel", "air_start", "air_end", "duration_s", "titles", "episode_ids"),
    *("music_probability", "music_to_speech_db"),
)
"""Columns of the log. Air times are aware; `titles` and `episode_ids` are those of the recordings, each once,
in the order of time, with "; " between them; `music_probability` is the highest of the events in the row,
`music_to_speech_db` that of the longest (dB; NaN where either is silent)."""


class ChannelSum(NamedTuple):
    """How much of the range is music on a channel, and of how much there is audio that has results; all time
    once."""

    channel: str
    music_ms: int
    recorded_ms: int


@dataclass(frozen=True, slots=True)
class ChannelLog:
    """The log of one channel, or of all."""

    rows: DataFrame
    """Spans of music by channel, then time; columns: `LOG_COLUMNS`."""
    sums: tuple[ChannelSum, ...]
    """Of each channel with recordings in the range, and of the one that was asked for."""
    asked_ms: int | None
    """Length of the range; None where it has no beginning or no end."""
    without_air_time: int
    """Recordings that have results, but nobody knows when they were on air; where one channel was asked for,
    its and those of no known one."""
    without_channel: int
    """Where one channel was asked for, recordings of the range of which nobody knows whether they are its."""
    without_results: int
    """Recordings of the range that have no good run yet. How long they are is not known: those that began
    before it count as far back as any recording would reach into it."""
    replaced: int
    """Recordings of the range that another one took the place of."""


def channel_log(
    store: Store,
    min_duration_off_s: float,
    *,
    channel: str | None = None,
    since: date | datetime | None = None,
    until: date | datetime | None = None,
    tz: tzinfo | None = None,
) -> ChannelLog:
    """When music was on air, each channel by itself.

    Events of one recording stay apart, as detection left them, unless one of another recording joins them.

    Args:
        min_duration_off_s: events of different recordings that lie no further apart are one, seconds.
        channel: only this one, by its exact name.
        since, until, tz: as the filters of `bgm_pipeline.query`.

    Raises:
        InputError: the range ends before it begins, or its years cannot be meant.
    """
    from pandas import concat  # noqa: PLC0415

    zone = tz or local_zone()
    begin, end = asked_range({"since": since, "until": until, "tz": zone})
    if begin and end and end <= begin:
        raise InputError("the range ends before it begins; --until must be after --since")
    # What lies just outside decides whether a hole at a border is filled, so that two days add up to both.
    hole = timedelta(seconds=min_duration_off_s)
    # Nor is there anything before the first year that queries know.
    wider = since if begin is None or begin.year <= FIRST_YEAR else begin - hole

    begin_ms, end_ms = _ms(begin) if begin else -sys.maxsize, _ms(end) if end else sys.maxsize
    frames, sums, without_results, replaced = [_frame([], zone)], [], 0, 0
    for name in query.channels(store) if channel is None else [told_text(channel)]:
        events = query.event_frames(store, channel=name, since=wider, until=end and end + hole, tz=zone)
        music = _united(_parts(events), s_to_ms(min_duration_off_s), begin_ms, end_ms)
        frames.append(_frame([_row(name, one, begin_ms, end_ms) for one in music], zone))
        recordings = query.recordings(store, channel=name, since=since, until=until, tz=zone)
        without_results += sum(one.duration_ms is None and not one.is_replaced for one in recordings)
        replaced += sum(one.is_replaced for one in recordings)
        audio = [span for one in recordings for span in _with_audio(one)]
        if music or audio or channel is not None:
            music_ms = sum(one.length_ms for one in music)
            sums.append(ChannelSum(name, music_ms, _covered_ms(audio, begin_ms, end_ms)))
    may_be_its = query.recordings(store, channel="", since=since, until=until, tz=zone) if channel else []
    return ChannelLog(
        concat(frames, ignore_index=True),
        tuple(sums),
        end_ms - begin_ms if begin and end else None,
        query.without_air_time(store, channel),
        sum(one.start_ms is not None and not one.is_replaced for one in may_be_its),
        without_results,
        replaced,
    )


def _with_audio(recording: query.Recording) -> list[tuple[int, int]]:
    """From when to when on air there is audio that has results, milliseconds of UTC since 1970."""
    if recording.start_ms is None or recording.duration_ms is None:
        return []
    gaps = recording.gaps or []
    starts = (0, *(gap["end_ms"] for gap in gaps))
    ends = (*(gap["start_ms"] for gap in gaps), recording.duration_ms)
    both = zip(starts, ends, strict=True)
    return [(recording.start_ms + start, recording.start_ms + end) for start, end in both]


def _covered_ms(spans: Iterable[tuple[int, int]], begin_ms: int, end_ms: int) -> int:
    """How much of the range lies in spans, all time once."""
    covered_ms, reached_ms = 0, begin_ms
    for first_ms, last_ms in sorted(spans):
        start_ms, stop_ms = max(first_ms, reached_ms), min(last_ms, end_ms)
        if start_ms < stop_ms:
            covered_ms += stop_ms - start_ms
            reached_ms = stop_ms
    return covered_ms


class _Part(NamedTuple):
    """An event; milliseconds of UTC since 1970."""

    start_ms: int
    end_ms: int
    episode_id: int
    title: str
    music_probability: float
    music_to_speech_db: float


@dataclass(slots=True)
class _United:
    """Parts that make one row, by their start."""

    parts: list[_Part]
    start_ms: int
    end_ms: int

    @property
    def length_ms(self) -> int:
        return self.end_ms - self.start_ms

    def is_reached_by(self, later: _Part, hole_ms: int) -> bool:
        """Whether a part that starts later overlaps one of these, or joins one of another recording."""
        return later.start_ms - self.end_ms <= hole_ms and any(
            later.start_ms - one.end_ms <= (-1 if one.episode_id == later.episode_id else hole_ms)
            for one in reversed(self.parts)
        )


def _united(parts: Iterable[_Part], hole_ms: int, begin_ms: int, end_ms: int) -> list[_United]:
    """What the parts are together, without what lies outside the range."""
    rows: list[_United] = []
    for part in sorted(parts, key=lambda one: one[:3]):
        row = _United([part], part.start_ms, part.end_ms)
        # A part can join several rows, where one recording has them all.
        while rows and rows[-1].is_reached_by(part, hole_ms):
            earlier = rows.pop()
            earlier.parts += row.parts
            row = _United(earlier.parts, earlier.start_ms, max(earlier.end_ms, row.end_ms))
        rows.append(row)
    cut = (_United(one.parts, max(one.start_ms, begin_ms), min(one.end_ms, end_ms)) for one in rows)
    return [one for one in cut if one.length_ms > 0]


def _row(channel: str, united: _United, begin_ms: int, end_ms: int) -> tuple[Any, ...]:
    """Values of `LOG_COLUMNS`."""

    def within_ms(part: _Part) -> int:
        return min(part.end_ms, end_ms) - max(part.start_ms, begin_ms)

    # Where all of the row that is in the range is a filled hole, what lies around it is told.
    parts = [part for part in united.parts if within_ms(part) > 0] or united.parts
    return (
        *(channel, united.start_ms, united.end_ms, ms_to_s(united.length_ms)),
        "; ".join(dict.fromkeys(part.title for part in parts if part.title)),
        "; ".join(dict.fromkeys(str(part.episode_id) for part in parts)),
        max(part.music_probability for part in parts),
        max(parts, key=within_ms).music_to_speech_db,
    )


def _parts(frames: Iterable[DataFrame]) -> Iterator[_Part]:
    """The events whose air time is known."""
    for frame in frames:
        known = frame.dropna(subset="air_start")
        starts, ends = (known[name].dt.as_unit("ms").astype("int64") for name in ("air_start", "air_end"))
        titles = map(sys.intern, known["title"])  # one text for all events of a recording
        told = (known[name] for name in ("music_probability", "music_to_speech_db"))
        yield from map(_Part, starts, ends, known["episode_id"], titles, *told)


def _frame(rows: list[tuple[Any, ...]], zone: tzinfo) -> DataFrame:
    from pandas import DataFrame  # noqa: PLC0415

    frame = DataFrame(rows, columns=list(LOG_COLUMNS)).astype(
        {
            **dict.fromkeys(("channel", "titles", "episode_ids"), "string"),
            **dict.fromkeys(("air_start", "air_end"), "datetime64[ms, UTC]"),
            **dict.fromkeys(("duration_s", "music_probability", "music_to_speech_db"), "float64"),
        }
    )
    return frame.assign(**{name: frame[name].dt.tz_convert(zone) for name in ("air_start", "air_end")})


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
