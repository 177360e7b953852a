"""Sounds of synthesisers, of which recordings that may be shared hold few: swept noise, and tones.

A network that has only heard instruments takes a swell of noise for noise, and a plucked low tone for a
voice, and silences both. Everything here is drawn at random: nothing is learnt by heart.
"""

import math

import numpy as np
from numpy.random import Generator
from scipy.signal import istft, stft

from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.types import Samples

_FRAME_SAMPLES = 512
_TABLE = 2048
"""Samples of one period of a tone."""


def synthesise(length: int, rng: Generator) -> Samples:
    """One or two layers of swept noise or tones, the second up to 12 dB below the first; ``(length,)``, about
    -20 dB of full scale where they sound."""
    out = np.zeros(length, np.float32)
    for depth_db in (0.0, rng.uniform(0, 12))[: int(rng.integers(1, 3))]:
        layer = (swept_noise if rng.random() < 0.4 else tones)(length, rng)
        out += layer * np.float32(0.1 * 10 ** (-depth_db / 20) / (layer.std() + 1e-9))
    return out


def swept_noise(length: int, rng: Generator) -> Samples:
    """White noise through a band whose edges wander, and which swells, fades and breaks off.

    Returns:
        ``(length,)``, at no level in particular.
    """
    window = min(_FRAME_SAMPLES, length)
    hz, _, noise = stft(rng.standard_normal(length), SAMPLE_RATE, nperseg=window)
    frames = noise.shape[1]
    octaves = np.log2(np.maximum(hz, 1))[:, None]
    low = wander(frames, math.log2(20), math.log2(4000), rng)
    high = low + wander(frames, 0.3, 5, rng)
    outside = np.maximum(0, low - octaves) + np.maximum(0, octaves - high)
    gain_db = -outside * rng.uniform(12, 72) + wander(frames, -60, 20, rng).clip(max=0)
    _, out = istft(noise * 10 ** (gain_db / 20), SAMPLE_RATE, nperseg=window)
    return np.asarray(out[:length], dtype=np.float32)


def tones(length: int, rng: Generator) -> Samples:
    """Tones of a few pitches from 40 Hz to 1 kHz, to a beat, plucked or held, bright or dull.

    Returns:
        ``(length,)``, at no level in particular.
    """
    beat = SAMPLE_RATE * 2 ** rng.uniform(-3, 1.5)
    decay_s, attack_s = 2 ** rng.uniform(-3.5, 2), 2 ** rng.uniform(-9, -2)
    pitches_hz = 40 * 2 ** rng.uniform(0, 4.6, rng.integers(1, 6))
    slope, glide = rng.uniform(0.3, 2.5), rng.normal(0, 0.05) * (rng.random() < 0.3)
    out = np.zeros(length, np.float32)
    at = -int(rng.uniform(0, beat))
    while at < length:
        since = np.arange(max(at, 0), min(length, at + int(6 * decay_s * SAMPLE_RATE))) - at
        if len(since) and rng.random() < 0.85:
            envelope = np.minimum(1, since / (attack_s * SAMPLE_RATE)) * np.exp(
                -since / (decay_s * SAMPLE_RATE)
            )
            note = tone(float(rng.choice(pitches_hz)), slope, glide, since, rng)
            out[at + since[0] : at + since[0] + len(since)] += envelope * note
        at += max(1, int(beat * rng.choice([0.5, 1, 1, 2])))
    return out


def tone(pitch_hz: float, slope: float, glide: float, since: np.ndarray, rng: Generator) -> Samples:
    """Harmonics that fall by a power of their number, below 8 kHz.

    Args:
        slope: that power.
        glide: octaves a second by which the pitch rises.
        since: samples since the tone began, ``(sample,)``.
    """
    numbers = np.arange(1, max(2, int(SAMPLE_RATE / 2 / pitch_hz / 2 ** abs(glide))))[: _TABLE // 2 - 1]
    spectrum = np.zeros(_TABLE // 2 + 1, complex)
    weights = numbers**-slope * rng.uniform(0.2, 1, len(numbers))
    spectrum[numbers] = weights * np.exp(2j * np.pi * rng.random(len(numbers)))
    period = np.fft.irfft(spectrum)
    s = since / SAMPLE_RATE
    cycles = pitch_hz * (s if glide == 0 else (2 ** (glide * s) - 1) / (glide * math.log(2)))
    return np.asarray(period[(cycles * _TABLE).astype(np.int64) % _TABLE] / period.std(), dtype=np.float32)


def wander(frames: int, least: float, most: float, rng: Generator) -> np.ndarray:
    """Straight lines, and now and then jumps, between values drawn from a range; ``(frames,)``."""
    count = int(rng.integers(2, max(3, frames // 15)))
    at = np.sort(rng.uniform(0, frames, count))
    values = rng.uniform(least, most, count)
    jumps = rng.random(count) < 0.3
    at = np.concatenate([at, at[1:][jumps[1:]] - 0.5])
    values = np.concatenate([values, values[:-1][jumps[1:]]])
    order = np.argsort(at, kind="stable")
    return np.interp(np.arange(frames), at[order], values[order])
