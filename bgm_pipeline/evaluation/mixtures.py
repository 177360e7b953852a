"""Test mixtures: somebody speaks over music, and all is known of it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from bgm_pipeline.errors import InputError
from bgm_pipeline.timebase import SEGMENT_SAMPLES, s_to_samples
from bgm_pipeline.training.corpus import Corpus, load_corpus
from bgm_pipeline.training.mixing import AS_RECORDED, Mixer, active_rms
from bgm_pipeline.types import Samples

LEVELS_DB = (0, -10, -20, -30)
"""Music to speech: the paper tests the first two."""

_PEAK = 0.5


@dataclass(frozen=True, slots=True)
class TestSet:
    """Which mixtures: the same ones for every system, and the same excerpts at every level."""

    __test__ = False

    folder: Path
    """Of the corpus."""
    split: str
    count: int
    """At each level."""
    seed: int = 11

    @property
    def corpus(self) -> Corpus:
        """Its corpus, read once in every process."""
        return _corpus(self.folder)

    def identity(self) -> str:
        """What decides about the mixtures, but for their number, and about the catalogue."""
        return f"{self.split} {self.seed} {self.corpus.identity()}"


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A mixture of 12 s, its music and its speech; arrays of shape ``(sample,)``."""

    mixture: Samples
    music: Samples
    speech: Samples
    track: str
    """File of the music, below the corpus."""
    start_samples: int
    """Where in its track the music begins."""


def excerpt(tests: TestSet, level_db: float, number: int) -> Excerpt:
    """The excerpt of that number, with the music at that level to the speech; within full scale.

    Raises:
        InputError: the split has no speech, or no track of 12 s.
    """
    mixer, rng = mixer_of(tests), np.random.default_rng([tests.seed, number])
    tracks = [clip for clip in mixer.music if s_to_samples(clip.duration_s) >= SEGMENT_SAMPLES]
    if not tracks or not mixer.speakers:
        raise InputError(f"{tests.folder}: split {tests.split!r} needs speech, and music of 12 s or more")
    durations = np.array([clip.duration_s for clip in tracks])
    speech = music = np.zeros(0, np.float32)
    while active_rms(speech) == 0:
        speech = mixer.talk(SEGMENT_SAMPLES, rng)
    while active_rms(music) == 0:
        clip = tracks[rng.choice(len(tracks), p=durations / durations.sum())]
        start = int(rng.integers(s_to_samples(clip.duration_s) - SEGMENT_SAMPLES + 1))
        music = mixer.read(clip, start, SEGMENT_SAMPLES)
    music = music * np.float32(active_rms(speech) / active_rms(music) * 10 ** (level_db / 20))
    gain = np.float32(_PEAK / float(np.abs(speech + music).max()))
    music, speech = music * gain, speech * gain
    return Excerpt(speech + music, music, speech, clip.path.as_posix(), start)


def mixer_of(tests: TestSet) -> Mixer:
    """The recordings of its split, left as they are; read once in every process."""
    return _mixer(tests.folder, tests.split)


@cache
def _corpus(folder: Path) -> Corpus:
    return load_corpus(folder)


@cache
def _mixer(folder: Path, split: str) -> Mixer:
    return Mixer(_corpus(folder), split, AS_RECORDED)
