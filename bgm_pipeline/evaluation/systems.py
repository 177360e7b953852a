"""What is judged: separation networks, and what they are held against."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch

from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation.mixtures import Excerpt
from bgm_pipeline.models import registry
from bgm_pipeline.segments import cut_chunks
from bgm_pipeline.separation import Separator
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import SEGMENT_SAMPLES, s_to_samples
from bgm_pipeline.transforms import Stft
from bgm_pipeline.types import Block, Samples

MIXTURE, ORACLE, MUSIC = "mixture as it is", "oracle ratio mask", "true music"
"""Nothing done; the true magnitudes' ratio as a mask; nothing left to do."""


@dataclass(frozen=True, slots=True)
class System:
    """A network, or one of `BASELINES`."""

    label: str
    model: str = ""
    """Name or weights file of a network; empty for a baseline."""
    sha256: str = field(init=False)
    """Of the network's weights, as they were when this was made; of the label for a baseline."""

    def __post_init__(self) -> None:
        """Looks at the weights.

        Raises:
            ModelError: they cannot be loaded.
        """
        of_label = hashlib.sha256(self.label.encode()).hexdigest()
        object.__setattr__(self, "sha256", registry.load(self.model).sha256 if self.model else of_label)


BASELINES = (System(MIXTURE), System(ORACLE), System(MUSIC))


def systems_of(models: Sequence[str]) -> list[System]:
    """Networks that are named as ``NAME``, ``FILE`` or ``LABEL=FILE``.

    Raises:
        ModelError: one cannot be loaded.
        InputError: two would have one label.
    """
    systems: list[System] = []
    for given in models:
        label, _, model = given.rpartition("=")
        label = label or registry.load(model).network.name
        if any(label == other.label for other in (*BASELINES, *systems)):
            raise InputError(f"two systems would be called {label!r}; name one yourself, as in NAME={model}")
        systems.append(System(label, model))
    return systems


def separate(system: System, excerpt: Excerpt, settings: Settings) -> Samples:
    """What a system takes for the music, ``(sample,)``; a network as the pipeline calls it, with silence for
    context.

    Raises:
        InputError: the weights are others now than when the system was made.
    """
    if system.model:
        context = s_to_samples(settings.separation.context_s)
        chunk = next(cut_chunks([Block(0, excerpt.mixture)], context))
        _, padded = next(_separator(system, settings.model_dump_json()).separate([chunk]))
        return padded[context : context + SEGMENT_SAMPLES]
    baselines = {MIXTURE: excerpt.mixture, MUSIC: excerpt.music}
    return ratio_mask(excerpt) if system.label == ORACLE else baselines[system.label]


def ratio_mask(excerpt: Excerpt) -> Samples:
    """The mixture times ``|m| / (|m| + |s|)`` of the true spectra: what a network that masks magnitudes
    strives for."""
    stft = Stft()
    mixture, music, speech = (
        stft(torch.from_numpy(part)[None, None]) for part in (excerpt.mixture, excerpt.music, excerpt.speech)
    )
    mask = music.abs() / (music.abs() + speech.abs()).clamp_min(1e-12)
    return np.asarray(stft.inverse(mixture * mask, len(excerpt.mixture))[0, 0].numpy())


@cache
def _separator(system: System, settings: str) -> Separator:
    loaded = registry.load(system.model)
    if loaded.sha256 != system.sha256:
        raise InputError(
            f"{system.model}: its weights were replaced meanwhile; evaluate it once training ends"
        )
    return Separator(loaded, Settings.model_validate_json(settings))
