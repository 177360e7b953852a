"""A picture of a programme over time: its level, the music separated from it, how likely each segment holds
music, the events, gaps, and the truth where it is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bgm_pipeline.errors import InputError, MediaError
from bgm_pipeline.folders import taking_its_place, writing
from bgm_pipeline.timebase import format_clock, ms_to_s, ms_to_samples, s_to_ms, s_to_samples
from bgm_pipeline.types import AudioSelection, Samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bgm_pipeline.settings import Settings
    from bgm_pipeline.store.repository import Store

FLOOR_DB = -60.0
"""Level at the waveform's middle line; what is quieter is not drawn."""

ROW_S = 3600.0
"""A longer programme is drawn in rows of this length, seconds."""

_COLUMNS = 2000
_WIDTH_INCHES = 16.0
_ROW_INCHES = 4.6
_SUFFIXES = (".png", ".svg", ".pdf")
_TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900)
_MIXTURE, _MUSIC, _TRUTH, _GAP, _INK = "#b4bcc8", "#e8762c", "#3b6ea5", "#c0392b", "#2b303b"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, and how loud music is in it against the speech, where that is known."""

    start_s: float
    end_s: float
    music_to_speech_db: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A segment of the 12 s grid."""

    start_s: float
    end_s: float
    has_music: bool
    music_probability: float
    music_to_speech_db: float | None = None


@dataclass(frozen=True, slots=True)
class Caption:
    """What is heard in a stretch of time, in words."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Timeline:
    """All that the picture shows; envelopes of shape ``(column,)``, peak amplitude 0..1."""

    title: str
    duration_s: float
    cells: Sequence[Cell]
    events: Sequence[Span]
    music: NDArray[np.float32]
    """Peak envelope of the stems; 0 where none was kept."""
    mixture: NDArray[np.float32] | None = None
    """Peak envelope of the programme; none where its file is gone."""
    gaps: Sequence[Span] = ()
    truth: Sequence[Span] | None = None
    captions: Sequence[Caption] = ()


def timeline_of(store: Store, episode_id: int, settings: Settings) -> Timeline:
    """What the database knows of an episode, its stems, and its file's level if the file is still there.

    Raises:
        InputError: there is no such episode, or no results of it are shown.
        StoreError: a stem cannot be read.
    """
    from pandas import isna  # noqa: PLC0415
    from sqlalchemy import select  # noqa: PLC0415

    from bgm_pipeline import query  # noqa: PLC0415
    from bgm_pipeline.media.ffmpeg import shown  # noqa: PLC0415
    from bgm_pipeline.store.attempts import nothing_shown  # noqa: PLC0415
    from bgm_pipeline.store.orm import RunRow  # noqa: PLC0415
    from bgm_pipeline.store.span import stem_span  # noqa: PLC0415

    zone = settings.inbox.zone
    known = query.episodes(store, episode_id=episode_id, tz=zone)
    if known.empty or known["run_id"].isna().all():
        raise nothing_shown(store, episode_id)
    episode = known.iloc[0]
    with store.reading() as connection:
        run = connection.execute(
            select(RunRow.selection, RunRow.gaps, RunRow.duration_ms).where(
                RunRow.id == int(episode["run_id"])
            )
        ).one()
    duration_ms, duration_samples = run.duration_ms, ms_to_samples(run.duration_ms)
    selection = AudioSelection(tuple(run.selection["streams"]), run.selection["reason"])
    path = Path(episode["path"])
    air_start = episode["air_start"]
    on_air = "" if isna(air_start) else air_start.isoformat(" ", "minutes")
    title = (shown(episode["channel"]), shown(episode["title"] or path.name), on_air)
    return Timeline(
        title=" · ".join(part for part in title if part),
        duration_s=ms_to_s(duration_ms),
        cells=[
            Cell(
                row["start_s"],
                row["end_s"],
                row["has_music"],
                row["music_probability"],
                _db(row["music_to_speech_db"]),
            )
            for row in query.segments(store, episode_id=episode_id, tz=zone).to_dict("records")
        ],
        events=[
            Span(row["start_s"], row["end_s"], _db(row["music_to_speech_db"]))
            for row in query.events(store, episode_id=episode_id, tz=zone).to_dict("records")
        ],
        music=envelope(stem_span(store, episode_id, 0, duration_ms).blocks(), duration_samples),
        mixture=_level_of_file(path, int(episode["size_bytes"]), selection, duration_samples, settings),
        gaps=[Span(ms_to_s(gap["start_ms"]), ms_to_s(gap["end_ms"])) for gap in run.gaps or ()],
    )


def envelope(pieces: Iterable[Samples], duration_samples: int) -> NDArray[np.float32]:
    """Peak amplitude in each of the picture's columns, from consecutive pieces of audio."""
    step = max(1, round(min(duration_samples, s_to_samples(ROW_S)) / _COLUMNS))
    peaks = np.zeros(max(1, -(-duration_samples // step)), np.float32)
    at = 0
    for samples in pieces:
        starts = np.arange(-(at % step), len(samples), step).clip(0)
        highest = np.maximum.reduceat(np.abs(samples), starts)
        columns = slice(at // step, at // step + len(highest))
        peaks[columns] = np.maximum(peaks[columns], highest[: len(peaks) - at // step])
        at += len(samples)
    return peaks


def draw(timeline: Timeline, path: Path) -> None:
    """Draw a timeline as PNG, SVG or PDF, whichever the name ends in.

    Raises:
        InputError: the name ends in something else, or the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: a timeline is drawn as {', '.join(_SUFFIXES)}; choose one of these names")
    rows = max(1, math.ceil(timeline.duration_s / ROW_S))
    width_s = timeline.duration_s if rows == 1 else ROW_S
    layout = ConstrainedLayoutEngine(h_pad=0.02, hspace=0.02)
    figure = Figure(figsize=(_WIDTH_INCHES, 0.8 + _ROW_INCHES * rows), layout=layout)
    figure.suptitle(
        f"{timeline.title}\n{_summary(timeline)}",
        x=0.012,
        ha="left",
        fontsize=12,
        color=_INK,
        linespacing=1.5,
        parse_math=False,
    )
    for row, part in enumerate(np.atleast_1d(figure.subfigures(rows, 1))):  # type: ignore[arg-type]
        waveform, probability, lanes = part.subplots(3, 1, sharex=True, height_ratios=(5, 2, 1.6))
        _draw_waveform(waveform, timeline)
        _draw_probability(probability, timeline)
        _draw_lanes(lanes, timeline)
        for axes in (waveform, probability, lanes):
            _dress(axes, timeline, row * width_s, (row + 1) * width_s)
        _label_time(lanes, width_s)
        if row == 0:
            legend = waveform.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
            legend.set_in_layout(False)
    with writing(path, "name another file"), taking_its_place(path) as partial:
        figure.savefig(partial, format=path.suffix.lower()[1:], dpi=110, facecolor="white")


def _draw_waveform(axes: Axes, timeline: Timeline) -> None:
    layers = [("programme", timeline.mixture, _MIXTURE), ("separated music", timeline.music, _MUSIC)]
    for name, peaks, colour in layers:
        if peaks is None:
            continue
        # Amplitude in dB on both sides of the middle: on a linear scale music under speech is a flat line.
        height = np.clip(20 * np.log10(peaks + 1e-9) - FLOOR_DB, 0, None)
        at = np.linspace(0, timeline.duration_s, len(peaks))
        axes.fill_between(at, -height, height, color=colour, linewidth=0, label=name)
    ticks = np.array([-40, -20, 0])
    axes.set_yticks([*(FLOOR_DB - ticks), *(ticks - FLOOR_DB)], [f"{tick}" for tick in (*ticks, *ticks)])
    axes.set_ylim(FLOOR_DB, -FLOOR_DB)
    axes.set_ylabel("peak, dBFS")
    if timeline.captions:
        axes.set_ylim(FLOOR_DB, -FLOOR_DB * 1.75)
    for caption in timeline.captions:
        axes.axvline(caption.start_s, color=_INK, linewidth=0.5, alpha=0.4)
        width = max(7, int((caption.end_s - caption.start_s) / timeline.duration_s * 215))
        middle = (caption.start_s + caption.end_s) / 2
        text = "\n".join(wrap(caption.text.replace(" dB", "\u00a0dB"), width))
        axes.text(
            middle, -FLOOR_DB * 1.7, text, ha="center", va="top", fontsize=7.5, color=_INK, clip_on=True
        )


def _draw_probability(axes: Axes, timeline: Timeline) -> None:
    for has_music, colour in ((True, _MUSIC), (False, _MIXTURE)):
        cells = [cell for cell in timeline.cells if cell.has_music == has_music]
        axes.bar(
            [cell.start_s for cell in cells],
            [cell.music_probability for cell in cells],
            [cell.end_s - cell.start_s for cell in cells],
            align="edge",
            color=colour,
            edgecolor="white",
            linewidth=0.6 if timeline.duration_s <= ROW_S / 2 else 0,
        )
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("music\nprobability")


def _draw_lanes(axes: Axes, timeline: Timeline) -> None:
    lanes = [("found", timeline.events, _MUSIC)]
    if timeline.truth is not None:
        lanes.append(("truth", timeline.truth, _TRUTH))
    for y, (_, spans, colour) in enumerate(lanes):
        stretches = [(span.start_s, span.end_s - span.start_s) for span in spans]
        axes.broken_barh(stretches, (y - 0.4, 0.8), color=colour, edgecolor="white", linewidth=0.8)
        for span in spans:
            is_wide = span.end_s - span.start_s > 0.035 * min(timeline.duration_s, ROW_S)
            if is_wide and span.music_to_speech_db is not None:
                text = f"{round(span.music_to_speech_db):+d} dB"
                middle = (span.start_s + span.end_s) / 2
                axes.text(
                    middle, y, text, ha="center", va="center", fontsize=7.5, color="white", clip_on=True
                )
    axes.set_ylim(len(lanes) - 0.45, -0.55)
    axes.set_yticks(range(len(lanes)), [name for name, _, _ in lanes])


def _dress(axes: Axes, timeline: Timeline, start_s: float, end_s: float) -> None:
    for gap in timeline.gaps:
        axes.axvspan(gap.start_s, gap.end_s, facecolor="none", edgecolor=_GAP, hatch="////", linewidth=0)
    axes.set_xlim(start_s, end_s)
    axes.tick_params(labelsize=8, colors=_INK)
    axes.yaxis.label.set(size=9, color=_INK)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label_time(axes: Axes, width_s: float) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator  # noqa: PLC0415

    step = next((step for step in _TICKS_S if width_s / step <= 20), _TICKS_S[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: _clock(max(0.0, at))))


def _summary(timeline: Timeline) -> str:
    music_s = sum(span.end_s - span.start_s for span in timeline.events)
    summary = f"{_clock(music_s)} of music in {_clock(timeline.duration_s)}"
    if timeline.mixture is None:
        summary += ", without the programme's level: its file is gone or another"
    return summary + (", hatched: gaps without audio" if timeline.gaps else "")


def _level_of_file(
    path: Path, size_bytes: int, selection: AudioSelection, duration_samples: int, settings: Settings
) -> NDArray[np.float32] | None:
    from bgm_pipeline.media.extract import open_audio  # noqa: PLC0415
    from bgm_pipeline.media.probe import probe  # noqa: PLC0415

    try:
        if path.stat().st_size != size_bytes:
            return None
        with open_audio(probe(path), selection, settings.media) as reader:
            return envelope((block.samples for block in reader), duration_samples)
    except (OSError, MediaError):
        return None


def _clock(seconds: float) -> str:
    return format_clock(s_to_ms(seconds))


def _db(level_db: float) -> float | None:
    return None if math.isnan(level_db) else level_db
