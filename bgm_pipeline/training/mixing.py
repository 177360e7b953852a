"""Training mixtures that sound like the air: music 0 to -30 dB under speech, ducked, equalised, alone,
starting and stopping, with other sounds and codec damage.

Every mixture follows from (seed, index) alone: a resumed training goes on with the very mixtures it
would have seen, and two networks can be shown the same ones.
"""

import math
from dataclasses import dataclass, fields
from functools import cache, cached_property

import numpy as np
import soundfile
from numpy.random import Generator
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.signal import butter, fftconvolve, sosfilt
from torch.utils.data import Dataset

from bgm_pipeline.errors import InputError
from bgm_pipeline.timebase import SAMPLE_RATE, SCORE_HOP_SAMPLES, s_to_samples
from bgm_pipeline.training.codecs import CODECS, through_codec
from bgm_pipeline.training.corpus import Clip, Corpus
from bgm_pipeline.training.synthesis import synthesise
from bgm_pipeline.transforms import hop_powers
from bgm_pipeline.types import Samples

MUSIC_TO_SPEECH_DB = (-30.0, 0.0)
"""Training range of the paper: the music is the signal, the speech the noise."""

AUDIBLE_DBFS = -60.0
"""Music is taken to play where its level within a quarter of a second is above this ..."""

AUDIBLE_BELOW_PEAK_DB = -45.0
"""... and above this, against its own loudest quarter of a second."""

_CALM_SHARE = 1 / 3

_LONG_SPEECH_S = 120.0
"""Speech that lasts longer is a recording, of which every part is as good as its beginning, and no utterance.
The longest utterance of the Debian packages lasts 86 s: no mixture of theirs depends on it."""

_OVER_A_TRACK = 0.5
"""Share of synthesised sounds that have a track beside them."""


@dataclass(frozen=True, slots=True)
class MixingSettings:
    """How often each thing happens; probabilities 0..1. What is left over is speech over music."""

    music_alone: float = 0.14
    speech_alone: float = 0.14
    neither: float = 0.05
    music_starts_or_stops: float = 0.2
    ducked: float = 0.35
    equalised: float = 0.4
    other_speed: float = 0.25
    """Tracks and speakers as a tape gives them that runs at another speed: other pitches and voices than the
    few that were recorded."""
    calm: float = 0.0
    """Tracks of the calm third: see `Mixer.calm`."""
    amid: float = 0.7
    """Speech that is amid an utterance when the mixture begins. Else the utterance begins less than a second
    before, and crops hold nothing but beginnings."""
    reverberant: float = 0.15
    """Speech in a room."""
    other_sounds: float = 0.25
    noise: float = 0.2
    hum: float = 0.05
    codec: float = 0.08
    coloured: float = 0.0
    """Tracks and speakers through a filter of random gains, see `colour`. Like the four settings below, it
    makes other voices and other instruments of the few that were recorded."""
    band_limited: float = 0.0
    """Speech that lacks what is low and what is high, as of telephones and old recordings."""
    far_speed: float = 0.0
    """Tracks and speakers at 0.7 to 1.4 of their speed."""
    two_voices: float = 0.0
    """A second speaker beside the first one."""
    two_tracks: float = 0.0
    """A second track over the first one."""
    narrow: float = 0.0
    """Tracks that lack what is outside a band of one to six octaves."""
    synthesised: float = 0.0
    """Sounds of synthesisers, in place of a track or over one."""
    cuts: float = 0.0
    """A hard cut from one such mixture to another, at another level."""


AS_RECORDED = MixingSettings(**{field.name: 0.0 for field in fields(MixingSettings)})
"""Speech over music and nothing besides: what programmes and test mixtures start from, so that what trainings
do to recordings never reaches them."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """One training example; arrays of shape ``(sample,)``, and ``playing`` of shape ``(score,)``."""

    mixture: Samples
    music: Samples
    playing: Samples
    """1 where music plays, 0 elsewhere; ten values a second."""
    level_db: float
    """Music to speech, dB; nan where one of them is missing, or where there is a cut."""


class MixtureDataset(Dataset[dict[str, Samples]]):
    """Mixtures by index, without end: `len` is what a caller asked for.

    Args:
        corpus: where the recordings are.
        split: "train", "valid" or "test".
        length_samples: of every mixture; its scores are the whole score hops in it.
        count: how many mixtures.
        seed: another seed, other mixtures.
        music_to_speech_db: range of the music's level to the speech's, dB.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        length_samples: int,
        count: int,
        seed: int,
        settings: MixingSettings | None = None,
        music_to_speech_db: tuple[float, float] = MUSIC_TO_SPEECH_DB,
    ) -> None:
        self.mixer = Mixer(corpus, split, settings or MixingSettings(), music_to_speech_db)
        self.length_samples, self.count, self.seed = length_samples, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Samples]:
        """``mixture`` and ``music`` as ``(1, sample)``, ``playing`` as ``(score,)``."""
        made = self.mixer.mix(self.length_samples, np.random.default_rng([self.seed, index]))
        return {"mixture": made.mixture[None], "music": made.music[None], "playing": made.playing}


class Mixer:
    """Draws recordings of one split and mixes them as a broadcast does."""

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        settings: MixingSettings,
        music_to_speech_db: tuple[float, float] = MUSIC_TO_SPEECH_DB,
    ) -> None:
        self.settings, self.music_to_speech_db = settings, music_to_speech_db
        self.folder = corpus.folder
        self.music = corpus.select(split, "music")
        self.other = corpus.select(split, "other")
        self.speakers: dict[str, list[Clip]] = {}
        for clip in corpus.select(split, "speech"):
            self.speakers.setdefault(clip.source, []).append(clip)

    def mix(self, length: int, rng: Generator) -> Mixture:
        """A mixture of `length` samples, its music, and where it plays."""
        hops = length // SCORE_HOP_SAMPLES
        if hops < 2 or not self.settings.cuts or rng.random() >= self.settings.cuts:
            return self.scene(length, rng)
        cut = int(rng.integers(1, hops)) * SCORE_HOP_SAMPLES
        before, after = self.scene(cut, rng), self.scene(length - cut, rng)
        mixture, music, playing = (
            np.concatenate([getattr(scene, name) for scene in (before, after)])
            for name in ("mixture", "music", "playing")
        )
        return Mixture(mixture, music, playing, float("nan"))

    def scene(self, length: int, rng: Generator) -> Mixture:
        """A mixture without a cut."""
        s = self.settings
        kind = rng.choice(
            ["both", "music", "speech", "neither"],
            p=[1 - s.music_alone - s.speech_alone - s.neither, s.music_alone, s.speech_alone, s.neither],
        )
        speech = self.talk(length, rng) if kind in ("both", "speech") else np.zeros(length, np.float32)
        music = self.play(length, rng) if kind in ("both", "music") else np.zeros(length, np.float32)
        level_db = float(rng.uniform(*self.music_to_speech_db)) if kind == "both" else float("nan")
        if kind == "both":
            speech_rms, music_rms = active_rms(speech), active_rms(music)
            if music_rms > 0 and speech_rms > 0:
                music *= np.float32(speech_rms / music_rms * 10 ** (level_db / 20))
            if rng.random() < s.ducked:
                music *= duck(speech, depth_db=rng.uniform(4, 15))
        if rng.random() < s.music_starts_or_stops:
            music *= start_or_stop(length, rng)
        mixture = music + speech
        if self.other and rng.random() < s.other_sounds + (kind == "neither") * 0.4:
            mixture += self.effects(length, rng)
        if rng.random() < s.noise + (kind == "neither") * 0.4:
            mixture += shaped_noise(length, rng)
        if s.hum and rng.random() < s.hum:
            mixture += mains_hum(length, rng)
        mixture, music = set_level(mixture, music, rng)
        if rng.random() < s.codec:
            mixture = through_codec(mixture, CODECS[rng.integers(len(CODECS))])
        return Mixture(mixture, music, playing(music), level_db)

    def play(self, length: int, rng: Generator) -> Samples:
        """A random span of a random track, sometimes of two, equalised or coloured; or of a synthesiser."""
        s = self.settings
        is_synthesised = s.synthesised and rng.random() < s.synthesised
        span = synthesise(length, rng) if is_synthesised else self.track(length, rng)
        if is_synthesised and rng.random() < _OVER_A_TRACK:
            span = beside(span, self.track(length, rng), rng)
        if s.narrow and rng.random() < s.narrow:
            span = narrow(span, rng)
        if s.two_tracks and rng.random() < s.two_tracks:
            span = beside(span, self.track(length, rng), rng)
        return span

    def track(self, length: int, rng: Generator) -> Samples:
        """A random span of a random track, every minute as likely as any other; sometimes equalised."""
        is_calm = self.settings.calm and rng.random() < self.settings.calm
        tracks = self.calm if is_calm else self.music
        durations = np.array([clip.duration_s for clip in tracks])
        clip = tracks[rng.choice(len(tracks), p=durations / durations.sum())]
        total = s_to_samples(clip.duration_s)
        speed = self.speed(rng)
        needed = math.ceil(length * speed) + (speed != 1)
        start = int(rng.integers(max(1, total - needed)))
        span = fit(at_speed(self.read(clip, start, needed), speed)[:length], length, rng)
        return self.filtered(span, rng)

    def talk(self, length: int, rng: Generator) -> Samples:
        """One speaker, sometimes two, as other voices, rooms and lines make them sound."""
        out = self.speaker(length, rng)
        if self.settings.two_voices and rng.random() < self.settings.two_voices:
            out = beside(out, self.speaker(length, rng), rng)
        if self.settings.band_limited and rng.random() < self.settings.band_limited:
            out = band_limit(out, rng)
        return out

    def speaker(self, length: int, rng: Generator) -> Samples:
        """Utterances of one speaker, joined with pauses of 50 to 400 ms; long ones begin anywhere."""
        clips = self.speakers[sorted(self.speakers)[rng.integers(len(self.speakers))]]
        out = np.zeros(length, np.float32)
        speed = self.speed(rng)
        at = -int(rng.integers(SAMPLE_RATE))
        is_amid = self.settings.amid and rng.random() < self.settings.amid
        while at < length:
            clip, start = clips[rng.integers(len(clips))], 0
            total = s_to_samples(clip.duration_s)
            if is_amid:
                at, start, is_amid = 0, int(rng.integers(total)), False
            elif clip.duration_s > _LONG_SPEECH_S:
                start = int(rng.integers(max(1, total - math.ceil((length - at) * speed))))
            words = at_speed(self.read(clip, start, math.ceil((length - at) * speed) + 1), speed)
            first, last = max(at, 0), min(at + len(words), length)
            if last > first:
                out[first:last] = words[first - at : last - at]
            at += len(words) + int(rng.uniform(0.05, 0.4) * SAMPLE_RATE)
        if self.settings.reverberant and rng.random() < self.settings.reverberant:
            out = in_a_room(out, rng)
        return self.filtered(out, rng)

    def filtered(self, samples: Samples, rng: Generator) -> Samples:
        """Sometimes equalised, sometimes coloured."""
        s = self.settings
        if rng.random() < s.equalised:
            samples = equalise(samples, rng)
        return colour(samples, rng) if s.coloured and rng.random() < s.coloured else samples

    def effects(self, length: int, rng: Generator) -> Samples:
        """One to four sounds that are neither speech nor music, at random times, speeds and levels."""
        out = np.zeros(length, np.float32)
        for _ in range(rng.integers(1, 5)):
            sound = self.read(self.other[rng.integers(len(self.other))])
            sound = at_speed(sound, float(2 ** rng.uniform(-0.8, 0.8)))[:length]
            at = int(rng.integers(max(1, length - len(sound))))
            rms = active_rms(sound)
            if rms > 0:
                out[at : at + len(sound)] += sound * np.float32(10 ** (rng.uniform(-40, -18) / 20) / rms)
        return out

    @cached_property
    def calm(self) -> tuple[Clip, ...]:
        """The third of the tracks that is quietest and whose level changes least from tenth to tenth of a
        second: ambient music, which an ear for beats and melodies misses."""

        def change_db(clip: Clip) -> float:
            start = max(0, s_to_samples(clip.duration_s / 2 - 15))
            power = hop_powers(self.read(clip, start, s_to_samples(30))) + 1e-10
            return float(np.abs(np.diff(10 * np.log10(power))).mean())

        measured = [np.array([f(clip) for clip in self.music]) for f in (lambda clip: clip.rms_db, change_db)]
        rank = sum(values.argsort().argsort() for values in measured)
        chosen = np.argsort(rank, kind="stable")[: max(1, round(len(self.music) * _CALM_SHARE))]
        return tuple(self.music[at] for at in sorted(chosen))

    def speed(self, rng: Generator) -> float:
        """Of the next track or speaker; 1 as recorded."""
        if self.settings.far_speed and rng.random() < self.settings.far_speed:
            return float(2 ** rng.uniform(-0.5, 0.5))
        if not self.settings.other_speed or rng.random() >= self.settings.other_speed:
            return 1.0
        return float(rng.uniform(0.85, 1.18))

    def read(self, clip: Clip, start: int = 0, length: int = -1) -> Samples:
        """Samples of a recording of the corpus.

        Raises:
            InputError: there is no such file, or none that can be read.
        """
        path = self.folder / clip.path
        try:
            samples, _ = soundfile.read(path, length, start, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path}: {error.error_string} build the corpus anew") from error
        return samples


def at_speed(samples: Samples, speed: float) -> Samples:
    """Plays faster and higher, or slower and lower, as a tape does; few sounds become many."""
    if speed == 1:
        return samples
    at = np.arange(0, len(samples) - 1, speed)
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)


def fit(span: Samples, length: int, rng: Generator) -> Samples:
    """Puts a span that is too short somewhere into `length` samples of silence."""
    if len(span) == length:
        return span
    out = np.zeros(length, np.float32)
    at = int(rng.integers(length - len(span) + 1))
    out[at : at + len(span)] = span
    return out


def active_rms(samples: Samples) -> float:
    """RMS over the parts that are not silent (less than 40 dB below the loudest 100 ms)."""
    power = uniform_filter1d(samples.astype(np.float64) ** 2, SCORE_HOP_SAMPLES)[:: SCORE_HOP_SAMPLES // 2]
    peak = power.max(initial=0.0)
    return float(np.sqrt(power[power > peak * 1e-4].mean())) if peak > 1e-12 else 0.0


def duck(speech: Samples, depth_db: float) -> Samples:
    """Gain of music that fades down while somebody speaks: 0.3 s to fall, 0.8 s of hold."""
    step = SCORE_HOP_SAMPLES
    power = uniform_filter1d(speech**2, step)[::step]
    talking = (power > power.max(initial=0.0) * 1e-3).astype(np.float32)
    talking = uniform_filter1d(maximum_filter1d(talking, 9), 4)
    gain_db = -depth_db * np.interp(np.arange(len(speech)), np.arange(len(talking)) * step, talking)
    return (10 ** (gain_db / 20)).astype(np.float32)


def start_or_stop(length: int, rng: Generator) -> Samples:
    """Gain of music that starts, or stops, somewhere inside; cut hard or faded within 2 s."""
    at = int(rng.uniform(0.1, 0.9) * length)
    fade = int(10 ** rng.uniform(-2, 0.3) * SAMPLE_RATE)
    gain = np.clip((np.arange(length) - at) / fade, 0, 1).astype(np.float32)
    return gain if rng.random() < 0.5 else gain[::-1].copy()


@cache
def _shelf(cutoff_hz: int, kind: str) -> np.ndarray:
    return np.asarray(butter(1, cutoff_hz, kind, fs=SAMPLE_RATE, output="sos"))


def equalise(samples: Samples, rng: Generator) -> Samples:
    """Adds or takes away up to 9 dB below one and above another frequency."""
    low = sosfilt(_shelf(int(rng.choice([150, 300, 500])), "low"), samples)
    high = sosfilt(_shelf(int(rng.choice([1500, 2500, 4000])), "high"), samples)
    bass, treble = 10 ** (rng.uniform(-9, 9, 2) / 20) - 1
    return np.asarray(samples + bass * low + treble * high, dtype=np.float32)


def colour(samples: Samples, rng: Generator) -> Samples:
    """Through a filter without phase: a random gain of -12 to 12 dB at every octave from 63 Hz to 8 kHz, and
    straight lines between them."""
    octaves = np.log2(np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE).clip(62.5) / 62.5)
    gains_db = np.interp(octaves, np.arange(8), rng.uniform(-12, 12, 8))
    return np.fft.irfft(np.fft.rfft(samples) * 10 ** (gains_db / 20), len(samples)).astype(np.float32)


def band_limit(samples: Samples, rng: Generator) -> Samples:
    """Without what is below 60 to 400 Hz and above 3 to 7 kHz."""
    edges_hz = 60 * (400 / 60) ** rng.random(), rng.uniform(3000, 7000)
    return _within(samples, 4, edges_hz)


def narrow(samples: Samples, rng: Generator) -> Samples:
    """Without what is outside a band of one to six octaves, which begins anywhere from 20 Hz to 3 kHz."""
    low_hz = 20 * 150 ** rng.random()
    high_hz = min(low_hz * 2 ** rng.uniform(1, 6), 0.49 * SAMPLE_RATE)
    return _within(samples, int(rng.integers(1, 5)), (low_hz, high_hz))


def _within(samples: Samples, order: int, edges_hz: tuple[float, float]) -> Samples:
    band = butter(order, edges_hz, "bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(sosfilt(band, samples), dtype=np.float32)


def beside(first: Samples, second: Samples, rng: Generator) -> Samples:
    """Adds a second sound, up to 12 dB below the first one."""
    first_rms, second_rms = active_rms(first), active_rms(second)
    if second_rms == 0:
        return first
    return first + second * np.float32(first_rms / second_rms * 10 ** (rng.uniform(-12, 0) / 20))


def shaped_noise(length: int, rng: Generator) -> Samples:
    """Noise with a spectrum between white and brown, -70 to -30 dB of full scale."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, length)
    return np.asarray(noise * (10 ** (rng.uniform(-70, -30) / 20) / noise.std()), dtype=np.float32)


def mains_hum(length: int, rng: Generator) -> Samples:
    """50 or 60 Hz and their multiples, each a little weaker or stronger, -75 to -40 dB of full scale."""
    at = np.arange(length) / SAMPLE_RATE
    partials = np.arange(1, rng.integers(3, 16)) * rng.choice([50, 60])
    weights = rng.uniform(0, 1, len(partials)) * rng.uniform(0.5, 1) ** np.arange(len(partials))
    phases = rng.uniform(0, 2 * np.pi, len(partials))
    hum = sum(w * np.sin(2 * np.pi * hz * at + p) for w, hz, p in zip(weights, partials, phases, strict=True))
    return np.asarray(hum * (10 ** (rng.uniform(-75, -40) / 20) / hum.std()), dtype=np.float32)


def in_a_room(samples: Samples, rng: Generator) -> Samples:
    """With an echo of noise that decays by 60 dB within 0.15 to 1 s, 0 to 15 dB below the direct sound."""
    decay_s = float(rng.uniform(0.15, 1.0))
    at = np.arange(round(decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    echo = rng.standard_normal(len(at)) * 10 ** (-3 * at / decay_s)
    echo *= 10 ** (-rng.uniform(0, 15) / 20) / np.sqrt((echo**2).sum())
    return np.asarray(samples + fftconvolve(samples, echo)[: len(samples)], dtype=np.float32)


def set_level(mixture: Samples, music: Samples, rng: Generator) -> tuple[Samples, Samples]:
    """Brings the mixture to a level between -38 and -12 dB of full scale, never over full scale."""
    rms = active_rms(mixture)
    if rms == 0:
        return mixture, music
    gain = min(10 ** (rng.uniform(-38, -12) / 20) / rms, 0.99 / float(np.abs(mixture).max()))
    return mixture * np.float32(gain), music * np.float32(gain)


def playing(music: Samples) -> Samples:
    """Where music can be heard: ``(score,)``, 1 or 0, one value for each whole score hop."""
    hops = len(music) // SCORE_HOP_SAMPLES
    power = (music[: hops * SCORE_HOP_SAMPLES].reshape(hops, -1).astype(np.float64) ** 2).mean(axis=1)
    around = maximum_filter1d(power, 5)
    floor = max(10 ** (AUDIBLE_DBFS / 10), around.max(initial=0.0) * 10 ** (AUDIBLE_BELOW_PEAK_DB / 10))
    return np.asarray(around > floor, dtype=np.float32)
