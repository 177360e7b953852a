"""The rules by which frames with time stamps become one timeline; frames are made here, without a file."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgm_pipeline.media.downmix import WINDOW_SAMPLES, MonoMixer
from bgm_pipeline.media.timeline import MAX_GAP_S, Timeline
from bgm_pipeline.timebase import s_to_samples

FRAME = 384
"""What a frame of MP2 (24 ms) is at 16 kHz."""


def _frame(number: int) -> np.ndarray:
    """Samples that tell where they belong: their own position, counted from 1."""
    first = number * FRAME + 1
    return np.repeat(np.arange(first, first + FRAME, dtype=np.float32)[:, None], 2, axis=1)


def _play(timeline: Timeline, frames: list[tuple[int | None, np.ndarray]]) -> np.ndarray:
    pieces = [piece for pts, samples in frames for piece in timeline.place(pts, samples)]
    pieces += list(timeline.finish())
    return np.concatenate(pieces)[:, 0]


@settings(max_examples=40)
@given(
    lost=st.sets(st.integers(1, 199)),
    zero=st.integers(-(10**9), 10**9),
    jitter=st.lists(st.integers(-20, 20), min_size=200, max_size=200),
)
def test_whatever_is_lost_the_rest_is_where_it_belongs(lost: set[int], zero: int, jitter: list[int]) -> None:
    # Two frames at the end always arrive: a single one after a hole would be in doubt.
    kept = [number for number in range(202) if number not in lost]
    timeline = Timeline(zero, min_gap_s=0.04)
    stamps = [zero + number * FRAME + (jitter[number] if number and number < 200 else 0) for number in kept]
    heard = _play(timeline, [(pts, _frame(number)) for pts, number in zip(stamps, kept, strict=True)])
    present = np.flatnonzero(heard)
    assert np.abs(heard[present] - 1 - present).max() <= s_to_samples(0.004)
    assert len(heard) == pytest.approx(202 * FRAME, abs=s_to_samples(0.004))
    holes = sum(gap.end_samples - gap.start_samples for gap in timeline.gaps)
    short = sum(damage.count for damage in timeline.damage if damage.message.startswith("short holes"))
    # One lost frame (24 ms) is a short hole, more are a gap; jitter of 1 ms moves their borders.
    assert holes + short * FRAME == pytest.approx(len(lost) * FRAME, abs=64 * (len(lost) + 1))


def test_frames_without_a_time_stamp_follow_the_one_before() -> None:
    timeline = Timeline(1000, min_gap_s=0.04)
    heard = _play(timeline, [(1000 if not number else None, _frame(number)) for number in range(10)])
    assert (heard == np.arange(1, 10 * FRAME + 1)).all()
    assert timeline.gaps == []
    assert timeline.damage == []


def test_priming_before_zero_is_cut() -> None:
    timeline = Timeline(1000, min_gap_s=0.04)
    heard = _play(timeline, [(1000 - 100 + number * FRAME, _frame(number)) for number in range(10)])
    assert (heard == np.arange(101, 10 * FRAME + 1)).all()
    assert timeline.damage == []


@pytest.mark.parametrize("ahead_s", [3599.0, 3601.0])
def test_a_gap_is_at_most_an_hour(ahead_s: float) -> None:
    ahead = s_to_samples(ahead_s)
    timeline = Timeline(0, min_gap_s=0.04)
    stamps = [number * FRAME + (ahead if number >= 10 else 0) for number in range(30)]
    tracemalloc.start()
    length = 0
    for number, pts in enumerate(stamps):
        length += sum(len(piece) for piece in timeline.place(pts, _frame(number)))
    length += sum(len(piece) for piece in timeline.finish())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    is_gap = ahead_s <= MAX_GAP_S
    assert length == 30 * FRAME + (ahead if is_gap else 0)
    assert len(timeline.gaps) == (1 if is_gap else 0)
    assert timeline.clock_changed is not is_gap
    # An hour of silence would be 460 MB; it is given out in pieces.
    assert peak_bytes < 2_000_000


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_mono_does_not_depend_on_how_the_stream_is_cut(windows: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    n_windows = sum(windows)
    left = random.uniform(-1, 1, n_windows * WINDOW_SAMPLES).astype(np.float32)
    likeness = np.repeat(random.choice([-1.0, -0.9, -0.5, 0.0, 1.0], n_windows), WINDOW_SAMPLES)
    stereo = np.stack([left, (likeness * left).astype(np.float32)], axis=1)
    whole, mixer = MonoMixer().mix(stereo), MonoMixer()
    cuts = np.cumsum(windows)[:-1] * WINDOW_SAMPLES
    pieces = [mixer.mix(piece) for piece in np.split(stereo, cuts)]
    assert (np.concatenate(pieces) == whole).all()
    # However the sides lie to each other, at least a quarter of the louder one's level is left in a window
    # (the first 20 ms of which may be a change of polarity).
    rms = np.sqrt(np.mean(whole.reshape(-1, WINDOW_SAMPLES)[:, 400:] ** 2, axis=1))
    assert rms.min() > 0.25 * 0.5 * np.sqrt(np.mean(left**2))
