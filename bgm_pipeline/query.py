"""Asking the database, as pandas DataFrames. `bgm_pipeline.filters` tells what can be asked for.

What is shown of an episode is its current run: the good one that was asked for last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from sqlalchemy import Row, Select, and_, func, literal, select
from sqlalchemy.orm import aliased

from bgm_pipeline.errors import InputError
from bgm_pipeline.filters import EpisodeFilters, SpanFilters, check, episode_conditions, span_conditions
from bgm_pipeline.media.ffmpeg import is_of_a_cut
from bgm_pipeline.store.changes import has_results
from bgm_pipeline.store.functions import ElapsedMs
from bgm_pipeline.store.orm import EpisodeRow, EventRow, RunRow, SegmentRow, UtcDateTime
from bgm_pipeline.store.rows import told_text
from bgm_pipeline.timebase import format_timecode
from bgm_pipeline.zones import local_zone

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from bgm_pipeline.store.repository import Store

_WHOSE = ("episode_id", "channel", "title")
_WHEN = ("start_timecode", "end_timecode", "start_s", "end_s", "air_start", "air_end")
_WHAT = ("music_probability", "music_to_speech_db")
_BY = ("run_id", "model")

EPISODE_COLUMNS = (
    *_WHOSE,
    *("air_start", "air_end", "duration_s", "music_s", "music_share", "gap_s", "damage", "state", "reason"),
    *_BY,
    *("started_at", "finished_at", "flow_run_url", "path", "source_sha256", "size_bytes", "corrected"),
)
SEGMENT_COLUMNS = (
    *(*_WHOSE, "segment_index", *_WHEN, "has_music", *_WHAT),
    *("mixture_db", "music_db", "gap_s", "is_skipped", *_BY),
)
EVENT_COLUMNS = (*_WHOSE, "event_index", *_WHEN, *_WHAT, *_BY)
"""Columns of the answers. Air times are aware, and NaT where an episode's start is not known."""

_TYPES = {
    **dict.fromkeys(("episode_id", "segment_index", "event_index", "size_bytes"), "int64"),
    **dict.fromkeys(("start_ms", "end_ms", "gap_ms"), "int64"),
    **dict.fromkeys(("run_id", "duration_ms", "music_ms", "air_start_ms"), "Int64"),
    **dict.fromkeys(("channel", "title", "model", "state", "reason", "path", "source_sha256"), "string"),
    "corrected": "string",
    "flow_run_url": "string",
    **dict.fromkeys(("music_probability", "music_to_speech_db", "mixture_db", "music_db"), "float64"),
    **dict.fromkeys(("has_music", "is_skipped"), "bool"),
}
"""Types of what the database answers, so that an answer without rows or values has them too."""

_ON_AIR_MS = ElapsedMs(EpisodeRow.air_start, literal(datetime(1970, 1, 1, tzinfo=UTC), UtcDateTime))
"""Moments come as milliseconds from 1970 where there are many: a number is read faster than a date."""

_TOLD = 3
"""So many kinds of damage are spelled out."""

_LEAST_GAP_S = 1.0
"""Shorter gaps are in many a broadcast, and no damage to speak of."""

FRAME_ROWS = 20_000
"""Rows at a time of answers that may be larger than the memory."""


def episodes(store: Store, **filters: Unpack[EpisodeFilters]) -> DataFrame:
    """The episodes, the newest first, one a row.

    Columns: `EPISODE_COLUMNS`. `state`, `reason`, `started_at`, `finished_at` and `flow_run_url` are those of
    the newest run, `run_id`, `model`, `duration_s`, `music_s` (length of all events), `gap_s` (length of all
    gaps) and `damage` (what is wrong with the recording, in words) those of the current. Of a recording that
    another one took the place of there is none, and `reason` says so. `corrected` names what was corrected by
    hand.

    Raises:
        InputError: a filter is not known, or its value cannot be meant.
    """
    check(filters, EpisodeFilters)
    newest, current = aliased(RunRow), aliased(RunRow)
    last_run = aliased(RunRow)
    newest_id = select(func.max(last_run.id)).where(last_run.episode_id == EpisodeRow.id).scalar_subquery()
    query: Select[tuple[Any, ...]] = (
        select(
            EpisodeRow.id.label("episode_id"),
            EpisodeRow.channel,
            EpisodeRow.title,
            EpisodeRow.air_start,
            current.duration_ms,
            current.music_ms,
            current.gaps,
            current.damage,
            func.coalesce(newest.state, "new").label("state"),
            newest.reason,
            current.id.label("run_id"),
            current.model,
            newest.started_at,
            newest.finished_at,
            newest.flow_run_url,
            EpisodeRow.path,
            EpisodeRow.source_sha256,
            EpisodeRow.size_bytes,
            EpisodeRow.corrected,
        )
        .select_from(EpisodeRow)
        .outerjoin(newest, newest.id == newest_id)
        .outerjoin(current, and_(current.episode_id == EpisodeRow.id, current.is_current))
        .where(*episode_conditions(store, filters, current.duration_ms))
        .order_by(EpisodeRow.air_start.desc().nulls_first(), EpisodeRow.id.desc())
        .limit(filters.get("limit"))
    )
    music = filters.get("music")
    if music is not None:
        query = query.where(current.music_ms > 0 if music else current.music_ms == 0)

    frame = _fetch(store, query)
    zone = filters.get("tz") or local_zone()
    for column in ("air_start", "started_at", "finished_at"):
        frame[column] = _moments(frame[column], zone)
    duration_ms, music_ms = frame["duration_ms"], frame["music_ms"]
    frame["air_end"] = frame["air_start"] + _milliseconds(duration_ms)
    frame["duration_s"] = (duration_ms / 1000).astype("float64")
    frame["music_s"] = (music_ms / 1000).astype("float64")
    frame["music_share"] = frame["music_s"] / frame["duration_s"].where(frame["duration_s"] > 0)
    frame["gap_s"] = frame["gaps"].map(_gap_s).astype("float64")
    frame["damage"] = list(map(_in_words, frame["gap_s"], frame["damage"]))
    frame["damage"] = frame["damage"].astype("string")
    for column in ("reason", "flow_run_url"):
        frame[column] = frame[column].fillna("")
    frame.loc[are_replaced(frame), "reason"] = "not reported: another recording took its place"
    return frame[list(EPISODE_COLUMNS)]


def are_replaced(found: DataFrame) -> Series[bool]:
    """Which episodes of an answer are not reported, though they are done: another one took their place."""
    return (found["state"] == "done") & found["run_id"].isna()


def segments(store: Store, **filters: Unpack[SpanFilters]) -> DataFrame:
    """Cells of the 12 s grid in the order of time, one a row.

    Columns: `SEGMENT_COLUMNS`.

    Raises:
        InputError: a filter is not known, or its value cannot be meant.
    """
    return _segment_frame(_fetch(store, _segment_query(store, filters)), filters)


def events(store: Store, **filters: Unpack[SpanFilters]) -> DataFrame:
    """Spans of music in the order of time, one a row.

    Columns: `EVENT_COLUMNS`.

    Raises:
        InputError: a filter is not known, or its value cannot be meant.
    """
    return _event_frame(_fetch(store, _event_query(store, filters)), filters)


def segment_frames(store: Store, **filters: Unpack[SpanFilters]) -> Iterator[DataFrame]:
    """What `segments` answers, `FRAME_ROWS` rows at a time: one frame at least, all of one state of the
    database, which is read on from as they are taken.

    Raises:
        InputError: a filter is not known, or its value cannot be meant.
    """
    query = _segment_query(store, filters)
    return (_segment_frame(frame, filters) for frame in _fetch_frames(store, query))


def event_frames(store: Store, **filters: Unpack[SpanFilters]) -> Iterator[DataFrame]:
    """What `events` answers, as `segment_frames`.

    Raises:
        InputError: a filter is not known, or its value cannot be meant.
    """
    query = _event_query(store, filters)
    return (_event_frame(frame, filters) for frame in _fetch_frames(store, query))


class Recording(NamedTuple):
    """A recording with what its current run says of it, where it has one; milliseconds."""

    start_ms: int | None
    """On air, since 1970 in UTC; None if not known."""
    duration_ms: int | None
    """None where there are no results."""
    gaps: list[dict[str, Any]] | None
    """Spans of it without audio, one after the other, as the database keeps them."""
    is_replaced: bool
    """It has results, which are not reported: another recording took its place."""


def recordings(store: Store, **filters: Unpack[EpisodeFilters]) -> list[Recording]:
    """The episodes, for sums of air time; `music` and `limit` are no filters of these.

    Raises:
        InputError: a filter is not known, or its value cannot be meant.
    """
    check(filters, EpisodeFilters)
    query = (
        select(_ON_AIR_MS, RunRow.duration_ms, RunRow.gaps, and_(RunRow.id.is_(None), has_results()))
        .select_from(EpisodeRow)
        .outerjoin(RunRow, and_(RunRow.episode_id == EpisodeRow.id, RunRow.is_current))
        .where(*episode_conditions(store, filters, RunRow.duration_ms))
    )
    with store.reading() as connection:
        return [Recording(*row) for row in connection.execute(query)]


def channels(store: Store) -> list[str]:
    """The names of all channels, in order; "" among them where one is not known."""
    with store.reading() as connection:
        return sorted(connection.scalars(select(EpisodeRow.channel).distinct()))


def without_air_time(store: Store, channel: str | None = None) -> int:
    """How many recordings have results, but no known air time, so that no range holds them.

    Args:
        channel: only this one's, and those of no known channel, which may be its.
    """
    query = (
        select(func.count())
        .select_from(EpisodeRow)
        .join(RunRow, and_(RunRow.episode_id == EpisodeRow.id, RunRow.is_current))
        .where(EpisodeRow.air_start.is_(None))
    )
    if channel is not None:
        query = query.where(EpisodeRow.channel.in_((told_text(channel), "")))
    with store.reading() as connection:
        return connection.scalar(query) or 0


def _segment_query(store: Store, filters: SpanFilters) -> Select[tuple[Any, ...]]:
    check(filters, SpanFilters)
    columns = (
        SegmentRow.segment_index,
        SegmentRow.has_music,
        SegmentRow.music_probability,
        SegmentRow.music_to_speech_db,
        SegmentRow.mixture_db,
        SegmentRow.music_db,
        SegmentRow.gap_ms,
        SegmentRow.is_skipped,
    )
    query = _span_query(store, SegmentRow, columns, filters).order_by(SegmentRow.segment_index)
    music = filters.get("music")
    if music is not None:
        query = query.where(SegmentRow.has_music if music else ~SegmentRow.has_music)
    return query


def _event_query(store: Store, filters: SpanFilters) -> Select[tuple[Any, ...]]:
    check(filters, SpanFilters)
    if filters.get("music") is False:
        raise InputError("events are spans of music; ask segments for those without")
    columns = (EventRow.event_index, EventRow.music_probability, EventRow.music_to_speech_db)
    return _span_query(store, EventRow, columns, filters).order_by(EventRow.event_index)


def _span_query(
    store: Store, table: type[SegmentRow | EventRow], columns: tuple[Any, ...], filters: SpanFilters
) -> Select[tuple[Any, ...]]:
    return (
        select(
            EpisodeRow.id.label("episode_id"),
            EpisodeRow.channel,
            EpisodeRow.title,
            _ON_AIR_MS.label("air_start_ms"),
            table.start_ms,
            table.end_ms,
            *columns,
            RunRow.id.label("run_id"),
            RunRow.model,
        )
        .select_from(EpisodeRow)
        .join(RunRow, and_(RunRow.episode_id == EpisodeRow.id, RunRow.is_current))
        .join(table, table.run_id == RunRow.id)
        .where(*span_conditions(store, table, filters))
        .order_by(EpisodeRow.air_start.nulls_last(), EpisodeRow.id)
        .limit(filters.get("limit"))
    )


def _fetch(store: Store, query: Select[tuple[Any, ...]]) -> DataFrame:
    with store.reading() as connection:
        result = connection.execute(query)
        return _frame(result.all(), list(result.keys()))


def _fetch_frames(store: Store, query: Select[tuple[Any, ...]]) -> Iterator[DataFrame]:
    with store.reading() as connection:
        result = connection.execute(query.execution_options(yield_per=FRAME_ROWS))
        columns = list(result.keys())
        parts = result.partitions()
        yield _frame(next(parts, []), columns)
        yield from (_frame(rows, columns) for rows in parts)


def _frame(rows: Sequence[Row[tuple[Any, ...]]], columns: list[str]) -> DataFrame:
    from pandas import DataFrame  # noqa: PLC0415

    frame = DataFrame.from_records([tuple(row) for row in rows], columns=columns)
    return frame.astype({name: kind for name, kind in _TYPES.items() if name in frame})


def _segment_frame(frame: DataFrame, filters: SpanFilters) -> DataFrame:
    frame = _with_times(frame, filters)
    frame["gap_s"] = frame["gap_ms"] / 1000
    return frame[list(SEGMENT_COLUMNS)]


def _event_frame(frame: DataFrame, filters: SpanFilters) -> DataFrame:
    return _with_times(frame, filters)[list(EVENT_COLUMNS)]


def _with_times(frame: DataFrame, filters: SpanFilters) -> DataFrame:
    zone = filters.get("tz") or local_zone()
    on_air = _moments(frame["air_start_ms"], zone)
    for end, milliseconds in (("start", frame["start_ms"]), ("end", frame["end_ms"])):
        timecodes = {one: format_timecode(one) for one in milliseconds.unique()}
        frame[f"{end}_timecode"] = milliseconds.map(timecodes).astype("string")
        frame[f"{end}_s"] = milliseconds / 1000
        frame[f"air_{end}"] = on_air + _milliseconds(milliseconds)
    return frame


def _moments(values: Series[Any], zone: tzinfo) -> Series[Any]:
    return values.astype("datetime64[ms, UTC]").dt.tz_convert(zone)


def _gap_s(gaps: list[dict[str, Any]] | None) -> float:
    """None, where nothing is known, is no list."""
    return nan if not isinstance(gaps, list) else sum(gap["end_ms"] - gap["start_ms"] for gap in gaps) / 1000


def _in_words(gap_s: float, damage: list[dict[str, Any]] | None) -> str:
    known = damage if isinstance(damage, list) else []
    kinds = [one for one in known if not is_of_a_cut(one["message"], one["count"])]
    told = [f"{gap_s:.1f} s without audio"] if gap_s >= _LEAST_GAP_S else []
    told += [one["message"] + (f" (x {one['count']})" if one["count"] > 1 else "") for one in kinds[:_TOLD]]
    return "; ".join(told) + (f"; and {len(kinds) - _TOLD} more" if len(kinds) > _TOLD else "")


def _milliseconds(values: Series[Any]) -> Series[Any]:
    from pandas import to_timedelta  # noqa: PLC0415

    return to_timedelta(values, unit="ms").astype("timedelta64[ms]")
