"""The 12 s grid: blocks of audio in, chunks (a segment with context on both sides) out, and the
estimates of overlapping chunks put together again without a seam."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bgm_pipeline.timebase import SEGMENT_SAMPLES
from bgm_pipeline.types import Block, Samples


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one call of the network sees: a segment and `context` samples on either side.

    Context beyond the file's ends is digital silence. `samples` has
    ``end_samples - start_samples + 2 * context`` of them.
    """

    index: int
    start_samples: int
    """First sample of the segment (not of the context)."""
    end_samples: int
    """First sample after the segment; only the last segment is shorter than 12 s."""
    context: int
    samples: Samples

    @property
    def mixture(self) -> Samples:
        """The segment without its context."""
        return self.samples[self.context : len(self.samples) - self.context]


@dataclass(frozen=True, slots=True)
class EstimatedChunk:
    """A chunk with what the networks say of it."""

    chunk: Chunk
    music: Samples
    """Estimate of the music, as long as ``chunk.samples``."""
    scores: Samples
    """How likely music plays, 0..1, ten a second over the segment alone."""
    is_skipped: bool = False
    """Whether separation was left out; the estimate is silence then."""


@dataclass(frozen=True, slots=True)
class SeparatedSegment:
    """One finished cell of the grid."""

    index: int
    start_samples: int
    end_samples: int
    mixture: Samples
    music: Samples
    scores: Samples
    is_skipped: bool = False


def cut_chunks(blocks: Iterable[Block], context: int) -> Iterator[Chunk]:
    """Cuts consecutive blocks into the chunks of the 12 s grid; holds about one chunk in memory.

    Args:
        blocks: without hole or overlap, from sample 0 on.
        context: samples of each neighbour that a chunk sees.
    """
    held = np.zeros(context, np.float32)  # begins `context` samples before the segment
    start, index = 0, 0
    for block in blocks:
        held = np.concatenate([held, block.samples])
        while len(held) >= SEGMENT_SAMPLES + 2 * context and len(held) > SEGMENT_SAMPLES + context:
            end = start + SEGMENT_SAMPLES
            yield Chunk(index, start, end, context, held[: SEGMENT_SAMPLES + 2 * context])
            held = held[SEGMENT_SAMPLES:].copy()
            start, index = end, index + 1
    held = np.concatenate([held, np.zeros(context, np.float32)])
    while (left := len(held) - 2 * context) > 0:
        end = start + min(left, SEGMENT_SAMPLES)
        yield Chunk(index, start, end, context, held[: end - start + 2 * context])
        held = held[SEGMENT_SAMPLES:]
        start, index = end, index + 1


def overlap_add(estimates: Iterable[EstimatedChunk], crossfade: int) -> Iterator[SeparatedSegment]:
    """Joins estimates of neighbouring chunks by a linear cross-fade around every border.

    Put end to end, the segments that come out are the estimate of the whole: over `crossfade` samples, half
    of them on either side of a border, one chunk's estimate turns into the next one's.

    Args:
        estimates: of consecutive chunks.
        crossfade: samples; at most twice the chunks' context.

    Raises:
        ValueError: the cross-fade is longer than the chunks overlap.
    """
    half = crossfade // 2
    rising = ((np.arange(2 * half) + 0.5) / max(1, 2 * half)).astype(np.float32)
    before: EstimatedChunk | None = None
    tail = np.zeros(0, np.float32)
    for now in estimates:
        context = now.chunk.context
        if half > context:
            raise ValueError(f"a cross-fade of {crossfade} samples needs a context of {half}, not {context}")
        if before is not None:
            yield _segment(before, tail, now.music[context - half : context] * rising[:half], rising[half:])
            inner = len(before.music) - context
            tail = before.music[inner : inner + half] * rising[::-1][half:]
        before = now
    if before is not None:
        yield _segment(before, tail, None, rising[half:])


def _segment(
    estimate: EstimatedChunk, tail: Samples, head: Samples | None, rising: Samples
) -> SeparatedSegment:
    """A chunk's own estimate, faded in over its predecessor's `tail`, out under its successor's `head`."""
    chunk = estimate.chunk
    music = estimate.music[chunk.context : len(estimate.music) - chunk.context].copy()
    if estimate.is_skipped:
        tail, head = tail[:0], None  # silent throughout: its levels are of no estimate
    if len(tail):
        n = min(len(tail), len(music))
        music[:n] = music[:n] * rising[:n] + tail[:n]
    if head is not None and len(head):
        music[-len(head) :] = music[-len(head) :] * rising[::-1] + head
    return SeparatedSegment(
        chunk.index,
        chunk.start_samples,
        chunk.end_samples,
        chunk.mixture,
        music,
        estimate.scores,
        estimate.is_skipped,
    )
