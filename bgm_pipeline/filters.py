"""What the database can be asked for, and the conditions of SQL that say so.

Filters that are left out, or none, hold nothing back:

- ``channel``: the channel's exact name; ``title``: a part of the title, in small or capital letters;
  accents of both may be made up in any way
- ``since``, ``until``: what was on air at some moment from `since` to before `until`; a date means its
  midnight as `since`, and the end of that day as `until`. Needs the episode's air time to be known; one
  without results may have gone on as long as the longest that has some
- ``state``: of the episode's newest run: "new" (no run yet), "running", "done" or "failed"
- ``tried_since``: the newest run began or ended at that moment or later, or has not ended, or there was none
  yet
- ``music``: with music, or without; ``episode_id``: one episode; ``limit``: so many rows at most
- ``paths``: of episodes, the files that lie at one of these, as `kept_path` spells them
- ``min_probability``: least `music_probability`, 0..1
- ``min_music_to_speech_db``, ``max_music_to_speech_db``: at least, at most so loud against the speech, dB
- ``tz``: the time zone that air times are shown in, and that dates are meant in; else this machine's
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, TypedDict

from sqlalchemy import ColumnElement, func, literal, or_, select
from sqlalchemy.orm import InstrumentedAttribute, aliased

from bgm_pipeline.errors import InputError
from bgm_pipeline.naming import in_zone
from bgm_pipeline.store.functions import ElapsedMs
from bgm_pipeline.store.orm import EpisodeRow, EventRow, RunRow, SegmentRow, UtcDateTime
from bgm_pipeline.store.rows import told_text
from bgm_pipeline.zones import local_zone

if TYPE_CHECKING:
    from bgm_pipeline.store.repository import Store

FIRST_YEAR, LAST_YEAR = 1900, 9000
"""What is asked for lies in these years, or between them."""

_FEW = 1000
"""Up to so many episodes are looked up one by one, rather than all of them walked in the order of time."""

STATES = ("new", "running", "done", "failed")


class EpisodeFilters(TypedDict, total=False):
    """What `episodes` can be asked for."""

    channel: str | None
    title: str | None
    since: date | datetime | None
    until: date | datetime | None
    state: str | None
    tried_since: datetime | None
    music: bool | None
    episode_id: int | None
    paths: Sequence[str] | None
    limit: int | None
    tz: tzinfo | None


class SpanFilters(EpisodeFilters, total=False):
    """What `segments` and `events` can be asked for."""

    min_probability: float | None
    min_music_to_speech_db: float | None
    max_music_to_speech_db: float | None


def asked_range(filters: EpisodeFilters | SpanFilters) -> tuple[datetime | None, datetime | None]:
    """The moments that `since` and `until` mean, in UTC.

    Raises:
        InputError: they cannot be meant.
    """
    zone = filters.get("tz") or local_zone()
    since, until = filters.get("since"), filters.get("until")
    end = _moment(until, zone)
    if until is not None and not isinstance(until, datetime):
        end = _moment(until + timedelta(days=1), zone)
    return _moment(since, zone), end


def parse_moment(
    text: str, zone: tzinfo | None = None, tell: Callable[[str], None] = lambda note: None
) -> date | datetime:
    """A date (2026-03-31), or a date and time (2026-03-31 20:15, 2026-03-31T20:15:00+09:00).

    Args:
        zone: that a time without an offset is meant in; else this machine's.
        tell: hears of a time that came twice, or never, as summer time ended or began.

    Raises:
        InputError: the text is neither.
    """
    with suppress(ValueError):
        return date.fromisoformat(text.strip())
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(
            f"not a date or time: {text!r}; write 2026-03-31, 2026-03-31 20:15 or 2026-03-31T20:15+09:00"
        ) from None
    if moment.tzinfo:
        return moment
    zone = zone or local_zone()
    if FIRST_YEAR <= moment.year <= LAST_YEAR and (note := in_zone(moment, zone)[1]):
        tell(note)
    return moment.replace(tzinfo=zone)


def check(filters: EpisodeFilters | SpanFilters, known: type) -> None:
    """Refuses what is no filter, and values that cannot be meant.

    Args:
        known: `EpisodeFilters` or `SpanFilters`.

    Raises:
        InputError: there is one.
    """
    unknown = filters.keys() - known.__annotations__.keys()
    if unknown:
        raise InputError(
            f"no such filter: {', '.join(sorted(unknown))}; there are {', '.join(known.__annotations__)}"
        )
    state = filters.get("state")
    if state is not None and state not in STATES:
        raise InputError(f"no such state: {state}; there are {', '.join(STATES)}")
    limit = filters.get("limit")
    if limit is not None and limit < 0:
        raise InputError(f"a limit cannot be negative: {limit}")


def episode_conditions(
    store: Store, filters: EpisodeFilters | SpanFilters, duration_ms: InstrumentedAttribute[int | None]
) -> list[ColumnElement[bool]]:
    """What holds of the episodes that are asked for; `music` is left to the caller.

    Args:
        duration_ms: the column with the length of an episode's current run.

    Raises:
        InputError: a range of time cannot be meant.
        StoreError: the database cannot be read.
    """
    conditions: list[ColumnElement[bool]] = []
    episode_id, channel, title = filters.get("episode_id"), filters.get("channel"), filters.get("title")
    if episode_id is not None:
        conditions.append(EpisodeRow.id == episode_id)
    if channel is not None:
        conditions.append(EpisodeRow.channel == told_text(channel))
    if (paths := filters.get("paths")) is not None:
        conditions.append(EpisodeRow.path.in_(paths))
    if title:
        conditions.append(EpisodeRow.title.icontains(told_text(title), autoescape=True))
    since, until = asked_range(filters)
    if since is not None:
        conditions += [
            EpisodeRow.air_start > since - _longest(store),
            or_(EpisodeRow.air_start >= since, duration_ms.is_(None), duration_ms > _elapsed(since)),
        ]
    if until is not None:
        conditions.append(EpisodeRow.air_start < until)
    return conditions + _newest_run_conditions(filters.get("state"), filters.get("tried_since"))


def _newest_run_conditions(state: str | None, tried_since: datetime | None) -> list[ColumnElement[bool]]:
    run, later = aliased(RunRow), aliased(RunRow)
    is_new = ~select(run.id).where(run.episode_id == EpisodeRow.id).exists()
    newer = select(later.id).where(later.episode_id == run.episode_id, later.id > run.id).exists()
    newest = select(run.episode_id).where(~newer)
    conditions: list[ColumnElement[bool]] = []
    if state is not None:
        conditions.append(is_new if state == "new" else EpisodeRow.id.in_(newest.where(run.state == state)))
    if tried_since is not None:
        is_late = or_(run.started_at >= tried_since, run.finished_at >= tried_since, run.state == "running")
        conditions.append(or_(is_new, EpisodeRow.id.in_(newest.where(is_late))))
    return conditions


def span_conditions(
    store: Store, table: type[SegmentRow | EventRow], filters: SpanFilters
) -> list[ColumnElement[bool]]:
    """What holds of the segments or events that are asked for, each with its run and its episode.

    Raises:
        InputError: a range of time cannot be meant.
        StoreError: the database cannot be read.
    """
    conditions = episode_conditions(store, filters, RunRow.duration_ms)
    since, until = asked_range(filters)
    if since is not None:
        conditions.append(table.end_ms > _elapsed(since))
    if until is not None:
        conditions.append(table.start_ms < _elapsed(until))
    bounds: list[ColumnElement[bool]] = []
    probability, level_db = table.music_probability, table.music_to_speech_db
    for asked, bound, column in (
        (filters.get("min_probability"), RunRow.max_music_probability, probability),
        (filters.get("min_music_to_speech_db"), RunRow.max_music_to_speech_db, level_db),
    ):
        if asked is not None:
            bounds.append(bound >= asked)
            conditions.append(column >= asked)
    most = filters.get("max_music_to_speech_db")
    if most is not None:
        bounds.append(RunRow.min_music_to_speech_db <= most)
        conditions.append(level_db <= most)
    return conditions + bounds + _rare_conditions(store, bounds)


def _rare_conditions(store: Store, bounds: list[ColumnElement[bool]]) -> list[ColumnElement[bool]]:
    """The episodes that can hold what is asked for, where they are few.

    Few are looked up and sorted faster than all episodes are walked in the order of time; of many the walk
    soon finds as many as the limit wants.
    """
    if not bounds:
        return []
    can_hold = select(RunRow.episode_id).where(RunRow.is_current, *bounds).limit(_FEW + 1)
    with store.reading() as connection:
        found = connection.scalars(can_hold).all()
    return [EpisodeRow.id.in_(found)] if len(found) <= _FEW else []


def _moment(value: date | datetime | None, zone: tzinfo) -> datetime | None:
    if value is None:
        return None
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise InputError(f"{value}: the year must be from {FIRST_YEAR} to {LAST_YEAR}")
    if not isinstance(value, datetime):
        value = datetime.combine(value, time(), zone)
    if value.tzinfo is None:
        raise InputError(f"{value} has no time zone; give it one, or a date")
    return value.astimezone(UTC)


def _longest(store: Store) -> timedelta:
    """No recording that ended after a moment began longer before it than this."""
    with store.reading() as connection:
        return timedelta(milliseconds=connection.scalar(select(func.max(RunRow.duration_ms))) or 0)


def _elapsed(moment: datetime) -> ElapsedMs:
    return ElapsedMs(literal(moment, UtcDateTime), EpisodeRow.air_start)
