"""The audio files of stems: FLAC, 16 kHz mono, one file a segment.

A key is a file's path below the root: ``NAMESPACE/THOUSANDS/EPISODE/RUN/SEGMENT.flac``. The namespace is
the database's own, so that two databases can share a root and neither takes the other's files for its
own leftovers. A run writes to a folder that no other run has; which runs' folders belong is for the
database to say.

Samples are kept in 16 bits, at 1/32768 of full scale a step and without dither: the noise of that is at
-101 dB of full scale, below that of the broadcast codecs the sound came through, and 24 bits would take
twice the room to store noise. Levels are never rescaled; an estimate that leaves full scale, which a
mask on a loud mixture can do by a little, is held at full scale, and the writer counts such samples.
"""

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bgm_pipeline.errors import StoreError
from bgm_pipeline.timebase import SAMPLE_RATE, samples_to_ms
from bgm_pipeline.types import Samples, Stem

log = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".tmp"
FLOOR_DB = -120.0
_FULL_SCALE = 32768


class StemStore:
    """All stems of one database."""

    def __init__(self, root: Path, namespace: str) -> None:
        self.root = root
        self.namespace = namespace

    def begin(self, episode_id: int, run_id: int) -> "StemWriter":
        """A writer for the stems of one run; what the run may have left there before is removed."""
        self.remove_run(episode_id, run_id)
        return StemWriter(self, self._run_folder(episode_id, run_id))

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.root.joinpath(*key.split("/"))

    def read(self, stem: Stem) -> Samples:
        """The samples of a stem.

        Raises:
            StoreError: the file is gone, or is not such a file.
        """
        import soundfile  # noqa: PLC0415

        path = self.path(stem.key)
        try:
            samples, sample_rate = soundfile.read(os.fsencode(path), dtype="float32")
        except (soundfile.LibsndfileError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error.error_string
            raise StoreError(f"{path}: the stem cannot be read ({why}); run: bgm store check") from error
        described = samples_to_ms(stem.duration_samples)
        if sample_rate != SAMPLE_RATE or samples.ndim != 1 or samples_to_ms(len(samples)) != described:
            raise StoreError(f"{path}: not the stem that the database describes; run: bgm store check --deep")
        return np.asarray(samples)

    def verify(self, stem: Stem) -> bool:
        """Whether the file is there and has the bytes that were written."""
        try:
            with self.path(stem.key).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == stem.sha256
        except FileNotFoundError:
            return False

    def contents(self) -> Iterator[tuple[Path, tuple[int, int] | None]]:
        """Every folder that a run of this database wrote to, with (episode, run).

        What lies among them and is no run's folder comes with None.
        """
        for path in _entries(self.root / self.namespace, depth=2):
            episode, run = path.parent.name, path.name
            if episode.isdecimal() and run.isdecimal() and path == self._run_folder(int(episode), int(run)):
                yield path, (int(episode), int(run))
            else:
                yield path, None

    def runs_of(self, episode_id: int) -> set[int]:
        """The runs of an episode that have a folder."""
        names = (path.name for path in _entries(self._episode_folder(episode_id), depth=0))
        return {int(name) for name in names if name.isdecimal()}

    def remove_run(self, episode_id: int, run_id: int) -> None:
        """Remove all files of one run."""
        folder = self._run_folder(episode_id, run_id)
        try:
            shutil.rmtree(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StoreError(f"{folder}: cannot be removed: {error.strerror}") from error

    def _episode_folder(self, episode_id: int) -> Path:
        return self.root / self.namespace / f"{episode_id // 1000:04d}" / str(episode_id)

    def _run_folder(self, episode_id: int, run_id: int) -> Path:
        return self._episode_folder(episode_id) / str(run_id)


class StemWriter:
    """Writes the stems of one run; every file appears whole or not at all, and stays after a power cut."""

    def __init__(self, store: StemStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._stems: list[Stem] = []
        self.clipped_samples = 0

    def write(self, segment_index: int, samples: Samples) -> Stem:
        """Keep the music estimate of one segment.

        Args:
            segment_index: Place on the 12 s grid.
            samples: Mono at 16 kHz, shape ``(sample,)``, full scale at +-1.

        Raises:
            StoreError: a sample is not a finite number, or the file cannot be written.
        """
        import soundfile  # noqa: PLC0415

        path = self._folder / f"{segment_index:06d}.flac"
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise StoreError(f"{path}: not written: the estimate is not a row of finite numbers")
        kept = to_pcm16(samples)
        self.clipped_samples += int(np.count_nonzero(np.abs(samples) > 1))
        encoded = io.BytesIO()
        soundfile.write(encoded, kept, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        content = encoded.getvalue()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_whole(path, content)
        except OSError as error:
            raise StoreError(f"{path}: the stem cannot be written: {error.strerror}") from error
        stem = Stem(
            segment_index=segment_index,
            key=path.relative_to(self._store.root).as_posix(),
            sha256=hashlib.sha256(content).hexdigest(),
            duration_samples=len(kept),
            level_db=_level_db(kept / _FULL_SCALE),
        )
        self._stems.append(stem)
        return stem

    def discard(self, segment_index: int) -> None:
        """Remove the stem of a segment again, if there is one."""
        for stem in [stem for stem in self._stems if stem.segment_index == segment_index]:
            self._store.path(stem.key).unlink()
            self._stems.remove(stem)

    def commit(self) -> tuple[Stem, ...]:
        """Make the files' names as lasting as their content; returns all stems, in the order written."""
        if self.clipped_samples:
            log.warning(
                "%s: %d samples of the estimate held at full scale", self._folder, self.clipped_samples
            )
        if self._stems:
            folder = self._folder
            while folder != self._store.root.parent:
                _sync_folder(folder)
                folder = folder.parent
        return tuple(self._stems)


def to_pcm16(samples: Samples) -> NDArray[np.int16]:
    """Samples in steps of 1/32768 of full scale, as they are kept; what was read from a stem is exact."""
    steps = np.rint(samples.astype(np.float64) * _FULL_SCALE)
    return np.clip(steps, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(folder: Path, depth: int) -> Iterator[Path]:
    """What lies `depth` folders down; and above that, what is no folder with a number for a name."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{folder}: the stem store cannot be listed: {error.strerror}") from error
    for entry in entries:
        if depth and entry.name.isdecimal() and entry.is_dir(follow_symlinks=False):
            yield from _entries(folder / entry.name, depth - 1)
        else:
            yield folder / entry.name


def _level_db(samples: NDArray[np.float64]) -> float:
    power = float(np.mean(np.square(samples))) if len(samples) else 0.0
    return max(FLOOR_DB, 10 * float(np.log10(power))) if power > 0 else FLOOR_DB
