"""The audio files of stems: FLAC, 16 kHz mono, one file a segment.

A key is a file's path in the storage: ``NAMESPACE/THOUSANDS/EPISODE/RUN/SEGMENT.flac``. The namespace is
the database's own, so that two databases can share a storage and neither takes the other's files for its
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from bgm_pipeline.errors import StoreError
from bgm_pipeline.store.storage import Storage
from bgm_pipeline.timebase import SAMPLE_RATE, samples_to_ms
from bgm_pipeline.types import Samples, Stem

log = logging.getLogger(__name__)

FLOOR_DB = -120.0
_FULL_SCALE = 32768


class StemStore:
    """All stems of one database."""

    def __init__(self, storage: Storage, namespace: str) -> None:
        self.storage = storage
        self.namespace = namespace

    def begin(self, episode_id: int, run_id: int) -> "StemWriter":
        """A writer for the stems of one run; what the run may have left there before is removed."""
        self.remove_run(episode_id, run_id)
        return StemWriter(self.storage, self.run_folder(episode_id, run_id))

    def shown(self, key: str) -> str:
        """The file of a key in a message's words."""
        return self.storage.shown(key)

    def read(self, stem: Stem) -> Samples:
        """The samples of a stem.

        Raises:
            StoreError: the file is gone, or is not such a file.
        """
        import soundfile  # noqa: PLC0415

        name = self.shown(stem.key)
        try:
            content = io.BytesIO(self.storage.read(stem.key))
            samples, sample_rate = soundfile.read(content, dtype="float32")
        except (soundfile.LibsndfileError, OSError) as error:
            why = (error.strerror or "not there") if isinstance(error, OSError) else error.error_string
            raise StoreError(f"{name}: the stem cannot be read ({why}); run: bgm store check") from error
        described = samples_to_ms(stem.duration_samples)
        if sample_rate != SAMPLE_RATE or samples.ndim != 1 or samples_to_ms(len(samples)) != described:
            raise StoreError(f"{name}: not the stem that the database describes; run: bgm store check --deep")
        return np.asarray(samples)

    def verify(self, stem: Stem) -> bool:
        """Whether the file is there and has the bytes that were written.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return hashlib.sha256(self.storage.read(stem.key)).hexdigest() == stem.sha256
        except FileNotFoundError:
            return False

    def is_there(self) -> bool:
        """Whether the storage has the folder of this database.

        Raises:
            StoreError: it cannot be listed.
        """
        with self._listing(self.namespace):
            return bool(self.storage.entries(self.namespace))

    def contents(self) -> Iterator[tuple[str, tuple[int, int] | None]]:
        """The key of every folder that a run of this database wrote to, with (episode, run).

        What lies among them and is no run's folder comes with None.

        Raises:
            StoreError: the storage cannot be listed.
        """
        for key in self._entries(self.namespace, depth=2):
            episode, run = key.split("/")[-2:]
            if episode.isdecimal() and run.isdecimal() and key == self.run_folder(int(episode), int(run)):
                yield key, (int(episode), int(run))
            else:
                yield key, None

    def runs_of(self, episode_id: int) -> set[int]:
        """The runs of an episode that have a folder.

        Raises:
            StoreError: the storage cannot be listed.
        """
        keys = self._entries(self._episode_folder(episode_id), depth=0)
        names = (key.rpartition("/")[2] for key in keys)
        return {int(name) for name in names if name.isdecimal()}

    def keys_in(self, folder: str) -> list[str]:
        """The keys of what lies in a folder; none if it is not there, or is a file.

        Raises:
            StoreError: the storage cannot be listed.
        """
        with self._listing(folder), suppress(NotADirectoryError):
            return [f"{folder}/{entry.name}" for entry in self.storage.entries(folder)]
        return []

    def remove_run(self, episode_id: int, run_id: int) -> None:
        """Remove all files of one run.

        Raises:
            StoreError: they cannot be removed.
        """
        self.remove(self.run_folder(episode_id, run_id))

    def remove_episode(self, episode_id: int) -> None:
        """Remove all files of one episode.

        Raises:
            StoreError: they cannot be removed.
        """
        self.remove(self._episode_folder(episode_id))

    def remove(self, key: str) -> None:
        """Remove a file, or a folder with all that is in it.

        Raises:
            StoreError: it cannot be removed.
        """
        try:
            self.storage.remove(key)
        except OSError as error:
            raise StoreError(f"{self.shown(key)}: cannot be removed: {error.strerror}") from error

    def run_folder(self, episode_id: int, run_id: int) -> str:
        """The key of the folder that a run writes to."""
        return f"{self._episode_folder(episode_id)}/{run_id}"

    def _episode_folder(self, episode_id: int) -> str:
        return f"{self.namespace}/{episode_id // 1000:04d}/{episode_id}"

    def _entries(self, folder: str, depth: int) -> Iterator[str]:
        """What lies `depth` folders down; and above that, what is no folder with a number for a name."""
        with self._listing(folder):
            entries = self.storage.entries(folder)
        for entry in entries:
            key = f"{folder}/{entry.name}"
            if depth and entry.is_folder and entry.name.isdecimal():
                yield from self._entries(key, depth - 1)
            else:
                yield key

    @contextmanager
    def _listing(self, folder: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            name = self.shown(folder)
            raise StoreError(f"{name}: the stem store cannot be listed: {error.strerror}") from error


class StemWriter:
    """Writes the stems of one run; every file appears whole or not at all, and stays after a power cut."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
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

        key = f"{self._folder}/{segment_index:06d}.flac"
        if samples.ndim != 1 or not np.isfinite(samples).all():
            name = self._storage.shown(key)
            raise StoreError(f"{name}: not written: the estimate is not a row of finite numbers")
        kept = to_pcm16(samples)
        self.clipped_samples += int(np.count_nonzero(np.abs(samples) > 1))
        encoded = io.BytesIO()
        soundfile.write(encoded, kept, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        content = encoded.getvalue()
        with self._writing(key):
            self._storage.write(key, content)
        stem = Stem(
            segment_index=segment_index,
            key=key,
            sha256=hashlib.sha256(content).hexdigest(),
            duration_samples=len(kept),
            level_db=_level_db(kept / _FULL_SCALE),
        )
        self._stems.append(stem)
        return stem

    def discard(self, segment_index: int) -> None:
        """Remove the stem of a segment again, if there is one.

        Where the store refuses, it stays, and belongs to no run.

        Raises:
            StoreError: it cannot be removed.
        """
        for stem in [stem for stem in self._stems if stem.segment_index == segment_index]:
            with self._writing(stem.key):
                try:
                    self._storage.remove(stem.key)
                except PermissionError as error:
                    told = f"{error.strerror}; then run: bgm store check --remove"
                    log.warning("%s: %s", self._storage.shown(stem.key), told)
            self._stems.remove(stem)

    def commit(self) -> tuple[Stem, ...]:
        """Make the files' names as lasting as their content; returns all stems, in the order written.

        Raises:
            StoreError: the disk does not take them.
        """
        if self.clipped_samples:
            held = f"{self.clipped_samples} samples of the estimate held at full scale"
            log.warning("%s: %s", self._storage.shown(self._folder), held)
        if self._stems:
            with self._writing(self._folder):
                self._storage.settle(self._folder)
        return tuple(self._stems)

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            name = self._storage.shown(key)
            raise StoreError(f"{name}: the stem cannot be written: {error.strerror}") from error


def to_pcm16(samples: Samples) -> NDArray[np.int16]:
    """Samples in steps of 1/32768 of full scale, as they are kept; what was read from a stem is exact."""
    steps = np.rint(samples.astype(np.float64) * _FULL_SCALE)
    return np.clip(steps, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def _level_db(samples: NDArray[np.float64]) -> float:
    power = float(np.mean(np.square(samples))) if len(samples) else 0.0
    return max(FLOOR_DB, 10 * float(np.log10(power))) if power > 0 else FLOOR_DB
