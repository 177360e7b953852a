"""A fingerprinter finds music in its catalogue, and says where."""

from pathlib import Path

import numpy as np
import pytest

from bgm_pipeline.evaluation.identification import Catalogue, Fingerprinter, Identification, tracks_of
from bgm_pipeline.training.corpus import Clip, Corpus
from bgm_pipeline.types import Samples

RATE = 16_000


def tune(seed: int, duration_s: float = 30.0) -> Samples:
    """Four notes a second that no other seed has."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE // 4) / RATE
    notes = [
        np.sin(2 * np.pi * 110 * 2 ** (rng.integers(0, 60) / 12) * t) * np.exp(-6 * t)
        for _ in range(round(duration_s * 4))
    ]
    return (0.3 * np.concatenate(notes)).astype(np.float32)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    fingerprinter = Fingerprinter()
    return Catalogue(fingerprinter, {f"tune{seed}": fingerprinter.track(tune(seed)) for seed in range(4)})


def query(catalogue: Catalogue, samples: Samples, track: str, start_s: float) -> Identification:
    return catalogue.identify(Fingerprinter().query(samples), track, start_s)


def test_an_excerpt_is_found_at_its_place(catalogue: Catalogue) -> None:
    excerpt = tune(2)[round(7.3 * RATE) : round(19.3 * RATE)]
    found = query(catalogue, excerpt, "tune2", 7.3)
    assert found.outcome == "right"
    assert found.hashes > 50
    [answer, *_] = catalogue.answers(Fingerprinter().query(excerpt))
    assert answer.track == "tune2"
    assert answer.start_s == pytest.approx(7.3, abs=0.1)


def test_a_place_is_found_an_hour_into_a_track() -> None:
    fingerprinter, start_s = Fingerprinter(), 3600.0
    hashes = fingerprinter.track(tune(2))
    late = hashes + [round(start_s / fingerprinter.frame_s), 0]
    found = Catalogue(fingerprinter, {"concert": late}).identify(
        fingerprinter.query(tune(2)[: 12 * RATE]), "concert", start_s
    )
    assert found.outcome == "right"


def test_a_catalogue_that_is_made_again_is_the_same_though_it_cannot_keep_every_place() -> None:
    fingerprinter = Fingerprinter()
    places = np.array([[frame, 7] for frame in range(400)], np.int32)
    first, second = (Catalogue(fingerprinter, {"loop": places}).table.table for _ in range(2))
    assert 0 < np.count_nonzero(first) < 400
    assert np.array_equal(first, second)


def test_another_track_or_another_place_is_wrong(catalogue: Catalogue) -> None:
    excerpt = tune(2)[: 12 * RATE]
    assert query(catalogue, excerpt, "tune1", 0).outcome == "wrong"
    assert query(catalogue, excerpt, "tune2", 5) == Identification("wrong", 0)


def test_what_is_not_there_is_not_found(catalogue: Catalogue) -> None:
    assert query(catalogue, np.zeros(12 * RATE, np.float32), "tune1", 0) == Identification("none", 0)
    assert query(catalogue, tune(99)[: 4 * RATE], "tune1", 0).outcome == "none"


def test_speech_hides_music_and_the_louder_the_more(catalogue: Catalogue) -> None:
    music = tune(1)[: 12 * RATE]
    noise = np.random.default_rng(0).standard_normal(len(music)).astype(np.float32)
    clear, hidden = (query(catalogue, music + level * noise, "tune1", 0).hashes for level in (0.01, 0.1))
    assert clear > hidden


def test_a_catalogue_holds_the_split_and_three_other_tracks_for_each_of_its_own() -> None:
    clips = [
        Clip(split, "music", "p", "s", Path(f"{split}{number}"), 20, -20)
        for split, count in (("test", 2), ("train", 50), ("valid", 1))
        for number in range(count)
    ]
    held = tracks_of(Corpus(Path(), tuple(clips)), "test")
    assert [clip.split for clip in held].count("test") == 2
    assert len({clip.path for clip in held}) == 8
