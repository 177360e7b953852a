"""Synthesised sounds follow from their seed, stay in range, and are what their names say."""

import numpy as np
import pytest
from scipy.signal import stft

from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.training.mixing import active_rms
from bgm_pipeline.training.synthesis import swept_noise, synthesise, tone, tones, wander

LENGTH = 4 * SAMPLE_RATE


@pytest.mark.parametrize("length", [100, 4_096, LENGTH])
def test_a_sound_follows_from_its_seed_and_is_loud_enough_to_be_heard(length: int) -> None:
    made = [synthesise(length, np.random.default_rng(seed)) for seed in range(20)]
    again = synthesise(length, np.random.default_rng(7))
    assert np.array_equal(made[7], again)
    assert not np.array_equal(made[7], made[8])
    assert all(one.shape == (length,) and np.isfinite(one).all() for one in made)
    if length == LENGTH:
        assert all(-30 < 20 * np.log10(active_rms(one)) < -5 for one in made)


def test_swept_noise_is_in_few_bins_at_a_time() -> None:
    """Of white noise, the loudest tenth of the bins would hold a third of the power."""
    for seed in range(10):
        power = np.abs(stft(swept_noise(LENGTH, np.random.default_rng(seed)), nperseg=512)[2]) ** 2
        loudest = np.sort(power, axis=None)[-power.size // 10 :]
        assert loudest.sum() > 0.5 * power.sum()


def test_a_tone_has_the_multiples_of_its_pitch_and_nothing_else() -> None:
    made = tone(200.0, 1.0, 0.0, np.arange(SAMPLE_RATE), np.random.default_rng(0))
    power = np.abs(np.fft.rfft(made)) ** 2  # a bin is 1 Hz
    harmonics = np.add.outer(np.arange(200, 8000, 200), np.arange(-3, 4)).ravel()
    assert power[harmonics].sum() > 0.99 * power.sum()
    assert power[198:203].sum() > power[398:403].sum()


def test_a_tone_glides() -> None:
    made = tone(200.0, 8.0, 0.5, np.arange(2 * SAMPLE_RATE), np.random.default_rng(0))
    # Within such a quarter of a second the pitch rises by 9 %.
    peaks_hz = [4 * np.abs(np.fft.rfft(made[at : at + SAMPLE_RATE // 4])).argmax() for at in (0, 28_000)]
    assert peaks_hz[0] == pytest.approx(200 * 2 ** (0.5 * 0.125), abs=15)
    assert peaks_hz[1] == pytest.approx(200 * 2 ** (0.5 * 1.875), abs=15)


def test_tones_are_harmonic_where_white_noise_is_not() -> None:
    for seed in range(10):
        power = np.abs(stft(tones(LENGTH, np.random.default_rng(seed)), nperseg=2048)[2]) ** 2
        assert np.sort(power, axis=None)[-power.size // 10 :].sum() > 0.7 * power.sum()


def test_what_wanders_stays_in_its_range() -> None:
    for seed in range(50):
        values = wander(300, -60.0, 20.0, np.random.default_rng(seed))
        assert values.shape == (300,)
        assert -60 <= values.min() < values.max() <= 20
