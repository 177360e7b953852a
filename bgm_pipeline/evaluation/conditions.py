"""What happens to a mixture on its way into a file, and what else may sound in it.

Where a condition is one of the file, the mixture goes into such a file and comes back as a broadcast does:
ffmpeg writes it, `bgm_pipeline.media` reads it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bgm_pipeline.errors import MediaError
from bgm_pipeline.evaluation.mixtures import Excerpt, TestSet, excerpt, mixer_of
from bgm_pipeline.media.downmix import CENTRE_GAIN, SURROUND_GAIN
from bgm_pipeline.media.extract import open_audio
from bgm_pipeline.media.ffmpeg import ChildError, run
from bgm_pipeline.media.probe import probe, select_audio
from bgm_pipeline.settings import MediaSettings
from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.training.codecs import in_place
from bgm_pipeline.training.mixing import active_rms, shaped_noise
from bgm_pipeline.types import Samples

CLEAN = "clean"
EFFECTS = "effects, 20 dB below the speech"

LEVELS_DB = (0, -10)
"""Music to speech, under every condition."""

_BELOW_SPEECH_DB = 20
_SURROUND = 0.5
_TIMEOUT_S = 60


def heard(tests: TestSet, condition: str, level_db: float, number: int) -> Excerpt:
    """The excerpt of that number under a condition.

    Raises:
        InputError: the split lacks speech or music, or other sounds where effects are asked for.
        MediaError: ffmpeg cannot write such a file, or is not installed.
    """
    made = excerpt(tests, level_db, number)
    if condition == CLEAN:
        return made
    return CONDITIONS[condition](made, tests, np.random.default_rng([tests.seed, number, 1]))


def possible(tests: TestSet) -> tuple[str, ...]:
    """Names of the conditions that a split can be heard under: effects want other sounds."""
    has_effects = bool(tests.corpus.select(tests.split, "other"))
    return tuple(name for name in CONDITIONS if name != EFFECTS or has_effects)


def through_file(channels: NDArray[np.float32], suffix: str, *encoding: str) -> Samples:
    """What the program hears of a file.

    Args:
        channels: ``(sample, channel)`` at 16 kHz: one, or six in the order of 5.1.
        suffix: of the file's name; ffmpeg chooses the container by it.
        encoding: arguments of ffmpeg for the output.

    Returns:
        ``(sample,)``, as many as were given, in their place in time.
    """
    layout = {1: "mono", 6: "5.1(side)"}[channels.shape[1]]
    pcm = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-channel_layout", layout, "-i", "pipe:0"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"mixture{suffix}"
        try:
            done = run(
                ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-threads", "1", *pcm]
                + [*encoding, str(path)],
                _TIMEOUT_S,
                np.ascontiguousarray(channels, np.float32).tobytes(),
            )
        except ChildError as error:
            raise MediaError(f"ffmpeg {error}") from None
        if done.code != 0:
            raise MediaError(f"ffmpeg could not write {path.name}: {done.complaints[-300:].strip()}")
        info = probe(path)
        with open_audio(info, select_audio(info), MediaSettings()) as reader:
            decoded = np.concatenate([block.samples for block in reader])
    return in_place(decoded, channels.sum(axis=1))


def _coded(made: Excerpt, _: TestSet, __: Generator, suffix: str, encoder: str, bit_rate: str) -> Excerpt:
    """The music that is asked for is the music as it was, before the codec."""
    encoding = ("-ar", "48000", "-c:a", encoder, "-b:a", bit_rate)
    return replace(made, mixture=through_file(made.mixture[:, None], suffix, *encoding))


def _resampled(made: Excerpt, _: TestSet, __: Generator, rate_hz: int) -> Excerpt:
    """The music that is asked for has gone the same way: what the rate cannot hold is nobody's fault."""
    mixture, music, speech = (
        through_file(part[:, None], ".wav", "-ar", str(rate_hz))
        for part in (made.mixture, made.music, made.speech)
    )
    return replace(made, mixture=mixture, music=music, speech=speech)


def _surround(made: Excerpt, _: TestSet, __: Generator) -> Excerpt:
    """Speech in the centre, music in front and, 6 dB softer, behind; downmixed, as loud as before."""
    centre = made.speech / CENTRE_GAIN
    front = made.music / (1 + _SURROUND * SURROUND_GAIN)
    back, lfe = _SURROUND * front, np.zeros_like(front)
    channels = np.stack([front, front, centre, lfe, back, back], axis=1)
    return replace(made, mixture=through_file(channels, ".ts", "-ar", "48000", "-c:a", "ac3", "-b:a", "448k"))


def _with_noise(made: Excerpt, _: TestSet, rng: Generator) -> Excerpt:
    return _with(made, shaped_noise(len(made.mixture), rng))


def _with_effects(made: Excerpt, tests: TestSet, rng: Generator) -> Excerpt:
    return _with(made, mixer_of(tests).effects(len(made.mixture), rng))


def _with(made: Excerpt, other: Samples) -> Excerpt:
    """Another sound, 20 dB below the speech."""
    gain = 10 ** (-_BELOW_SPEECH_DB / 20) * active_rms(made.speech) / active_rms(other)
    return replace(made, mixture=made.mixture + np.float32(gain) * other)


CONDITIONS: dict[str, Callable[[Excerpt, TestSet, Generator], Excerpt]] = {
    "MP2, 192 kbit/s": partial(_coded, suffix=".ts", encoder="mp2", bit_rate="192k"),
    "AAC, 96 kbit/s": partial(_coded, suffix=".mp4", encoder="aac", bit_rate="96k"),
    "AAC, 48 kbit/s": partial(_coded, suffix=".mp4", encoder="aac", bit_rate="48k"),
    "MP3, 64 kbit/s": partial(_coded, suffix=".mp3", encoder="libmp3lame", bit_rate="64k"),
    "8 kHz": partial(_resampled, rate_hz=8000),
    "22.05 kHz": partial(_resampled, rate_hz=22050),
    "48 kHz": partial(_resampled, rate_hz=48000),
    "5.1, AC-3": _surround,
    "noise, 20 dB below the speech": _with_noise,
    EFFECTS: _with_effects,
}
"""By their names in reports; all codecs at 48 kHz, mono but for 5.1."""
