"""Pseudo-broadcasts: programmes put together from a corpus, of which it is known when music plays and how
loud it is against the speech. The demo shows one; detection is judged by others.

The same corpus, script and seed give the same samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bgm_pipeline.detection import ratio_db
from bgm_pipeline.errors import InputError
from bgm_pipeline.timebase import SAMPLE_RATE, SCORE_HOP_SAMPLES, s_to_samples
from bgm_pipeline.training.clips import PEAK_LIMIT
from bgm_pipeline.training.corpus import Corpus
from bgm_pipeline.training.mixing import (
    AS_RECORDED,
    Mixer,
    active_rms,
    duck,
    playing,
    shaped_noise,
)
from bgm_pipeline.types import Samples

Kind = Literal["ordinary", "quiet"]
"""What a broadcast has all day; and ambient music, also very quiet and slowly faded, easily missed."""

What = Literal["speech", "noise", "effects", "music"]

LEVELS_DB = (0, -5, -10, -15, -20, -25)
"""Music to speech, where somebody speaks over music."""

_CUT_S = 0.01
_DRAWS = 20
_SOUNDING_SHARE = 0.9
_EFFECTS_EVERY_S = 5.0
_SHORTEST_HOPS = 20

Sounds = NDArray[np.float32]
Stretch = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Part:
    """One item of a programme's script. Stretches are shares of its length, from and to."""

    what: str
    """What is heard, in words."""
    duration_s: float
    """Rounded to whole score hops."""
    music: Stretch | None = None
    speech: Stretch | None = None
    music_to_speech_db: float | None = None
    """Power of the music against the speech while both are on; None: `music_db` holds throughout."""
    music_db: float = -23.0
    """RMS of the music where it sounds, dB of full scale; of no effect where there is a level to speech."""
    duck_db: float = 0.0
    """By how much the music goes down while somebody speaks."""
    fade_in_s: float = _CUT_S
    fade_out_s: float = _CUT_S
    two_tracks: bool = False
    """One track is cross-faded into another halfway."""
    calm: bool = False
    """Drawn from the third of the split's tracks that is quietest and changes least."""
    effects: bool = False
    noise: bool = False


@dataclass(frozen=True, slots=True)
class TruthSpan:
    """A span in which music is audible."""

    start_samples: int
    end_samples: int
    music_to_speech_db: float | None
    """Power of the music over the power of the speech in this span; none where nobody speaks."""


@dataclass(frozen=True, slots=True)
class PlacedPart:
    """Where a part of the script came to lie."""

    start_samples: int
    end_samples: int
    part: Part


@dataclass(frozen=True)
class PseudoBroadcast:
    """A programme and its truth; arrays of shape ``(sample,)``, 16 kHz mono, within full scale."""

    mixture: Samples
    music: Samples
    speech: Samples
    truth: tuple[TruthSpan, ...]
    """In the order of time; cut where a part begins, and where speech over the music begins and ends."""
    playing: Samples
    """1 where music is audible, else 0: ``(score,)``, ten a second."""
    parts: tuple[PlacedPart, ...]

    @cached_property
    def events(self) -> tuple[tuple[int, int], ...]:
        """`truth` without the cuts: (start_samples, end_samples) of every span in which music goes on."""
        return tuple(
            (first * SCORE_HOP_SAMPLES, last * SCORE_HOP_SAMPLES) for first, last in _runs(self.playing)
        )


def compose(corpus: Corpus, split: str, kind: Kind, duration_s: float, seed: int) -> PseudoBroadcast:
    """A programme of `duration_s` with every sort of part, in an order and with cuts that the seed decides.

    Raises:
        InputError: no such kind, or the split lacks music or speech.
    """
    if kind not in get_args(Kind):
        raise InputError(
            f"no kind of pseudo-broadcast is called {kind!r}; there are {', '.join(get_args(Kind))}"
        )
    rng = np.random.default_rng([seed, get_args(Kind).index(kind)])
    has_effects = bool(corpus.select(split, "other"))
    deck = _decks(kind, has_effects, rng)
    return arrange(corpus, split, _fill(deck, duration_s), seed)


def only(corpus: Corpus, split: str, what: What, duration_s: float, seed: int) -> PseudoBroadcast:
    """Nothing but speech, noise, effects or music for `duration_s`, in parts of 12 s.

    Raises:
        InputError: there is nothing of that in the split.
    """
    whole = (0.0, 1.0)
    part = Part(f"{what} alone", 12.0)
    match what:
        case "speech":
            part = replace(part, speech=whole)
        case "music":
            part = replace(part, music=whole)
        case "noise":
            part = replace(part, noise=True)
        case "effects":
            part = replace(part, effects=True)
        case _:
            raise InputError(f"no sound is called {what!r}; there are {', '.join(get_args(What))}")
    return arrange(corpus, split, _fill(iter(lambda: part, None), duration_s), seed)


def under_speech(
    corpus: Corpus, split: str, level_db: float, duration_s: float, seed: int
) -> PseudoBroadcast:
    """Somebody speaks over music all the time, in parts of 12 s; the music lies `level_db` above the speech.

    Raises:
        InputError: the split lacks music or speech.
    """
    part = _over(level_db, 12.0, duck_db=0)
    return arrange(corpus, split, _fill(iter(lambda: part, None), duration_s), seed)


def arrange(corpus: Corpus, split: str, script: Sequence[Part], seed: int) -> PseudoBroadcast:
    """A programme after a script; the recordings, and the spans of them, are drawn from a corpus' split.

    Raises:
        InputError: the split lacks what the script asks for.
    """
    for kind, wanted in (
        ("music", any(part.music for part in script)),
        ("speech", any(part.speech for part in script)),
        ("other", any(part.effects for part in script)),
    ):
        if wanted and not corpus.select(split, kind):  # type: ignore[arg-type]
            raise InputError(f"{corpus.folder}: its {split} split has no {kind}; use another split or corpus")
    studio = _Studio(corpus, split)
    rendered = [studio.render(part, np.random.default_rng([seed, at])) for at, part in enumerate(script)]
    borders = np.cumsum([0, *(sounds.shape[1] for sounds in rendered)]).tolist()
    truth: list[TruthSpan] = []
    for start, part, sounds in zip(borders[:-1], script, rendered, strict=True):
        truth += _truth_of(part, sounds, start)
    music, speech, other = np.concatenate([np.zeros((3, 0), np.float32), *rendered], axis=1)
    audible = np.zeros(borders[-1] // SCORE_HOP_SAMPLES, np.float32)
    for span in truth:
        audible[span.start_samples // SCORE_HOP_SAMPLES : span.end_samples // SCORE_HOP_SAMPLES] = 1
    placed = (PlacedPart(*ends, part) for ends, part in zip(pairwise(borders), script, strict=True))
    return PseudoBroadcast(music + speech + other, music, speech, tuple(truth), audible, tuple(placed))


class _Studio:
    """The recordings of a split, and how a part is made of them."""

    def __init__(self, corpus: Corpus, split: str) -> None:
        settings = replace(AS_RECORDED, equalised=0.25)
        self.all = Mixer(corpus, split, settings)
        self._split = (corpus, split, settings)

    @cached_property
    def calm(self) -> Mixer:
        mixer = Mixer(*self._split)
        mixer.music = mixer.calm
        return mixer

    def render(self, part: Part, rng: Generator) -> Sounds:
        """Music, speech and other sounds of a part, ``(3, sample)``; their sum is within full scale."""
        length = max(1, round(part.duration_s * SAMPLE_RATE / SCORE_HOP_SAMPLES)) * SCORE_HOP_SAMPLES
        sounds = np.zeros((3, length), np.float32)
        music, speech, other = sounds
        talking, sounding = _slice(part.speech, length), _slice(part.music, length)
        if part.speech:
            speech[talking] = self.all.talk(talking.stop - talking.start, rng)
            speech *= np.float32(10 ** (rng.uniform(-2, 2) / 20))
        if part.music:
            music[sounding] = self._play(part, sounding.stop - sounding.start, rng)
            if part.duck_db:
                music *= duck(speech, part.duck_db)
            both = slice(max(talking.start, sounding.start), min(talking.stop, sounding.stop))
            music *= np.float32(_gain(part, music, speech, both))
        if part.effects:
            step = s_to_samples(_EFFECTS_EVERY_S)
            for at in range(0, length, step):
                other[at : at + step] += self.all.effects(min(step, length - at), rng)
        if part.noise:
            other += shaped_noise(length, rng)
        peak = float(np.abs(sounds.sum(axis=0)).max())
        return sounds * np.float32(PEAK_LIMIT / max(PEAK_LIMIT, peak))

    def _play(self, part: Part, length: int, rng: Generator) -> Samples:
        mixer = self.calm if part.calm else self.all
        music = _sounding(mixer, length, rng)
        if part.two_tracks:
            fade = min(s_to_samples(rng.uniform(1, 4)), length)
            rising = np.clip((np.arange(length) - (length - fade) // 2) / fade, 0, 1).astype(np.float32)
            other = _sounding(mixer, length, rng)
            other *= np.float32(active_rms(music) / (active_rms(other) or 1.0))
            music = music * (1 - rising) + other * rising
        at = np.arange(length)
        rise = at / max(1, s_to_samples(part.fade_in_s))
        fall = (length - 1 - at) / max(1, s_to_samples(part.fade_out_s))
        return music * np.clip(np.minimum(rise, fall), 0, 1).astype(np.float32)


def _sounding(mixer: Mixer, length: int, rng: Generator) -> Samples:
    """A span of a track that is not half silent, if some draws find one."""
    for _ in range(_DRAWS):
        music = mixer.play(length, rng)
        if playing(music).mean() >= _SOUNDING_SHARE:
            break
    return music


def _gain(part: Part, music: Samples, speech: Samples, both: slice) -> float:
    if part.music_to_speech_db is not None and both.start < both.stop:
        now, wanted = ratio_db(_power(music[both]), _power(speech[both])), part.music_to_speech_db
        return 1.0 if now is None else 10 ** ((wanted - now) / 20)
    rms = active_rms(music)
    return 10 ** (part.music_db / 20) / rms if rms > 0 else 1.0


def _truth_of(part: Part, sounds: Sounds, start: int) -> Iterator[TruthSpan]:
    music, speech, _ = sounds
    # Each piece of music is heard by its own loudness, as the detector learns it: not by the programme's.
    audible = playing(music)
    talking = _slice(part.speech, len(music))
    cuts = sorted({0, talking.start // SCORE_HOP_SAMPLES, talking.stop // SCORE_HOP_SAMPLES, len(audible)})
    for first, last in pairwise(cuts):
        for begin, end in _runs(audible[first:last]):
            span = slice((first + begin) * SCORE_HOP_SAMPLES, (first + end) * SCORE_HOP_SAMPLES)
            ratio = ratio_db(_power(music[span]), _power(speech[span]))
            yield TruthSpan(start + span.start, start + span.stop, ratio)


def _decks(kind: Kind, has_effects: bool, rng: Generator) -> Iterator[Part]:
    """Every sort of part once in an order of chance, and again, without end."""
    while True:
        deck = list(chain(_everyday(rng, has_effects), _ordinary(rng) if kind == "ordinary" else _quiet(rng)))
        for at in rng.permutation(len(deck)):
            yield deck[at]


def _everyday(rng: Generator, has_effects: bool) -> Iterator[Part]:
    """Without music."""
    whole = (0.0, 1.0)
    yield Part("speech alone", rng.uniform(10, 25), speech=whole)
    yield Part("speech alone", rng.uniform(5, 12), speech=whole)
    yield Part("silence", rng.uniform(3, 7))
    yield Part("noise", rng.uniform(5, 12), noise=True)
    yield Part("speech in noise", rng.uniform(5, 12), speech=whole, noise=True)
    if has_effects:
        yield Part("effects alone", rng.uniform(6, 12), effects=True)
        yield Part("speech with effects", rng.uniform(5, 12), speech=whole, effects=True)


def _ordinary(rng: Generator) -> Iterator[Part]:
    whole = (0.0, 1.0)
    yield Part("music alone", rng.uniform(12, 30), music=whole, music_db=rng.uniform(-28, -18))
    yield Part("music alone", rng.uniform(5, 12), music=whole, music_db=rng.uniform(-28, -18), fade_out_s=2)
    yield Part("quiet music alone", rng.uniform(8, 16), music=whole, music_db=rng.uniform(-45, -32))
    yield Part("cross-fade", rng.uniform(10, 20), music=whole, two_tracks=True)
    for _ in range(2):
        yield Part("jingle", rng.uniform(2, 5), music=whole, music_db=-18, fade_out_s=0.3)
    for level_db in LEVELS_DB:
        duck_db = rng.uniform(4, 12) if rng.random() < 0.4 else 0.0
        yield _over(level_db, rng.uniform(8, 18), duck_db)
    start, stop = sorted(rng.uniform([0.1, 0.55], [0.45, 0.9]))
    yield Part(
        "music starts and stops under speech",
        rng.uniform(10, 20),
        music=(start, stop),
        speech=whole,
        music_to_speech_db=rng.uniform(-15, 0),
        fade_in_s=rng.uniform(0.01, 2),
        fade_out_s=rng.uniform(0.01, 2),
    )
    yield Part(
        "music, speech over it, music",
        rng.uniform(15, 25),
        music=whole,
        speech=(start, stop),
        music_to_speech_db=rng.uniform(-18, -8),
        duck_db=rng.uniform(6, 12),
    )
    yield Part("music starts and stops", rng.uniform(8, 15), music=(start, stop))


def _quiet(rng: Generator) -> Iterator[Part]:
    whole = (0.0, 1.0)
    for music_db in (-26, -35, -40, -45, -50):
        yield Part(
            f"ambient music alone, {music_db} dBFS",
            rng.uniform(12, 25),
            music=whole,
            music_db=music_db,
            fade_in_s=rng.uniform(1, 8),
            fade_out_s=rng.uniform(1, 8),
            calm=True,
        )
    yield Part("ambient cross-fade", rng.uniform(12, 25), music=whole, two_tracks=True, calm=True)
    for level_db in LEVELS_DB[1::2]:
        duck_db = rng.uniform(4, 12) if rng.random() < 0.4 else 0.0
        yield replace(_over(level_db, rng.uniform(8, 18), duck_db), calm=True)


def _over(level_db: float, duration_s: float, duck_db: float) -> Part:
    whole = (0.0, 1.0)
    what = f"speech over music, {level_db:g} dB{', ducked' if duck_db else ''}"
    return Part(what, duration_s, music=whole, speech=whole, music_to_speech_db=level_db, duck_db=duck_db)


def _fill(parts: Iterator[Part], duration_s: float) -> list[Part]:
    """Parts up to a duration; the last one ends with it."""
    script: list[Part] = []
    left = round(duration_s * SAMPLE_RATE / SCORE_HOP_SAMPLES)
    while left > 0:
        part = next(parts)
        hops = round(part.duration_s * SAMPLE_RATE / SCORE_HOP_SAMPLES)
        hops = hops if left - hops >= _SHORTEST_HOPS else left
        script.append(replace(part, duration_s=hops * SCORE_HOP_SAMPLES / SAMPLE_RATE))
        left -= hops
    return script


def _slice(stretch: Stretch | None, length: int) -> slice:
    start, stop = stretch or (0.0, 0.0)
    hops = length // SCORE_HOP_SAMPLES
    return slice(round(start * hops) * SCORE_HOP_SAMPLES, round(stop * hops) * SCORE_HOP_SAMPLES)


def _runs(marks: Samples) -> list[tuple[int, int]]:
    """First and last + 1 of every run of ones."""
    edges = np.flatnonzero(np.diff(marks > 0, prepend=False, append=False))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
