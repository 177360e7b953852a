"""Pseudo-broadcasts, as someone who judges a detector by their truth sees them."""

from dataclasses import replace

import numpy as np
import pytest
from made_up import made_up_corpus

from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation.broadcast import (
    LEVELS_DB,
    Kind,
    Part,
    PseudoBroadcast,
    What,
    arrange,
    compose,
    only,
)
from bgm_pipeline.training.clips import rms_db
from bgm_pipeline.training.corpus import Corpus
from bgm_pipeline.training.mixing import Mixer, MixingSettings

RATE = 16_000
HOP = 1600
WHOLE = (0.0, 1.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return made_up_corpus(tmp_path_factory.mktemp("corpus"), "test")


def measured_db(made: PseudoBroadcast, start: int, end: int) -> float:
    """Power of the music against the speech in a span."""
    music, speech = made.music[start:end].astype(float), made.speech[start:end].astype(float)
    return float(10 * np.log10(np.mean(music**2) / np.mean(speech**2)))


@pytest.mark.parametrize("kind", ["ordinary", "quiet"])
def test_the_same_seed_gives_the_same_programme_and_another_seed_another(corpus: Corpus, kind: Kind) -> None:
    first, again, other = (compose(corpus, "test", kind, 60, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.mixture, again.mixture)
    assert first.truth == again.truth
    assert not np.array_equal(first.mixture, other.mixture)


@pytest.mark.parametrize("kind", ["ordinary", "quiet"])
def test_a_programme_is_as_long_as_asked_is_its_parts_sum_and_never_clips(corpus: Corpus, kind: Kind) -> None:
    made = compose(corpus, "test", kind, 300, 3)
    assert len(made.mixture) == len(made.music) == len(made.speech) == 300 * RATE
    assert made.playing.shape == (3000,)
    assert np.abs(made.mixture).max() < 0.99
    assert made.mixture.dtype == made.music.dtype == made.speech.dtype == np.float32
    assert (made.parts[0].start_samples, made.parts[-1].end_samples) == (0, 300 * RATE)
    for placed in made.parts:
        if not (placed.part.effects or placed.part.noise):
            span = slice(placed.start_samples, placed.end_samples)
            rest = made.mixture[span] - made.music[span] - made.speech[span]
            assert np.abs(rest).max() < 1e-6, placed.part.what


def test_an_ordinary_programme_has_every_sort_of_part(corpus: Corpus) -> None:
    heard = {placed.part.what for placed in compose(corpus, "test", "ordinary", 420, 5).parts}
    for what in ("music alone", "speech alone", "silence", "noise", "effects alone", "quiet music alone"):
        assert what in heard
    for what in ("jingle", "cross-fade", "music starts and stops", "music starts and stops under speech"):
        assert what in heard
    levels = {what.removesuffix(", ducked") for what in heard if what.startswith("speech over")}
    assert levels == {f"speech over music, {level} dB" for level in LEVELS_DB}


def test_a_quiet_programme_has_music_of_minus_35_to_minus_50_dbfs_that_fades_long(corpus: Corpus) -> None:
    made = compose(corpus, "test", "quiet", 420, 5)
    levels = {}
    for placed in made.parts:
        if placed.part.music and placed.part.music_to_speech_db is None:
            assert placed.part.calm
            span = slice(placed.start_samples, placed.end_samples)
            levels[placed.part.music_db] = rms_db(made.music[span])
            assert rms_db(made.music[span][:HOP]) < levels[placed.part.music_db] - 5 or placed.part.two_tracks
    assert {-35, -40, -45, -50} <= set(levels)
    for asked, found in levels.items():
        assert found == pytest.approx(asked, abs=1.5), "the fades take some of it"


def test_calm_tracks_are_the_quiet_ones_without_a_beat(corpus: Corpus) -> None:
    mixer = Mixer(corpus, "test", MixingSettings())
    assert {clip.path.stem for clip in mixer.calm} <= {"song0", "song1"}


@pytest.mark.parametrize("level_db", LEVELS_DB)
@pytest.mark.parametrize("duck_db", [0.0, 10.0])
def test_music_is_as_loud_against_the_speech_as_asked(
    corpus: Corpus, level_db: float, duck_db: float
) -> None:
    part = Part("over", 12, music=WHOLE, speech=WHOLE, music_to_speech_db=level_db, duck_db=duck_db)
    made = arrange(corpus, "test", [part], 1)
    assert measured_db(made, 0, 12 * RATE) == pytest.approx(level_db, abs=0.5)


@pytest.mark.parametrize("music_db", [-20.0, -35.0, -50.0])
def test_music_alone_has_the_level_asked_for(corpus: Corpus, music_db: float) -> None:
    made = arrange(corpus, "test", [Part("music", 12, music=WHOLE, music_db=music_db)], 1)
    assert rms_db(made.music) == pytest.approx(music_db, abs=0.5)


def test_ducked_music_comes_back_when_nobody_speaks(corpus: Corpus) -> None:
    part = Part("bed", 20, music=WHOLE, speech=(0.4, 0.7), music_to_speech_db=-15, duck_db=12, calm=True)
    made = arrange(corpus, "test", [part], 1)
    under, after = made.music[9 * RATE : 13 * RATE], made.music[17 * RATE : 19 * RATE]
    assert rms_db(after) - rms_db(under) == pytest.approx(12, abs=1)


def test_the_truth_is_where_the_music_is_and_tells_its_level(corpus: Corpus) -> None:
    over = Part("over", 10, music=(0.25, 0.65), speech=WHOLE, music_to_speech_db=-10, calm=True)
    bed = Part("bed", 20, music=WHOLE, speech=(0.3, 0.6), music_to_speech_db=-15, calm=True)
    script = [Part("silence", 3), Part("music", 5, music=WHOLE, calm=True), over, bed]
    made = arrange(corpus, "test", script, 1)
    seconds = [(span.start_samples / RATE, span.end_samples / RATE) for span in made.truth]
    # Music counts as playing up to 200 ms around what is heard of it.
    expected = [(3, 8), (10.3, 14.7), (18, 24), (24, 30), (30, 38)]
    assert np.allclose(seconds, expected, atol=0.2001)
    levels = [span.music_to_speech_db for span in made.truth]
    assert [level is None for level in levels] == [True, False, True, False, True]
    assert levels[1] == pytest.approx(-10, abs=0.5)
    assert levels[3] == pytest.approx(-15, abs=0.5)
    assert np.allclose(np.array(made.events) / RATE, [(3, 8), (10.3, 14.7), (18, 38)], atol=0.2001)


@pytest.mark.parametrize("kind", ["ordinary", "quiet"])
def test_scores_spans_and_music_agree(corpus: Corpus, kind: Kind) -> None:
    made = compose(corpus, "test", kind, 300, 7)
    from_spans = np.zeros_like(made.playing)
    for span in made.truth:
        from_spans[span.start_samples // HOP : span.end_samples // HOP] = 1
        assert rms_db(made.music[span.start_samples : span.end_samples]) > -62
        if span.music_to_speech_db is not None:
            found = measured_db(made, span.start_samples, span.end_samples)
            assert found == pytest.approx(span.music_to_speech_db, abs=0.05)
    assert np.array_equal(from_spans, made.playing)
    powers = (made.music.reshape(-1, HOP).astype(float) ** 2).mean(axis=1)
    assert powers[made.playing == 0].max() < 1e-6, "what is not called music is silent: below -60 dBFS"
    assert 0.3 < made.playing.mean() < 0.9


@pytest.mark.parametrize("what", ["speech", "noise", "effects", "music"])
def test_only_one_sort_of_sound(corpus: Corpus, what: What) -> None:
    made = only(corpus, "test", what, 30.5, 1)
    assert len(made.mixture) == 30.5 * RATE
    assert made.playing.mean() == (what == "music")
    assert bool(np.any(made.speech)) == (what == "speech")
    for start in range(0, 30 * RATE, 10 * RATE):
        assert np.any(made.mixture[start : start + 10 * RATE]), "not silent for long"


def test_a_split_without_effects_makes_a_programme_without_them(corpus: Corpus) -> None:
    lacking = replace(corpus, clips=tuple(clip for clip in corpus.clips if clip.kind != "other"))
    made = compose(lacking, "test", "ordinary", 300, 1)
    assert not any(placed.part.effects for placed in made.parts)
    with pytest.raises(InputError, match="its test split has no other"):
        only(lacking, "test", "effects", 10, 1)


def test_what_cannot_be_made_is_told(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="its valid split has no music"):
        compose(corpus, "valid", "ordinary", 10, 1)
    with pytest.raises(InputError, match="'loud'; there are ordinary, quiet"):
        compose(corpus, "test", "loud", 10, 1)  # type: ignore[arg-type]
