"""Episodes and runs to test with: small, and always the same."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from bgm_pipeline.store.orm import EventRow, RunRow, SegmentRow, StemRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.stems import StemStore, StemWriter
from bgm_pipeline.store.storage import FolderStorage
from bgm_pipeline.timebase import SEGMENT_SAMPLES
from bgm_pipeline.types import (
    AudioSelection,
    Damage,
    Episode,
    Event,
    Gap,
    RunIdentity,
    RunResult,
    Samples,
    Segment,
)

ON_AIR = datetime(2026, 3, 31, 20, 15, tzinfo=UTC)
everywhere = pytest.mark.parametrize("store_settings", ["sqlite", "postgresql", "bucket"], indirect=True)
"""For tests to which it may make a difference that the stems lie in a bucket."""
on_sqlite = pytest.mark.parametrize("store_settings", ["sqlite"], indirect=True)
"""For tests to which the database makes no difference."""

Levels = Sequence[float | None]
"""A programme, one entry a segment: how loud its music is against the speech, dB; None is no music."""


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def identity(name: str, model: str = "net") -> RunIdentity:
    return RunIdentity(sha256(name), model, sha256(model), sha256("settings"), "0.1.0")


def music(segment_index: int, length: int = SEGMENT_SAMPLES) -> Samples:
    """Noise in whole steps of 16 bits, so that a stem gives back the very same samples."""
    steps = np.random.default_rng(segment_index).integers(-9000, 9000, length)
    return (steps / 32768).astype(np.float32)


def add_episode(
    store: Store, name: str, channel: str = "", title: str = "", air_start: datetime | None = None
) -> int:
    episode = Episode(Path("/inbox") / name, channel, title, air_start)
    return store.register_episode(episode, sha256(name), 1_000)


def write_stems(writer: StemWriter, levels: Levels, last_samples: int = SEGMENT_SAMPLES) -> None:
    for index, level in enumerate(levels):
        if level is not None:
            last = index == len(levels) - 1
            writer.write(index, music(index, last_samples if last else SEGMENT_SAMPLES))


def make_result(writer: StemWriter, levels: Levels, last_samples: int = SEGMENT_SAMPLES) -> RunResult:
    """What a run finds in the programme; each unbroken stretch of music is one event."""
    duration = (len(levels) - 1) * SEGMENT_SAMPLES + last_samples
    segments = tuple(
        Segment(
            index=index,
            start_samples=index * SEGMENT_SAMPLES,
            end_samples=min((index + 1) * SEGMENT_SAMPLES, duration),
            has_music=level is not None,
            music_probability=0.02 if level is None else 0.99 if level >= 0 else 0.8,
            music_to_speech_db=level,
            mixture_db=-20.0,
            music_db=-120.0 if level is None else -23.0,
            gap_samples=160 if index == 0 else 0,
        )
        for index, level in enumerate(levels)
    )
    events: list[Event] = []
    for segment in (one for one in segments if one.has_music):
        start = segment.start_samples
        if events and events[-1].end_samples == start:
            start = events.pop().start_samples
        level = segment.music_to_speech_db
        events.append(Event(start, segment.end_samples, segment.music_probability, level))
    return RunResult(
        duration_samples=duration,
        container="mpegts",
        selection=AudioSelection((1,), "the only one"),
        gaps=(Gap(0, 160, "missing packets"),),
        damage=(Damage("invalid frame", 2),),
        segments=segments,
        events=tuple(events),
        stems=writer.commit(),
        stage_s={"separate": 1.5},
    )


def add_run(
    store: Store,
    episode_id: int,
    run_identity: RunIdentity,
    levels: Levels,
    last_samples: int = SEGMENT_SAMPLES,
) -> int:
    """A whole good run."""
    run_id = store.start_run(episode_id, run_identity)
    writer = store.stems.begin(episode_id, run_id)
    write_stems(writer, levels, last_samples)
    store.finish_run(run_id, make_result(writer, levels, last_samples))
    return run_id


def add_programme(
    store: Store,
    name: str,
    levels: Levels,
    channel: str = "",
    title: str = "",
    air_start: datetime | None = None,
) -> int:
    """An episode with a whole good run."""
    episode_id = add_episode(store, name, channel, title, air_start)
    add_run(store, episode_id, identity(name), levels)
    return episode_id


def rows(store: Store, episode_id: int) -> list[tuple[Any, ...]]:
    """All that the current run of an episode found, without the numbers and names that tell runs apart."""
    current = select(RunRow.id).where(RunRow.episode_id == episode_id, RunRow.is_current)
    with store.reading() as connection:
        return [
            tuple(row)[1:]
            for table in (SegmentRow, EventRow)
            for row in connection.execute(
                select(*table.__table__.columns)
                .where(table.run_id.in_(current))
                .order_by(*table.__table__.primary_key)
            )
        ] + [
            tuple(row)
            for row in connection.execute(
                select(StemRow.segment_index, StemRow.sha256, StemRow.duration_ms, StemRow.level_db)
                .where(StemRow.run_id.in_(current))
                .order_by(StemRow.segment_index)
            )
        ]


def folder_of(stems: StemStore) -> Path:
    """The folder that a stem store keeps its files in."""
    assert isinstance(stems.storage, FolderStorage)
    return stems.storage.root


def file_of(stems: StemStore, key: str) -> Path:
    return folder_of(stems).joinpath(*key.split("/"))


def files(store: Store, folder: str = "") -> set[str]:
    """Every file in the stem store, by its key."""
    found: set[str] = set()
    for entry in store.stems.storage.entries(folder):
        key = f"{folder}/{entry.name}".removeprefix("/")
        found |= files(store, key) if entry.is_folder else {key}
    return found


def keys(store: Store) -> set[str]:
    """Every file that the database knows."""
    with store.reading() as connection:
        return set(connection.scalars(select(StemRow.key)))
