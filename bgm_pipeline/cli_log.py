"""``bgm log``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from bgm_pipeline.cli_ask import Channel, FormatOption, Out, Since, Until, readable, when

if TYPE_CHECKING:
    from bgm_pipeline.channel_log import ChannelLog


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(log)


def log(
    channel: Channel = None,
    since: Since = None,
    until: Until = None,
    format: FormatOption = None,
    out: Out = None,
) -> None:
    """Lists when music was on air on each channel, every second once, for reports to copyright societies."""
    from bgm_pipeline import exports
    from bgm_pipeline.channel_log import channel_log
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.session import open_store

    form = exports.format_of(format, out)
    settings, asked = load_settings(), when(since, until)
    with open_store(settings, make=False) as store:
        found = channel_log(store, settings.detection.min_duration_off_s, channel=channel, **asked)
    rows = readable(found.rows, "all with -o FILE.csv") if form == "table" else found.rows
    exports.write(rows, form, out)
    for note in _notes(found):
        typer.echo(f"bgm: {note}", err=True)


def _notes(found: ChannelLog) -> Iterator[str]:
    """The sums, and what is left out."""
    from bgm_pipeline.media.ffmpeg import shown
    from bgm_pipeline.timebase import format_clock

    asked = "" if found.asked_ms is None else f", of {format_clock(found.asked_ms)} asked for"
    for name, music_ms, recorded_ms in found.sums:
        music, recorded = format_clock(music_ms), format_clock(recorded_ms)
        yield f"{shown(name) or 'no channel'}: {music} of music in {recorded} recorded{asked}"
    for count, reason in (
        (found.without_air_time, "no air time is known"),
        (found.without_channel, "no channel is known, so that it may be this one"),
        (found.without_results, "no results yet; see bgm episodes"),
        (found.replaced, "replaced by another at the same place and time; see bgm episodes"),
    ):
        if count:
            yield f"{count} recording{' is' if count == 1 else 's are'} left out: {reason}"
