"""Mixture to music estimate, whatever the network."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from bgm_pipeline.errors import ModelError
from bgm_pipeline.memory import reuse_freed_memory
from bgm_pipeline.models import registry
from bgm_pipeline.models.engines import engine_for
from bgm_pipeline.models.estimate import MusicEstimator
from bgm_pipeline.segments import Chunk
from bgm_pipeline.settings import Settings
from bgm_pipeline.types import Samples


def choose_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is the first GPU where there is one, else the CPU.

    Raises:
        ModelError: torch knows no such device, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


class Separator:
    """A separation network that takes chunks, several at a time on a GPU.

    Args:
        loaded: the network and its weights.
        settings: device, threads, and how separation is done are taken from here.
    """

    def __init__(self, loaded: registry.LoadedNetwork, settings: Settings) -> None:
        self.device = choose_device(settings.device)
        if self.device.type == "cpu":
            reuse_freed_memory()
            if settings.threads:
                torch.set_num_threads(settings.threads)
        self.loaded = loaded
        self.engine = engine_for(
            loaded,
            self.device,
            name=settings.engine,
            threads=settings.threads,
            batch_size=settings.separation.batch_size,
            bfloat16=settings.separation.bfloat16,
            tf32=settings.separation.tf32,
            compiled=settings.separation.compile,
            cache=settings.graphs,
        )
        self.estimator = MusicEstimator(loaded.network.domain).to(self.device)
        self.mask_exponent = settings.separation.mask_exponent
        self.silence = 10 ** (settings.separation.silence_db / 20)
        self.batches_ahead = 1 if self.device.type == "cuda" else 0
        """So many batches are given to the device before the one before them is taken from it."""

    def separate(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Samples]]:
        """Each chunk with the estimate of its music, equally long and at the mixture's level.

        A chunk that is silent gives silence and does not reach the network.
        """
        given: deque[tuple[list[Chunk], list[Chunk], torch.Tensor | None]] = deque()
        for batch in self._batches(chunks):
            loud = [chunk for chunk in batch if np.abs(chunk.samples).max() >= self.silence]
            given.append((batch, loud, self._estimate(loud) if loud else None))
            if len(given) > self.batches_ahead:
                yield from _taken(*given.popleft())
        for one in given:
            yield from _taken(*one)

    def _batches(self, chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
        """As many chunks together as the engine wants, of one length: only the last has another."""
        batch: list[Chunk] = []
        for chunk in chunks:
            # The engine may have changed its mind since the last batch.
            if batch and (
                len(batch) >= self.engine.batch_size or len(chunk.samples) != len(batch[0].samples)
            ):
                yield batch
                batch = []
            batch.append(chunk)
        if batch:
            yield batch

    @torch.inference_mode()
    def _estimate(self, chunks: list[Chunk]) -> torch.Tensor:
        """Music estimates of equally long chunks, ``(chunk, sample)``; a GPU may still be at work on them."""
        samples = torch.from_numpy(np.stack([c.samples for c in chunks]))[:, None]
        if self.device.type == "cuda":
            samples = samples.pin_memory()  # else the copy would wait for what the device is at
        mixture = samples.to(self.device, non_blocking=True)
        estimate = self.estimator(self.engine, mixture)
        if self.mask_exponent != 1:
            estimate = self.estimator.softened(estimate, mixture, self.mask_exponent)
        return estimate[:, 0]


def _taken(
    batch: list[Chunk], loud: list[Chunk], estimates: torch.Tensor | None
) -> Iterator[tuple[Chunk, Samples]]:
    """Each chunk of a batch with its estimate; those that are not loud have none, and get silence."""
    rows: Iterable[Samples] = [] if estimates is None else estimates.cpu().numpy()
    found = dict(zip((chunk.index for chunk in loud), rows, strict=True))
    for chunk in batch:
        yield chunk, found[chunk.index] if chunk.index in found else np.zeros_like(chunk.samples)
