"""From scores to events and segments."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgm_pipeline.calibration import Calibration, best_logit
from bgm_pipeline.detection import Evidence, detect, hysteresis, ratio_db
from bgm_pipeline.segments import SeparatedSegment
from bgm_pipeline.settings import DetectionSettings
from bgm_pipeline.timebase import SAMPLE_RATE, SCORE_HOP_SAMPLES, SEGMENT_SAMPLES
from bgm_pipeline.types import Gap, Samples

CALIBRATION = Calibration({"mixture_logit": 1.0}, 0.0, 1.0, 0.0)
SETTINGS = DetectionSettings(onset=0.5, offset=0.4, min_duration_off_s=0.5)


def scores(text: str) -> Samples:
    """A digit a score: 9 is 0.9."""
    return np.array([int(digit) / 10 for digit in text], np.float32)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("0000000000", []),
        ("0099999900", [(2, 8)]),
        ("9999999999", [(0, 10)]),
        # Starts at onset (0.5), goes on to below offset (0.4).
        ("0445444443", [(3, 9)]),
        # A hole of 0.4 s is filled, one of 0.5 s is not.
        ("99999000099999", [(0, 14)]),
        ("999990000099999", [(0, 5), (10, 15)]),
        # What is shorter than 0.5 s is dropped, but not if filling made it longer.
        ("0099990000000", []),
        ("0099009900000", [(2, 8)]),
    ],
)
def test_hysteresis(text: str, spans: list[tuple[int, int]]) -> None:
    assert hysteresis(scores(text), SETTINGS) == spans


@given(st.lists(st.floats(0, 1, width=32), max_size=300))
def test_spans_are_in_order_apart_and_long_enough(values: list[float]) -> None:
    spans = hysteresis(np.array(values, np.float32), SETTINGS)
    for first, last in spans:
        assert last - first >= 5
        assert max(values[first:last]) >= SETTINGS.onset
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert start - end >= 5


def programme(text: str, music_db: float = -20, residual_db: float = -10) -> Evidence:
    """A programme of one score a digit; music and residual are noise of those levels throughout."""
    rng = np.random.default_rng(0)
    values = scores(text)
    evidence = Evidence()
    for index, at in enumerate(range(0, len(values), 120)):
        own = values[at : at + 120]
        length = len(own) * SCORE_HOP_SAMPLES
        music, residual = (
            (10 ** (db / 20) * rng.standard_normal(length)).astype(np.float32)
            for db in (music_db, residual_db)
        )
        start = index * SEGMENT_SAMPLES
        evidence.add(SeparatedSegment(index, start, start + length, music + residual, music, own))
    return evidence


def test_segments_cover_the_programme_and_hold_music_where_events_are() -> None:
    text = "0" * 110 + "9" * 20 + "0" * 110 + "9" * 3 + "0" * 30
    segments, events = detect(programme(text), (), CALIBRATION, SETTINGS)
    assert [segment.has_music for segment in segments] == [True, True, False]
    assert [(s.start_samples, s.end_samples) for s in segments] == [
        (0, 192_000),
        (192_000, 384_000),
        (384_000, 384_000 + 33 * SCORE_HOP_SAMPLES),
    ]
    [event] = events
    assert (event.start_samples, event.end_samples) == (110 * SCORE_HOP_SAMPLES, 130 * SCORE_HOP_SAMPLES)
    assert event.music_probability == pytest.approx(0.9)
    assert event.music_to_speech_db == pytest.approx(-10, abs=0.3)


def test_less_music_than_asked_for_in_a_segment_is_none() -> None:
    text = "0" * 116 + "9" * 10 + "0" * 114
    segments, events = detect(programme(text), (), CALIBRATION, SETTINGS)
    assert len(events) == 1
    assert [segment.has_music for segment in segments] == [False, True]


def test_a_last_segment_shorter_than_that_may_hold_music_too() -> None:
    segments, events = detect(programme("0" * 114 + "9" * 9), (), CALIBRATION, SETTINGS)
    assert [segment.has_music for segment in segments] == [True, True]
    assert events[0].end_samples == segments[1].end_samples


def test_levels_and_gaps_of_a_segment() -> None:
    gap = Gap(SAMPLE_RATE, SEGMENT_SAMPLES + SAMPLE_RATE, "no audio in the file")
    first, second = detect(programme("9" * 240), (gap,), CALIBRATION, SETTINGS)[0]
    assert (first.gap_samples, second.gap_samples) == (11 * SAMPLE_RATE, SAMPLE_RATE)
    assert first.music_db == pytest.approx(-20, abs=0.1)
    assert first.mixture_db == pytest.approx(10 * np.log10(0.11), abs=0.1)


def test_no_ratio_where_music_or_residual_is_silent() -> None:
    assert ratio_db(0.0, 0.1) is None
    assert ratio_db(0.1, 0.0) is None
    assert ratio_db(0.1, 0.01) == pytest.approx(10)


def test_no_programme_no_segments() -> None:
    assert detect(Evidence(), (), CALIBRATION, SETTINGS) == ((), ())


def test_probability_follows_the_best_half_second() -> None:
    low, high = scores("1" * 120), scores("1" * 115 + "9" * 5)
    assert best_logit(high) == pytest.approx(np.log(9), abs=1e-3)
    steep = replace(CALIBRATION, segment_weight=2.0)
    assert CALIBRATION.segment_probability(low) == pytest.approx(0.1, abs=1e-3)
    assert CALIBRATION.segment_probability(high) == pytest.approx(0.9, abs=1e-3)
    assert steep.segment_probability(high) > 0.98
