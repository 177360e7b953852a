"""Separation keeps levels and lengths, costs nothing in silence, and does not depend on how it is batched."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bgm_pipeline.errors import ModelError
from bgm_pipeline.models import registry
from bgm_pipeline.segments import Chunk, EstimatedChunk, cut_chunks, overlap_add
from bgm_pipeline.separation import Separator, choose_device
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.types import Block, Samples

CONTEXT = 1600


class HalfMask(torch.nn.Module):
    """A mask of 0.5 that counts how often it is asked, and for how much."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, magnitude: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(magnitude))
        return torch.full_like(magnitude, 0.5)


def separator(batch_size: int = 1, mask_exponent: float = 1.0) -> tuple[Separator, HalfMask]:
    module = HalfMask()
    network = registry.LoadedNetwork(registry.get("passthrough"), module, "0" * 64, {})
    settings = Settings(device="cpu")
    settings.separation.batch_size = batch_size
    settings.separation.mask_exponent = mask_exponent
    return Separator(network, settings), module


def chunks_of(samples: Samples) -> list[Chunk]:
    return list(cut_chunks([Block(0, samples)], CONTEXT))


def noise(seconds: float, level: float = 0.1) -> Samples:
    return (level * np.random.default_rng(1).standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


@pytest.mark.parametrize("level", [1e-3, 0.1, 1.0])
def test_the_level_is_that_of_the_input(level: float) -> None:
    samples = noise(12, level)
    [(chunk, music)] = separator()[0].separate(chunks_of(samples))
    assert len(music) == len(chunk.samples)
    assert np.allclose(music, 0.5 * chunk.samples, atol=1e-5 * level)


def test_an_exponent_of_the_settings_softens_the_mask() -> None:
    samples = noise(12)
    [(chunk, music)] = separator(mask_exponent=2)[0].separate(chunks_of(samples))
    assert np.allclose(music, 0.25 * chunk.samples, atol=1e-4)


def test_a_whole_programme_comes_back_without_seam_or_shift() -> None:
    samples = noise(30.3)
    estimates = (EstimatedChunk(*pair, samples[:0]) for pair in separator()[0].separate(chunks_of(samples)))
    music = np.concatenate([segment.music for segment in overlap_add(estimates, 800)])
    assert len(music) == len(samples)
    assert np.allclose(music, 0.5 * samples, atol=1e-5)


def test_silence_gives_silence_and_does_not_reach_the_network() -> None:
    samples = np.concatenate([noise(12), np.zeros(4 * 12 * SAMPLE_RATE, np.float32), noise(12)])
    made, network = separator()
    estimates = [music for _, music in made.separate(chunks_of(samples))]
    # Of the four silent segments, the first and the last see a neighbour's noise in their context.
    assert len(network.batches) == 4
    assert [bool(music.any()) for music in estimates] == [True, True, False, False, True, True]


def test_batches_hold_as_many_chunks_as_asked_and_change_nothing() -> None:
    samples = noise(12 * 5 + 3)
    one, _ = separator(1)
    three, network = separator(3)
    alone = [music for _, music in one.separate(chunks_of(samples))]
    together = [music for _, music in three.separate(chunks_of(samples))]
    assert network.batches == [3, 2, 1]
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("samples", [1, 100, 513, 5000])
def test_a_last_segment_of_any_length_is_separated(samples: int) -> None:
    [(_chunk, music)] = separator()[0].separate(chunks_of(noise(1)[:samples]))
    assert len(music) == samples + 2 * CONTEXT


def test_batches_follow_an_engine_that_finds_room_for_more() -> None:
    grows, network = separator(batch_size=1)
    for number, _ in enumerate(grows.separate(chunks_of(noise(12 * 6)))):
        if number == 0:
            grows.engine.batch_size = 2
    assert network.batches == [1, 2, 2, 1]


def test_a_batch_that_is_given_ahead_changes_nothing() -> None:
    samples = noise(65)
    samples[12 * SAMPLE_RATE : 36 * SAMPLE_RATE] = 0
    waiting, _ = separator(batch_size=2)
    ahead, network = separator(batch_size=2)
    ahead.batches_ahead = 1
    asked: list[int] = []

    def chunks() -> Iterator[Chunk]:
        for chunk in chunks_of(samples):
            asked.append(chunk.index)
            yield chunk

    given = ahead.separate(chunks())
    first = next(given)
    assert len(network.batches) == 2, "the second batch is computed before the first is taken"
    pairs = [first, *given]
    assert asked == [chunk.index for chunk, _ in pairs]
    for (_, one), (_, other) in zip(pairs, waiting.separate(chunks_of(samples)), strict=True):
        assert np.array_equal(one, other)


def test_without_a_batch_size_a_cpu_takes_one_chunk_at_a_time() -> None:
    unset, network = separator(Settings().separation.batch_size)
    assert len(list(unset.separate(chunks_of(noise(12 * 2))))) == 2
    assert network.batches == [1, 1]


def test_a_device_that_is_not_there_is_named() -> None:
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ModelError, match="abacus"):
        choose_device("abacus")
