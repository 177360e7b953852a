"""Mixtures sound like the air, and come back the same from the same seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.training.codecs import CODECS, through_codec
from bgm_pipeline.training.corpus import Clip, Corpus
from bgm_pipeline.training.mixing import (
    AS_RECORDED,
    Mixer,
    MixingSettings,
    MixtureDataset,
    active_rms,
    at_speed,
    band_limit,
    beside,
    colour,
    duck,
    equalise,
    in_a_room,
    mains_hum,
    narrow,
    playing,
    set_level,
)
from bgm_pipeline.types import Samples

LENGTH = 4 * SAMPLE_RATE


def tone(hz: float, seconds: float = 4.0, level: float = 0.1) -> Samples:
    at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * hz * at)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two tracks of "music" (a high tone), two speakers (low tones) and an effect, in each of two splits."""
    clips = []
    for split in ("train", "valid"):
        for kind, sources, hz in (("music", "ab", 3000), ("speech", "cd", 300), ("other", "e", 900)):
            for at, source in enumerate(sources):
                path = Path(f"{split}-{kind}-{source}.flac")
                seconds = 20.0 if kind == "music" else 3.0
                soundfile.write(tmp_path / path, tone(hz + 50 * at, seconds), SAMPLE_RATE)
                clips.append(Clip(split, kind, "p", source, path, seconds, -23.0))  # type: ignore[arg-type]
    return Corpus(tmp_path, tuple(clips))


def mixer(corpus: Corpus, **chances: float) -> Mixer:
    return Mixer(corpus, "train", replace(AS_RECORDED, **chances))


def test_the_same_index_gives_the_same_mixture_and_another_one_another(corpus: Corpus) -> None:
    first, again = (MixtureDataset(corpus, "train", LENGTH, 10, seed=1) for _ in range(2))
    assert np.array_equal(first[7]["mixture"], again[7]["mixture"])
    assert not np.array_equal(first[7]["mixture"], first[8]["mixture"])
    assert not np.array_equal(
        first[7]["mixture"], MixtureDataset(corpus, "train", LENGTH, 10, 2)[7]["mixture"]
    )
    assert len(first) == 10
    assert {name: array.shape for name, array in first[0].items()} == {
        "mixture": (1, LENGTH),
        "music": (1, LENGTH),
        "playing": (40,),
    }


@pytest.mark.parametrize("levels_db", [(-30.0, 0.0), (-35.0, -10.0)])
def test_music_is_as_far_below_the_speech_as_was_asked_for(
    corpus: Corpus, levels_db: tuple[float, float]
) -> None:
    studio = Mixer(corpus, "train", AS_RECORDED, levels_db)
    levels = []
    for seed in range(60):
        made = studio.mix(LENGTH, np.random.default_rng(seed))
        ratio = active_rms(made.music) / active_rms(made.mixture - made.music)
        assert 20 * np.log10(ratio) == pytest.approx(made.level_db, abs=0.3)
        levels.append(made.level_db)
        assert np.abs(made.mixture).max() <= 1
    assert levels_db[0] <= min(levels) < levels_db[0] + 5 and levels_db[1] - 5 < max(levels) <= levels_db[1]


@pytest.mark.parametrize(
    ("chances", "music", "rest"),
    [
        ({"music_alone": 1.0}, True, False),
        ({"speech_alone": 1.0}, False, True),
        ({"neither": 1.0}, False, None),
    ],
)
def test_each_kind_holds_what_it_says(
    corpus: Corpus, chances: dict[str, float], music: bool, rest: bool | None
) -> None:
    for seed in range(8):
        made = mixer(corpus, **chances).mix(LENGTH, np.random.default_rng(seed))
        assert made.music.any() == music
        assert made.playing.any() == music
        if rest is not None:
            assert bool(np.abs(made.mixture - made.music).max() > 1e-4) == rest


def test_music_that_starts_or_stops_plays_only_there(corpus: Corpus) -> None:
    shares = [
        mixer(corpus, music_starts_or_stops=1.0).mix(LENGTH, np.random.default_rng(seed)).playing.mean()
        for seed in range(20)
    ]
    assert all(0 < share <= 1 for share in shares)
    assert np.mean(shares) < 0.85


def test_ducking_lowers_music_under_speech_and_not_elsewhere() -> None:
    speech = np.concatenate([tone(300, 3), np.zeros(5 * SAMPLE_RATE, np.float32)])
    gain_db = 20 * np.log10(duck(speech, depth_db=10))
    assert gain_db[SAMPLE_RATE : 2 * SAMPLE_RATE].max() == pytest.approx(-10, abs=0.5)
    assert gain_db[6 * SAMPLE_RATE :].min() == pytest.approx(0, abs=0.1)
    assert np.abs(np.diff(gain_db)).max() < 0.05


def test_playing_is_where_music_can_be_heard() -> None:
    music = np.concatenate([tone(500, 2), np.zeros(3 * SAMPLE_RATE, np.float32), tone(500, 1, 1e-4)])
    heard = playing(music)
    assert heard[:18].all()
    assert not heard[25:].any()


def test_an_equaliser_changes_the_balance_by_at_most_9_db() -> None:
    low, high = tone(100), tone(6000)
    changes = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        changes.append([20 * np.log10(active_rms(equalise(x, rng)) / active_rms(x)) for x in (low, high)])
    assert np.abs(changes).max() < 9.5
    assert np.std(changes) > 1


def test_a_colour_changes_every_octave_by_at_most_12_db_each_by_its_own() -> None:
    octaves = [tone(hz) for hz in (125, 500, 2000, 6000)]
    changes = []
    for seed in range(20):
        coloured = [colour(x, np.random.default_rng(seed)) for x in octaves]
        changes.append([20 * np.log10(active_rms(y) / 0.0707) for y in coloured])
    assert np.abs(changes).max() < 12.5
    assert np.abs(np.corrcoef(np.array(changes).T) - np.eye(4)).max() < 0.8
    assert np.std(changes) > 4


def test_a_band_limit_leaves_what_makes_speech_plain() -> None:
    for seed in range(10):
        hum, voice, hiss = (band_limit(tone(hz), np.random.default_rng(seed)) for hz in (30, 1000, 7900))
        assert active_rms(voice[SAMPLE_RATE:]) == pytest.approx(0.0707, rel=0.05)
        assert active_rms(hum[SAMPLE_RATE:]) < 0.01
        assert active_rms(hiss[SAMPLE_RATE:]) < 0.05


def test_a_narrow_track_keeps_one_band_alone() -> None:
    noise = np.random.default_rng(0).standard_normal(LENGTH).astype(np.float32)
    middles_hz = []
    for seed in range(20):
        power = np.abs(np.fft.rfft(narrow(noise, np.random.default_rng(seed)))) ** 2
        hz = np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE)
        middles_hz.append((power * hz).sum() / power.sum())
    assert min(middles_hz) < 300
    assert max(middles_hz) > 3500  # 4 kHz is the middle of the noise


def test_synthesised_sounds_take_a_tracks_place_or_lie_over_one(corpus: Corpus) -> None:
    of = mixer(corpus, music_alone=1.0, synthesised=1.0)
    has_track = 0
    for seed in range(20):
        power = np.abs(np.fft.rfft(of.mix(LENGTH, np.random.default_rng(seed)).music)) ** 2
        # The tracks of this corpus are one tone of 3 kHz or 3.05 kHz.
        has_track += bool(max(power[12_000], power[12_200]) > 0.05 * power.sum())
    assert 4 < has_track < 16


def test_a_second_sound_is_up_to_12_db_below_the_first() -> None:
    first, second, silence = tone(300), tone(700, level=0.8), np.zeros(LENGTH, np.float32)
    for seed in range(20):
        both = beside(first, second, np.random.default_rng(seed))
        assert -12.1 < 20 * np.log10(active_rms(both - first) / active_rms(first)) < 0.1
    assert np.array_equal(beside(first, silence, np.random.default_rng(1)), first)


def parts_heard(folder: Path, settings: MixingSettings, part_s: float) -> set[int]:
    """Which of the twelve parts of a talk half a second of a mixture holds, in 200 of them: a speaker whose
    pitch rises from part to part."""
    talk = np.concatenate([tone(300 + 200 * part, part_s) for part in range(12)])
    soundfile.write(folder / "talk.flac", talk, SAMPLE_RATE)
    clip = Clip("train", "speech", "p", "c", Path("talk.flac"), 12 * part_s, -23.0)
    talker = Mixer(Corpus(folder, (clip,)), "train", settings)
    heard = [talker.speaker(SAMPLE_RATE // 2, np.random.default_rng(seed)) for seed in range(200)]
    loudest_hz = [2 * int(np.abs(np.fft.rfft(samples)).argmax()) for samples in heard]
    return {round((hz - 300) / 200) for hz in loudest_hz}


def test_trainings_hear_every_part_of_a_long_talk_and_test_mixtures_its_beginning(tmp_path: Path) -> None:
    settings = MixingSettings(other_speed=0, equalised=0, reverberant=0)
    assert parts_heard(tmp_path, settings, part_s=5.0) == set(range(12))
    assert parts_heard(tmp_path, AS_RECORDED, part_s=5.0) == {0}


def test_test_mixtures_hear_every_part_of_a_recording_of_minutes(tmp_path: Path) -> None:
    assert parts_heard(tmp_path, AS_RECORDED, part_s=11.0) == set(range(12))


def test_two_voices_and_two_tracks_are_heard_in_one_mixture(corpus: Corpus) -> None:
    for kind, second, pitches in (
        ("music_alone", "two_tracks", (3000, 3050)),
        ("speech_alone", "two_voices", (300, 350)),
    ):
        heard = set()
        for seed in range(12):
            made = mixer(corpus, **{kind: 1.0, second: 1.0}).mix(LENGTH, np.random.default_rng(seed))
            spectrum = np.abs(np.fft.rfft(made.mixture * np.hanning(LENGTH)))
            heard.add(tuple(bool(spectrum[hz * 4] > spectrum.max() / 10) for hz in pitches))
        assert (True, True) in heard


def test_levels_stay_below_full_scale() -> None:
    loud = tone(500, 1, level=0.01)
    loud[100] = 0.5
    for seed in range(10):
        mixture, _ = set_level(loud, loud, np.random.default_rng(seed))
        assert np.abs(mixture).max() <= 0.991


def test_speed_changes_pitch_and_length() -> None:
    fast = at_speed(tone(500, 2), 1.25)
    assert len(fast) == pytest.approx(2 / 1.25 * SAMPLE_RATE, abs=2)
    assert np.argmax(np.abs(np.fft.rfft(fast))) * SAMPLE_RATE / len(fast) == pytest.approx(625, abs=2)


@pytest.mark.parametrize(
    ("chance", "slowest", "fastest"), [("other_speed", 0.85, 1.18), ("far_speed", 0.7, 1.42)]
)
def test_a_tape_at_another_speed_changes_the_pitch_of_track_and_speaker(
    corpus: Corpus, chance: str, slowest: float, fastest: float
) -> None:
    pitches = set()
    for seed in range(12):
        for kind, hz in (("music_alone", 3000), ("speech_alone", 300)):
            made = mixer(corpus, **{kind: 1.0, chance: 1.0}).mix(LENGTH, np.random.default_rng(seed))
            assert len(made.mixture) == LENGTH
            heard = np.argmax(np.abs(np.fft.rfft(made.mixture))) * SAMPLE_RATE / LENGTH
            assert slowest * hz - 2 < heard < fastest * (hz + 50) + 2
            pitches.add(round(heard))
    assert len(pitches) > 12


def test_a_cut_joins_two_mixtures_and_knows_where_music_plays_in_each(corpus: Corpus) -> None:
    studio = mixer(corpus, music_alone=0.5, speech_alone=0.5, cuts=1.0)
    both = 0
    for seed in range(20):
        made = studio.mix(LENGTH, np.random.default_rng(seed))
        assert len(made.mixture) == len(made.music) == LENGTH and made.playing.shape == (40,)
        sounding = np.abs(made.music.reshape(40, -1)).max(axis=1) > 0
        assert np.abs(sounding.astype(int) - made.playing).sum() <= 2  # the two hops beside a cut
        both += 0 < made.playing.mean() < 1
    assert both > 3


def test_a_room_adds_an_echo_that_dies_away() -> None:
    click = np.zeros(2 * SAMPLE_RATE, np.float32)
    click[100] = 1
    for seed in range(5):
        heard = in_a_room(click, np.random.default_rng(seed))
        assert heard[100] == pytest.approx(1, abs=0.5)
        powers = [float((heard[at : at + 2000] ** 2).sum()) for at in (101, 1301, 17000)]
        assert powers[0] > powers[1] > powers[2]
        assert powers[2] < powers[0] / 1000
        assert not heard[:99].round(6).any()


def test_hum_has_the_multiples_of_the_mains() -> None:
    for seed in range(5):
        hum = mains_hum(SAMPLE_RATE, np.random.default_rng(seed))
        spectrum = np.abs(np.fft.rfft(hum))
        loud = np.flatnonzero(spectrum > spectrum.max() / 1000)
        assert all(loud % 50 == 0) or all(loud % 60 == 0)
        assert -76 < 20 * np.log10(active_rms(hum)) < -39


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_keeps_length_time_and_level(codec: tuple[str, ...]) -> None:
    click = tone(1000, 2)
    click[:SAMPLE_RATE] = 0
    heard = through_codec(click, codec)
    assert len(heard) == len(click)
    assert active_rms(heard) == pytest.approx(active_rms(click), rel=0.1)
    start = int(np.argmax(np.abs(heard) > 0.05))
    assert abs(start - SAMPLE_RATE) < 0.005 * SAMPLE_RATE
    assert not np.array_equal(heard, click)
