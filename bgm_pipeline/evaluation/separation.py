"""How much nearer to the music an estimate is than the mixture, by level of the music."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bgm_pipeline.segments import cut_chunks
from bgm_pipeline.separation import Separator
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import SEGMENT_SAMPLES, s_to_samples
from bgm_pipeline.training.corpus import Corpus
from bgm_pipeline.training.losses import si_sdr_db
from bgm_pipeline.training.mixing import Mixer, MixingSettings, active_rms
from bgm_pipeline.types import Block, Samples

LEVELS_DB = (0, -10, -20, -30)
"""Music to speech, as the paper tests."""


@dataclass(frozen=True, slots=True)
class Quality:
    """SI-SDR of the music over the test mixtures of one level, dB."""

    level_db: int
    mixtures: int
    mixture_db: float
    """Of the mixture as it is: mean."""
    estimate_db: float
    """Of the estimate: mean ..."""
    interval_db: float
    """... plus or minus this, 95 % confidence."""


def measure(
    corpus: Corpus,
    split: str,
    separator: Separator,
    settings: Settings,
    count: int,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Quality]:
    """Separates `count` mixtures of 12 s at each of `LEVELS_DB`; every network gets the same ones."""
    mixer = Mixer(corpus, split, MixingSettings(equalised=0, other_speed=0, reverberant=0))
    context = s_to_samples(settings.separation.context_s)
    qualities = []
    for level_db in LEVELS_DB:
        pairs = []
        for index in range(count):
            mixture, music = speech_over_music(mixer, level_db, np.random.default_rng([seed, index]))
            chunk = next(cut_chunks([Block(0, mixture)], context))
            _, padded = next(separator.separate([chunk]))
            estimate = padded[context : context + SEGMENT_SAMPLES]
            pairs.append([_si_sdr(mixture, music), _si_sdr(estimate, music)])
            progress()
        before, after = np.array(pairs).T
        spread = 1.96 * float(after.std(ddof=1)) / np.sqrt(count) if count > 1 else float("nan")
        qualities.append(Quality(level_db, count, float(before.mean()), float(after.mean()), spread))
    return qualities


def speech_over_music(mixer: Mixer, level_db: float, rng: np.random.Generator) -> tuple[Samples, Samples]:
    """A mixture of 12 s and its music, at that level of the music to the speech; within full scale."""
    speech, music = mixer.talk(SEGMENT_SAMPLES, rng), mixer.play(SEGMENT_SAMPLES, rng)
    while active_rms(music) == 0:
        music = mixer.play(SEGMENT_SAMPLES, rng)
    music = music * np.float32(active_rms(speech) / active_rms(music) * 10 ** (level_db / 20))
    gain = np.float32(0.5 / max(float(np.abs(speech + music).max()), 1e-6))
    return (speech + music) * gain, music * gain


def _si_sdr(estimate: Samples, music: Samples) -> float:
    return float(si_sdr_db(torch.from_numpy(estimate)[None], torch.from_numpy(music)[None])[0])
