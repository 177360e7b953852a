"""The 12 s grid: segments that cover the programme, and estimates without a seam."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgm_pipeline.segments import Chunk, EstimatedChunk, cut_chunks, overlap_add
from bgm_pipeline.timebase import SAMPLE_RATE, SEGMENT_SAMPLES
from bgm_pipeline.types import Block, Samples

CONTEXT = 12_800
NO_SCORES = np.zeros(0, np.float32)


def blocks(samples: Samples, sizes: list[int]) -> list[Block]:
    out, at, turn = [], 0, 0
    while at < len(samples):
        size = sizes[turn % len(sizes)]
        out.append(Block(at, samples[at : at + size]))
        at, turn = at + size, turn + 1
    return out


def noise(length: int) -> Samples:
    return np.random.default_rng(5).standard_normal(length).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 40 * SAMPLE_RATE),
    sizes=st.lists(st.integers(1000, 30 * SAMPLE_RATE), min_size=1, max_size=4),
    context=st.sampled_from([0, 1600, CONTEXT]),
)
def test_chunks_cover_the_programme_once_whatever_the_blocks(
    length: int, sizes: list[int], context: int
) -> None:
    samples = noise(length)
    padded = np.pad(samples, context)
    chunks = list(cut_chunks(blocks(samples, sizes), context))
    assert [chunk.index for chunk in chunks] == list(range(-(-length // SEGMENT_SAMPLES)))
    assert [chunk.start_samples for chunk in chunks] == list(range(0, length, SEGMENT_SAMPLES))
    assert chunks[-1].end_samples == length
    for chunk in chunks:
        # The context beyond the programme's ends is silence, inside it the neighbours' sound.
        assert np.array_equal(chunk.samples, padded[chunk.start_samples : chunk.end_samples + 2 * context])
    assert np.array_equal(np.concatenate([chunk.mixture for chunk in chunks]), samples)


def test_no_blocks_give_no_chunks() -> None:
    assert list(cut_chunks([], CONTEXT)) == []


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 40 * SAMPLE_RATE),
    crossfade=st.sampled_from([0, 2, 3200, 2 * CONTEXT]),
)
def test_segments_of_an_estimate_that_knows_no_borders_are_the_estimate_of_the_whole(
    length: int, crossfade: int
) -> None:
    samples = noise(length)
    estimates = (
        EstimatedChunk(chunk, 0.5 * chunk.samples, NO_SCORES)
        for chunk in cut_chunks([Block(0, samples)], CONTEXT)
    )
    segments = list(overlap_add(estimates, crossfade))
    whole = np.concatenate([segment.music for segment in segments])
    assert len(whole) == length
    assert np.allclose(whole, 0.5 * samples, atol=1e-6)


def test_estimates_that_disagree_change_over_smoothly_around_the_border() -> None:
    samples = np.ones(2 * SEGMENT_SAMPLES, np.float32)
    estimates = (
        EstimatedChunk(chunk, chunk.samples * chunk.index, NO_SCORES)
        for chunk in cut_chunks([Block(0, samples)], CONTEXT)
    )
    whole = np.concatenate([segment.music for segment in overlap_add(estimates, 3200)])
    assert whole[: SEGMENT_SAMPLES - 1600].max() == 0
    assert whole[SEGMENT_SAMPLES + 1600 :].min() == 1
    steps = np.diff(whole[SEGMENT_SAMPLES - 1700 : SEGMENT_SAMPLES + 1700])
    assert steps.min() >= 0
    assert steps.max() < 1.5 / 3200


def test_a_cross_fade_longer_than_the_overlap_is_refused() -> None:
    chunk = Chunk(0, 0, SEGMENT_SAMPLES, 100, np.zeros(SEGMENT_SAMPLES + 200, np.float32))
    with pytest.raises(ValueError, match="needs a context of 101"):
        list(overlap_add([EstimatedChunk(chunk, chunk.samples, NO_SCORES)], 202))
