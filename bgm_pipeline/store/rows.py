"""Episodes, a run and its result as rows of the tables: samples become milliseconds.

Probabilities are kept to 4 digits and levels to 2, so that results do not differ where only the order of
a sum did.
"""

from pathlib import Path
from typing import Any

from bgm_pipeline.naming import one_spelling
from bgm_pipeline.store.functions import Clock
from bgm_pipeline.store.lease import this_process
from bgm_pipeline.store.orm import EpisodeRow, RunRow
from bgm_pipeline.timebase import samples_to_ms
from bgm_pipeline.types import Episode, RunIdentity, RunResult

Row = dict[str, Any]
"""Values by the names of their columns."""

TOLD = ("channel", "title", "air_start")
"""What is told of an episode."""


def values_told(episode: Episode) -> Row:
    """What is told of an episode, as far as it is not empty."""
    values = {name: getattr(episode, name) for name in TOLD}
    return {name: told_text(v) if isinstance(v, str) else v for name, v in values.items() if v}


def described(episode: EpisodeRow) -> Episode:
    """What is known of an episode, with the place where its file was last seen."""
    return Episode(Path(episode.path), episode.channel, episode.title, episode.air_start)


def new_run(episode_id: int, identity: RunIdentity, flow_run_url: str | None) -> RunRow:
    """A run of this process that begins now."""
    return RunRow(
        episode_id=episode_id,
        state="running",
        source_sha256=identity.source_sha256,
        model=identity.model,
        model_sha256=identity.model_sha256,
        settings_sha256=identity.settings_sha256,
        code_version=identity.code_version,
        settings=identity.settings,
        owner=this_process(),
        flow_run_url=flow_run_url,
        started_at=Clock(),
        heartbeat_at=Clock(),
    )


def segment_rows(run_id: int, result: RunResult) -> list[Row]:
    """Rows of `segments`."""
    return [
        {
            "run_id": run_id,
            "segment_index": segment.index,
            **_span(segment.start_samples, segment.end_samples),
            "has_music": segment.has_music,
            "music_probability": round(segment.music_probability, 4),
            "music_to_speech_db": _db(segment.music_to_speech_db),
            "mixture_db": _db(segment.mixture_db),
            "music_db": _db(segment.music_db),
            "gap_ms": samples_to_ms(segment.gap_samples),
            "is_skipped": segment.is_skipped,
        }
        for segment in result.segments
    ]


def event_rows(run_id: int, result: RunResult) -> list[Row]:
    """Rows of `events`."""
    return [
        {
            "run_id": run_id,
            "event_index": index,
            **_span(event.start_samples, event.end_samples),
            "music_probability": round(event.music_probability, 4),
            "music_to_speech_db": _db(event.music_to_speech_db),
        }
        for index, event in enumerate(result.events)
    ]


def stem_rows(run_id: int, result: RunResult) -> list[Row]:
    """Rows of `stems`."""
    return [
        {
            "run_id": run_id,
            "segment_index": stem.segment_index,
            "key": stem.key,
            "sha256": stem.sha256,
            "duration_ms": samples_to_ms(stem.duration_samples),
            "level_db": _db(stem.level_db),
        }
        for stem in result.stems
    ]


def run_values(result: RunResult, segments: list[Row], events: list[Row]) -> Row:
    """What a finished run's row in `runs` says of its results."""
    probabilities = _known(segments + events, "music_probability")
    levels_db = _known(segments + events, "music_to_speech_db")
    return {
        "container": plain_text(result.container),
        "duration_ms": samples_to_ms(result.duration_samples),
        "music_ms": sum(row["end_ms"] - row["start_ms"] for row in events),
        "max_music_probability": max(probabilities, default=None),
        "min_music_to_speech_db": min(levels_db, default=None),
        "max_music_to_speech_db": max(levels_db, default=None),
        "stem_count": len(result.stems),
        "stage_s": {stage: round(seconds, 3) for stage, seconds in result.stage_s.items()},
        "selection": {
            "streams": list(result.selection.streams),
            "reason": plain_text(result.selection.reason),
        },
        "gaps": [
            {"reason": plain_text(gap.reason), **_span(gap.start_samples, gap.end_samples)}
            for gap in result.gaps
        ],
        "damage": [{"message": plain_text(one.message), "count": one.count} for one in result.damage],
    }


def kept_path(path: Path) -> str:
    """What the database says of a place."""
    return plain_text(str(path.absolute()))


def told_text(text: str) -> str:
    """A channel or title as the database has it: in one spelling, however its accents are made up (names of
    files from a Mac have them apart), so that a channel is one channel."""
    return one_spelling(plain_text(text))


def plain_text(text: str) -> str:
    """Text that every database takes: bytes of a file's name that are no UTF-8 are spelled out."""
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return readable.replace("\0", "\\0")


def _span(start_samples: int, end_samples: int) -> dict[str, int]:
    return {"start_ms": samples_to_ms(start_samples), "end_ms": samples_to_ms(end_samples)}


def _known(rows: list[Row], name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _db(level_db: float | None) -> float | None:
    return None if level_db is None else round(level_db, 2)
