"""``bgm probe``: what is in a media file, and which of its audio would be processed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from bgm_pipeline.types import AudioSelection, ExtractionReport, MediaInfo


@dataclass(slots=True)
class Found:
    """What is known of one file."""

    info: MediaInfo
    selection: AudioSelection | None = None
    """None where nothing in it can be processed."""
    report: ExtractionReport | None = None
    """None where the audio was not read."""


def probe(
    files: Annotated[list[Path], typer.Argument(help="media files", show_default=False)],
    audio_stream: Annotated[
        list[int] | None, typer.Option("--audio-stream", help="which audio stream; mono tracks join")
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="join all mono tracks")] = False,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="read the audio, and list its gaps and damage")
    ] = False,
    format: Annotated[Literal["table", "json"], typer.Option(help="how to show it")] = "table",
) -> None:
    """Tells what is in media files, and which audio would be processed. A file that fails stops no other."""
    from bgm_pipeline.errors import BgmError
    from bgm_pipeline.media.probe import probe as probe_file

    objects, failed = [], False
    for path in files:
        found = None
        try:
            found = Found(probe_file(path))
            _look_further(found, audio_stream or (), join, gaps)
        except BgmError as error:
            failed = True
            typer.echo(f"bgm: {error}", err=True)
        if found is not None and format == "json":
            objects.append(_as_object(found))
        elif found is not None:
            _show(found)
    if format == "json":
        typer.echo(json.dumps(objects, indent=2, ensure_ascii=False))
    if failed:
        raise typer.Exit(1)


def _look_further(found: Found, audio_stream: Sequence[int], join: bool, gaps: bool) -> None:
    from bgm_pipeline.media.extract import open_audio
    from bgm_pipeline.media.ffmpeg import shown
    from bgm_pipeline.media.probe import select_audio
    from bgm_pipeline.progress import programme_bar
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.timebase import samples_to_s

    info = found.info
    found.selection = select_audio(info, audio_stream, join)
    if not gaps:
        return
    with (
        programme_bar(shown(info.path.name)) as progress,
        open_audio(info, found.selection, load_settings().media) as reader,
    ):
        for block in reader:
            progress("read", samples_to_s(block.start_samples + len(block.samples)), info.duration_s)
        found.report = reader.report


def _as_object(found: Found) -> dict[str, Any]:
    """The names of the types' fields; times are seconds."""
    from bgm_pipeline.media.ffmpeg import shown
    from bgm_pipeline.timebase import samples_to_s

    chosen = found.selection.streams if found.selection else ()
    known = asdict(found.info) | {"path": shown(found.info.path)}
    for stream in known["audio_streams"]:
        stream["is_processed"] = stream["index"] in chosen
    known["selection"] = asdict(found.selection) if found.selection else None
    if found.report is not None:
        known["audio_duration_s"] = samples_to_s(found.report.duration_samples)
        known["gaps"] = [
            {
                "start_s": samples_to_s(gap.start_samples),
                "end_s": samples_to_s(gap.end_samples),
                "reason": gap.reason,
            }
            for gap in found.report.gaps
        ]
        known["damage"] = [asdict(damage) for damage in found.report.damage]
    return known


def _show(found: Found) -> None:
    from rich.markup import escape
    from rich.table import Table

    from bgm_pipeline.media.ffmpeg import shown

    info, console = found.info, _console()
    chosen = found.selection.streams if found.selection else ()
    console.print(f"[bold]{escape(shown(info.path))}[/bold]", emoji=False)
    facts = [info.container, f"{info.size_bytes:,} bytes", f"lasts {_timecode(info.duration_s)}"]
    facts.append("with a picture" if info.has_video else "sound only")
    console.print(escape(", ".join(facts)), emoji=False)
    for programme in info.programmes:
        streams = ", ".join(map(str, programme.streams)) or "none"
        name = f"programme {programme.number} {programme.name}".rstrip()
        console.print(escape(f"{name}: streams {streams}"), emoji=False)
    table = Table("", "stream", "codec", "rate", "layout", "language", "start", "duration", "for")
    for stream in info.audio_streams:
        purpose = ", ".join(filter(None, [stream.title, *stream.roles, "default" * stream.is_default]))
        cells = (
            "->" if stream.index in chosen else "",
            str(stream.index),
            stream.codec,
            f"{stream.sample_rate} Hz",
            stream.layout or f"{stream.channels} ch",
            stream.language,
            _timecode(stream.start_s),
            _timecode(stream.duration_s),
            purpose,
        )
        table.add_row(*map(escape, cells))
    if info.audio_streams:
        console.print(table)
    if found.selection is not None:
        streams = " and ".join(map(str, found.selection.streams))
        console.print(escape(f"processed: {streams} ({found.selection.reason})"))
    if found.report is not None:
        _show_report(found.report, console)
    console.print()


def _show_report(report: ExtractionReport, console: Console) -> None:
    from rich.markup import escape

    from bgm_pipeline.timebase import format_timecode, samples_to_ms

    console.print(f"audio read to {format_timecode(samples_to_ms(report.duration_samples))}")
    for gap in report.gaps:
        start, end = (format_timecode(samples_to_ms(at)) for at in (gap.start_samples, gap.end_samples))
        console.print(escape(f"gap: {start} to {end} ({gap.reason})"))
    for damage in report.damage:
        console.print(escape(f"damage: {damage.message} (x {damage.count})"), emoji=False)
    if not report.gaps and not report.damage:
        console.print("no gap, no damage")


def _timecode(seconds: float | None) -> str:
    from bgm_pipeline.timebase import format_timecode, s_to_ms

    return "unknown" if seconds is None else format_timecode(s_to_ms(seconds))


def _console() -> Console:
    """As wide as the terminal; into a pipe no line is broken."""
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(width=10_000, color_system=None)
