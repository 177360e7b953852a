"""The main job on the demo broadcast, and what came of it beside the truth."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from bgm_pipeline.demo.places import bgm, typed
from bgm_pipeline.demo.programme import Programme, agreement, make_programme
from bgm_pipeline.errors import InputError, StoreError
from bgm_pipeline.evaluation.timeline import Span, Timeline, draw, timeline_of
from bgm_pipeline.pipeline import Networks, process_episode
from bgm_pipeline.progress import counting_bar, programme_bar
from bgm_pipeline.settings import Settings, load_settings
from bgm_pipeline.store.check import check_store
from bgm_pipeline.store.orm import RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store
from bgm_pipeline.timebase import format_clock, format_timecode, s_to_ms
from bgm_pipeline.training.corpus import Corpus, build_from_debian, load_corpus
from bgm_pipeline.types import Episode

ASKED_AGREEMENT = 0.9
"""Share of the seconds that must agree with the truth, 0..1."""

_STYLE: dict[str, Any] = {
    "box": SIMPLE_HEAD,
    "padding": (0, 2, 0, 0),
    "pad_edge": False,
    "title_justify": "left",
    "title_style": "bold",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the demo."""

    episode_id: int
    stage_s: dict[str, float]
    """Seconds spent in each stage; some go on beside others."""
    wall_s: float
    """Seconds that went by."""
    timeline: Timeline
    picture: Path
    agreement: float
    """Share of the programme's seconds, 0..1, in which events and truth say the same."""


def run_demo(folder: Path, console: Console) -> bool:
    """Makes the demo broadcast in a folder if it is not there, does the main job on it, and prints all.

    The folder gets a database and a stem store of its own; the user's are not touched.

    Returns:
        Whether at least `ASKED_AGREEMENT` of the seconds agree with the truth.

    Raises:
        BgmError: a step failed.
    """
    settings = load_settings(data_dir=folder / "data", database_url="", stem_store="")
    networks = Networks(settings)
    programme = make_programme(_demo_corpus(folder / "corpus"), folder)
    with open_store(settings) as store:
        outcome = _process(programme, store, networks, settings)
    _print(console, programme, outcome, settings)
    return outcome.agreement >= ASKED_AGREEMENT


def _demo_corpus(folder: Path) -> Corpus:
    if (folder / "corpus.csv").is_file():
        return load_corpus(folder)
    try:
        with counting_bar("recordings of the demo") as advance:
            return build_from_debian(folder, ("demo",), progress=advance)
    except InputError as error:
        raise InputError(
            f"the demo broadcast cannot be made: {str(error).partition(';')[0]}; "
            "use a recording of your own: bgm process FILE, then bgm events"
        ) from error


def _process(programme: Programme, store: Store, networks: Networks, settings: Settings) -> Outcome:
    episode = Episode(programme.media, channel="Demo", title="Demo broadcast")
    started_s = time.perf_counter()
    with programme_bar(programme.media.name) as show:
        done = process_episode(episode, store, networks, settings, force=True, progress=show)
    wall_s = time.perf_counter() - started_s
    for problem in check_store(store, deep=True):
        raise StoreError(f"{problem.subject}: {problem.message}")
    with store.reading() as connection:
        stage_s = connection.scalar(select(RunRow.stage_s).where(RunRow.id == done.run_id)) or {}
    truth = programme.truth
    found = timeline_of(store, done.episode_id, settings)
    picture = programme.media.with_name("timeline.png")
    timeline = replace(found, truth=truth.music, captions=truth.parts)
    draw(timeline, picture)
    agreed = agreement(timeline.events, truth.music, truth.duration_s)
    return Outcome(done.episode_id, stage_s, wall_s, timeline, picture, agreed)


def _print(console: Console, programme: Programme, outcome: Outcome, settings: Settings) -> None:
    timeline, truth = outcome.timeline, programme.truth
    console.print(_segment_table(timeline, programme))
    console.print(_event_table(timeline.events, truth.events))
    stages = Table("stage", title="Seconds per stage", **_STYLE)
    stages.add_column("seconds", justify="right")
    for stage, seconds in outcome.stage_s.items():
        stages.add_row(stage, f"{seconds:.1f}")
    console.print(stages)

    def say(text: str = "", style: str = "") -> None:
        console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

    speed = truth.duration_s / max(outcome.wall_s, 1e-3)
    say(f"{truth.duration_s:.0f} s of programme, {speed:.1f} x real time")
    for name, path in (
        ("broadcast", programme.media),
        ("its truth", programme.truth_json),
        ("as a table", programme.truth_csv),
        ("timeline", outcome.picture),
        ("database", settings.data_dir / "bgm.sqlite"),
        ("stems", Path(settings.resolved_stem_store)),
    ):
        say(f"{name:<12}{typed(path)}")
    say("\nNow try:")
    for command in _next_commands(outcome, settings):
        say(f"  {command}")
    say("\nAnd with a recording of your own: bgm process FILE")
    is_enough = outcome.agreement >= ASKED_AGREEMENT
    verdict = "" if is_enough else f": less than the {ASKED_AGREEMENT:.0%} asked for, so the demo failed"
    style = "bold green" if is_enough else "bold red"
    say(f"\n{outcome.agreement:.1%} of the seconds agree with the truth{verdict}", style)


def _segment_table(timeline: Timeline, programme: Programme) -> Table:
    table = Table(title="Segments, and the truth beside them", **_STYLE)
    for header in ("start", "end", "music", "score", "to speech", "truth: music", "to speech", ""):
        table.add_column(header, justify="left" if header in ("start", "end", "music", "") else "right")
    for cell, true in zip(timeline.cells, programme.truth.segments, strict=True):
        agrees = cell.has_music == (true.music_s > 0)
        table.add_row(
            _clock(cell.start_s),
            _clock(cell.end_s),
            "yes" if cell.has_music else "-",
            f"{cell.music_probability:.2f}",
            _decibel(cell.music_to_speech_db) if cell.has_music else "",
            f"{true.music_s:.1f} s" if true.music_s else "-",
            _decibel(true.music_to_speech_db) if true.music_s else "",
            "" if agrees else "wrong",
            style="" if agrees else "red",
        )
    return table


def _event_table(events: Sequence[Span], truth: Sequence[Span]) -> Table:
    table = Table(title="Music events, and the truth beside them", **_STYLE)
    for header in ("start", "end", "to speech", "truth: start", "end"):
        table.add_column(header, justify="right" if header == "to speech" else "left")
    rows: list[tuple[float, Span | None, tuple[str, str]]] = []
    for true in truth:
        own = [found for found in events if found.start_s < true.end_s and found.end_s > true.start_s]
        for at, found in enumerate(own or [None]):
            beside = (_precise(true.start_s), _precise(true.end_s)) if at == 0 else ("", "")
            rows.append((true.start_s, found, beside))
    rows += [
        (found.start_s, found, ("no music", "")) for found in events if found not in {row[1] for row in rows}
    ]
    for _, found, beside in sorted(rows, key=lambda row: row[0]):
        if found is None:
            table.add_row("missed", "", "", *beside, style="red")
        else:
            level = _decibel(found.music_to_speech_db)
            table.add_row(_precise(found.start_s), _precise(found.end_s), level, *beside)
    return table


def _next_commands(outcome: Outcome, settings: Settings) -> list[str]:
    """Commands for the demo's own store that work as they are pasted."""
    begin = bgm(settings)
    longest = max(outcome.timeline.events, key=lambda span: span.end_s - span.start_s, default=Span(0, 12))
    span = f"{_precise(longest.start_s)} {_precise(longest.end_s)}"
    stem, labels = (
        shlex.quote(typed(outcome.picture.with_name(name))) for name in ("music.flac", "music.txt")
    )
    return [
        f"{begin} segments --music --max-level 0",
        f"{begin} stem {outcome.episode_id} {span} -o {stem}",
        f"{begin} labels {outcome.episode_id} -o {labels}",
    ]


def _clock(seconds: float) -> str:
    return format_clock(s_to_ms(round(seconds)))


def _precise(seconds: float) -> str:
    return format_timecode(s_to_ms(seconds))


def _decibel(level_db: float | None) -> str:
    return "alone" if level_db is None else f"{level_db:+.1f} dB"
