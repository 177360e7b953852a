"""``bgm episodes``, ``segments``, ``events``, ``labels``, ``stem``, ``correct``, ``store`` and ``db``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bgm_pipeline.exports import Format, LabelFormat
from bgm_pipeline.timebase import LONGEST_DAYS

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

    from pandas import DataFrame

    from bgm_pipeline.store.repository import Store

TABLE_ROWS = 500
"""A table has so many rows at most, where no limit is given: more is not for reading."""

LARGEST = 2**31 - 1
"""Number of an episode, or of rows, that PostgreSQL still knows."""

Channel = Annotated[str | None, typer.Option(help="only this channel; its exact name")]
Title = Annotated[str | None, typer.Option(help="only titles that hold this text")]
Since = Annotated[
    str | None, typer.Option(help="on air at or after: 2026-03-31, 2026-03-31 20:15, 2026-03-31T20:15+09:00")
]
Until = Annotated[str | None, typer.Option(help="on air before; a date means the end of that day")]
State = Annotated[str | None, typer.Option(help="of the newest run: new, running, done or failed")]
Music = Annotated[bool | None, typer.Option("--music/--no-music", help="only with, or only without music")]
Probability = Annotated[float | None, typer.Option(min=0, max=1, help="least probability of music")]
MinLevel = Annotated[float | None, typer.Option(help="music at least so loud against the speech, dB")]
MaxLevel = Annotated[float | None, typer.Option(help="music at most so loud against the speech, dB")]
EpisodeOption = Annotated[
    int | None, typer.Option("--episode", min=1, max=LARGEST, help="only the episode with this number")
]
EpisodeArgument = Annotated[
    int, typer.Argument(metavar="EPISODE", min=1, max=LARGEST, help="its number; see `bgm episodes`")
]
AirStart = Annotated[
    str | None, typer.Option(help="when the recording's first moment was on air: 2026-03-31 20:15")
]
Limit = Annotated[int | None, typer.Option(min=0, max=LARGEST, help="so many rows at most")]
FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="else as the name of -o ends, else a table", show_default=False),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="write to this file")]

store_app = typer.Typer(no_args_is_help=True, help="The stem store, and what is kept.")
db_app = typer.Typer(no_args_is_help=True, help="The database.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (episodes, segments, events, labels, stem, correct):
        app.command()(command)
    app.add_typer(store_app, name="store")
    app.add_typer(db_app, name="db")


def episodes(
    channel: Channel = None,
    title: Title = None,
    since: Since = None,
    until: Until = None,
    state: State = None,
    music: Music = None,
    episode: EpisodeOption = None,
    limit: Limit = None,
    format: FormatOption = None,
    out: Out = None,
) -> None:
    """Lists the recordings, the newest first, with how much music is in them."""
    from bgm_pipeline import query

    filters = _whose(channel, title, since, until, state, music, episode)

    def ask(store: Store, **asked: Any) -> Iterator[DataFrame]:
        yield query.episodes(store, **asked)

    _answer(ask, filters, limit, format, out)


def segments(
    channel: Channel = None,
    title: Title = None,
    since: Since = None,
    until: Until = None,
    state: State = None,
    music: Music = None,
    min_probability: Probability = None,
    min_level: MinLevel = None,
    max_level: MaxLevel = None,
    episode: EpisodeOption = None,
    limit: Limit = None,
    format: FormatOption = None,
    out: Out = None,
) -> None:
    """Lists the 12 s segments, with and without music."""
    from bgm_pipeline import query

    filters = _whose(channel, title, since, until, state, music, episode)
    filters |= _how_loud(min_probability, min_level, max_level)
    _answer(query.segment_frames, filters, limit, format, out)


def events(
    channel: Channel = None,
    title: Title = None,
    since: Since = None,
    until: Until = None,
    state: State = None,
    music: Music = None,
    min_probability: Probability = None,
    min_level: MinLevel = None,
    max_level: MaxLevel = None,
    episode: EpisodeOption = None,
    limit: Limit = None,
    format: FormatOption = None,
    out: Out = None,
) -> None:
    """Lists the spans of music, of any length."""
    from bgm_pipeline import query

    filters = _whose(channel, title, since, until, state, music, episode)
    filters |= _how_loud(min_probability, min_level, max_level)
    _answer(query.event_frames, filters, limit, format, out)


def labels(
    episode: EpisodeArgument,
    format: Annotated[
        LabelFormat | None,
        typer.Option(help="else subtitles where the name of -o ends in .vtt, else a label track"),
    ] = None,
    out: Out = None,
) -> None:
    """Writes an episode's music events as labels for Audacity, or as subtitles for a player."""
    from bgm_pipeline import exports

    form = format or ("webvtt" if out and out.suffix.lower() == ".vtt" else "audacity")
    with _store() as store:
        text = exports.labels(store, episode, form)
    if out is None:
        typer.echo(text, nl=False)
    else:
        exports.write_file(text.encode(), out)


def stem(
    episode: EpisodeArgument,
    start: Annotated[str, typer.Argument(help="seconds (75.5) or timecode (00:01:15.500)")],
    end: Annotated[str, typer.Argument(help="seconds or timecode")],
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write: .flac or .wav")],
) -> None:
    """Cuts a span of an episode's separated music, across the borders of segments."""
    from bgm_pipeline.store.span import stem_span
    from bgm_pipeline.timebase import format_timecode, parse_timecode

    with _store() as store:
        span = stem_span(store, episode, parse_timecode(start), parse_timecode(end))
        span.save(out)
    for since_ms, until_ms in span.silent_ms:
        silent = f"{format_timecode(since_ms)} to {format_timecode(until_ms)}"
        typer.echo(f"bgm: no stem was kept from {silent}: silence there", err=True)


def correct(
    episode: EpisodeArgument,
    channel: Annotated[str, typer.Option(help="who broadcast it")] = "",
    title: Annotated[str, typer.Option(help="name of the programme")] = "",
    air_start: AirStart = None,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="let names and tables count again, where they tell it")
    ] = False,
) -> None:
    """Says what an episode is, whatever its file's name and the inbox's tables tell from now on."""
    from bgm_pipeline.errors import InputError
    from bgm_pipeline.registration import airing, places_taken
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.attempts import newest_attempts
    from bgm_pipeline.types import Episode

    channel, title = channel.strip(), title.strip()
    if withdraw == bool(channel or title or air_start):
        raise InputError("give --channel, --title or --air-start, or --withdraw to take all of these back")
    zone = load_settings().inbox.zone
    told = None if withdraw else Episode(Path(), channel, title, first_moment(air_start, zone))
    with _store() as store:
        replaced = store.replaced_by(episode)
        before, after = store.correct_episode(episode, told)
        is_hidden = newest_attempts(store, [episode])[0].has_results and not store.is_shown(episode)
        taken = [one for one in store.replaced_by(episode) if one not in replaced and not is_hidden]
    was = f" (was {airing(before, zone)})" if before != after else ""
    typer.echo(f"episode {episode}: {airing(after, zone)}{was}")
    for note in places_taken(taken):
        doubt(f"episode {episode} {note}")
    if is_hidden:
        doubt(f"episode {episode} is not reported: another recording took its place; see bgm episodes")


def first_moment(text: str | None, zone: tzinfo) -> datetime | None:
    """What --air-start means; tells of an hour that came twice.

    Raises:
        InputError: it is no date and time.
    """
    from bgm_pipeline.errors import InputError
    from bgm_pipeline.naming import parse_air_start

    if not text:
        return None
    try:
        on_air, note = parse_air_start(text, zone)
    except ValueError:
        cure = "write 2026-03-31 20:15 or 2026-03-31T20:15+09:00"
        raise InputError(f"--air-start {text!r}: not a date and time; {cure}") from None
    if note:
        doubt(note)
    return on_air


def doubt(note: str) -> None:
    """Tells what may not be meant."""
    typer.echo(f"bgm: {note}", err=True)


@store_app.command()
def check(
    deep: Annotated[bool, typer.Option("--deep", help="also read every stem")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="first remove what belongs to no run")] = False,
) -> None:
    """Tells where the stem store and the database disagree; exit code 1 if they do."""
    from bgm_pipeline.media.ffmpeg import shown
    from bgm_pipeline.store.check import check_store, remove_leftovers

    found = False
    with _store() as store:
        if remove:
            for path in remove_leftovers(store):
                typer.echo(f"removed {shown(path)}")
        for problem in check_store(store, deep):
            found = True
            typer.echo(shown(f"{problem.subject}: {problem.message}"))
    if found:
        raise typer.Exit(1)
    typer.echo("nothing wrong found", err=True)


@store_app.command()
def drop_old(
    days: Annotated[
        float | None,
        typer.Option(min=0, max=LONGEST_DAYS, help="that ended before; else BGM_NIGHT__OLD_RUNS_KEPT_DAYS"),
    ] = None,
) -> None:
    """Drops results that newer ones took the place of, with their stems, and failed runs that were mended."""
    from datetime import UTC, datetime, timedelta

    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.session import open_store

    settings = load_settings()
    kept = timedelta(days=settings.night.old_runs_kept_days if days is None else days)
    with open_store(settings, make=False) as store:
        for run_id in store.drop_old_runs(datetime.now(UTC) - kept):
            typer.echo(f"dropped run {run_id}")


@store_app.command()
def drop(
    episode: Annotated[
        list[int], typer.Argument(metavar="EPISODE", min=1, max=LARGEST, help="numbers; see `bgm episodes`")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="without asking")] = False,
) -> None:
    """Drops episodes that are not to be reported, with all their results and stems.

    Take their recordings out of the inbox first, else the next night processes them anew.
    """
    from bgm_pipeline.errors import StoreError
    from bgm_pipeline.media.ffmpeg import shown
    from bgm_pipeline.store.attempts import newest_attempts

    is_refused = False
    with _store() as store:
        for one in newest_attempts(store, list(dict.fromkeys(episode))):
            told = filter(None, [one.episode.channel, one.episode.title, str(one.episode.path)])
            question = f"drop episode {one.episode_id} ({shown(', '.join(told))}), its results and its stems?"
            if not yes and not typer.confirm(question):
                continue
            try:
                store.drop_episode(one.episode_id)
            except StoreError as error:
                is_refused = True
                typer.echo(f"bgm: {shown(str(error))}", err=True)
            else:
                typer.echo(f"dropped episode {one.episode_id}")
    if is_refused:
        raise typer.Exit(1)


@db_app.command()
def upgrade() -> None:
    """Brings the database's tables to this version's state."""
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.session import upgrade_database

    upgrade_database(load_settings())


def _store() -> Store:
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.session import open_store

    return open_store(load_settings(), make=False)


def _whose(
    channel: str | None,
    title: str | None,
    since: str | None,
    until: str | None,
    state: str | None,
    music: bool | None,
    episode: int | None,
) -> dict[str, Any]:
    return {
        "channel": channel,
        "title": title,
        "state": state,
        "music": music,
        "episode_id": episode,
        **when(since, until),
    }


def when(since: str | None, until: str | None) -> dict[str, Any]:
    """The filters for a range of air time; days are those of the inbox's time zone.

    Raises:
        InputError: a text is neither a date nor a moment.
    """
    from bgm_pipeline.filters import parse_moment
    from bgm_pipeline.settings import load_settings

    zone = load_settings().inbox.zone
    return {
        "since": parse_moment(since, zone, doubt) if since else None,
        "until": parse_moment(until, zone, doubt) if until else None,
        "tz": zone,
    }


def _how_loud(
    min_probability: float | None, min_level: float | None, max_level: float | None
) -> dict[str, Any]:
    return {
        "min_probability": min_probability,
        "min_music_to_speech_db": min_level,
        "max_music_to_speech_db": max_level,
    }


def _answer(
    ask: Callable[..., Iterator[DataFrame]],
    filters: dict[str, Any],
    limit: int | None,
    form: Format | None,
    out: Path | None,
) -> None:
    from bgm_pipeline import exports

    form = exports.format_of(form, out)
    most = {"table": TABLE_ROWS + 1, "xlsx": exports.SHEET_ROWS + 1}
    with _store() as store:
        frames = ask(store, **filters, limit=most.get(form) if limit is None else limit)
        if form == "table" and limit is None:
            frames = (readable(frame, "more with --limit, all with -o FILE.csv") for frame in frames)
        exports.write_frames(frames, form, out)


def readable(frame: DataFrame, cure: str) -> DataFrame:
    """As many rows as a table has at most; where there are more, a line says so, and the cure."""
    if len(frame) > TABLE_ROWS:
        typer.echo(f"bgm: only the first {TABLE_ROWS}; {cure}", err=True)
    return frame.head(TABLE_ROWS)
