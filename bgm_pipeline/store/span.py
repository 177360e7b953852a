"""Cutting any span of separated music out of the stems, across the borders of segments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import select

from bgm_pipeline.errors import InputError
from bgm_pipeline.folders import taking_its_place
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.store.attempts import nothing_shown
from bgm_pipeline.store.orm import RunRow, StemRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.stems import StemStore, to_pcm16
from bgm_pipeline.timebase import (
    SAMPLE_RATE,
    SEGMENT_SAMPLES,
    format_timecode,
    ms_to_samples,
    samples_to_ms,
)
from bgm_pipeline.types import Samples, Stem


@dataclass(frozen=True, slots=True)
class StemSpan:
    """A span of an episode's music, read from the stem store one segment at a time."""

    start_ms: int
    end_ms: int
    silent_ms: tuple[tuple[int, int], ...]
    """Where no stem was kept, from and to: the span is silent there, whatever the programme was."""
    stems: StemStore
    found: dict[int, Stem]
    """The stems that the span touches, by the index of their segment."""

    def blocks(self) -> Iterator[Samples]:
        """The samples, a segment or less at a time.

        Raises:
            StoreError: a stem's file is gone or broken.
        """
        start, end = ms_to_samples(self.start_ms), ms_to_samples(self.end_ms)
        while start < end:
            index, offset = divmod(start, SEGMENT_SAMPLES)
            block = np.zeros(min(end - start, SEGMENT_SAMPLES - offset), np.float32)
            if index in self.found:
                piece = self.stems.read(self.found[index])[offset : offset + len(block)]
                block[: len(piece)] = piece
            yield block
            start += len(block)

    def samples(self) -> Samples:
        """All samples, shape ``(sample,)``."""
        return np.concatenate(list(self.blocks()))

    def save(self, path: Path) -> None:
        """Write the span as FLAC or WAV, 16 bits, at the level that the stems have.

        Raises:
            InputError: the name ends in neither, or the file cannot be written.
            StoreError: a stem's file is gone or broken.
        """
        import soundfile  # noqa: PLC0415

        kind = path.suffix.lower().removeprefix(".")
        if kind not in {"flac", "wav"}:
            raise InputError(f"{shown(path)}: a stem is written as .flac or .wav; choose one of these names")
        try:
            with taking_its_place(path) as partial:
                partial.touch()  # The system's own reason, where it cannot be: libsndfile knows none.
                name = os.fsencode(partial)
                with soundfile.SoundFile(name, "w", SAMPLE_RATE, 1, "PCM_16", format=kind.upper()) as file:
                    for block in self.blocks():
                        file.write(to_pcm16(block))
        except (soundfile.LibsndfileError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error.error_string
            raise InputError(f"{shown(path)}: cannot be written ({why}); name another file") from error


def stem_span(store: Store, episode_id: int, start_ms: int, end_ms: int) -> StemSpan:
    """The music of an episode's current run from `start_ms` to before `end_ms`.

    Raises:
        InputError: there is no such episode, no results of it are shown, or the span is not inside it.
    """
    with store.reading() as connection:
        run = connection.execute(
            select(RunRow.id, RunRow.duration_ms).where(RunRow.episode_id == episode_id, RunRow.is_current)
        ).one_or_none()
        if run is None:
            raise nothing_shown(store, episode_id)
        if not 0 <= start_ms < end_ms <= run.duration_ms:
            raise InputError(
                f"episode {episode_id} goes from 00:00:00.000 to {format_timecode(run.duration_ms)}; "
                "give a start and a later end inside that"
            )
        first = ms_to_samples(start_ms) // SEGMENT_SAMPLES
        last = (ms_to_samples(end_ms) - 1) // SEGMENT_SAMPLES
        rows = connection.execute(
            select(StemRow.segment_index, StemRow.key, StemRow.sha256, StemRow.duration_ms, StemRow.level_db)
            .where(StemRow.run_id == run.id, StemRow.segment_index.between(first, last))
            .order_by(StemRow.segment_index)
        ).all()
    found = {
        row.segment_index: Stem(
            row.segment_index, row.key, row.sha256, ms_to_samples(row.duration_ms), row.level_db
        )
        for row in rows
    }
    silent: list[tuple[int, int]] = []
    for index in range(first, last + 1):
        if index in found:
            continue
        begin = max(start_ms, samples_to_ms(index * SEGMENT_SAMPLES))
        end = min(end_ms, samples_to_ms((index + 1) * SEGMENT_SAMPLES))
        if silent and silent[-1][1] == begin:
            begin = silent.pop()[0]
        silent.append((begin, end))
    return StemSpan(start_ms, end_ms, tuple(silent), store.stems, found)
