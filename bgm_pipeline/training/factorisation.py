"""Learns the dictionaries of `models.nmf` from the very mixtures that the other networks are trained on."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import MiniBatchNMF

from bgm_pipeline.errors import InputError
from bgm_pipeline.models import registry
from bgm_pipeline.models.nmf import ATOMS, Nmf
from bgm_pipeline.timebase import samples_to_s
from bgm_pipeline.training.corpus import Corpus
from bgm_pipeline.training.loop import Progress
from bgm_pipeline.training.losses import SeparationObjective
from bgm_pipeline.training.protocols import TrainingSettings
from bgm_pipeline.training.validation import check_split, validation_quality
from bgm_pipeline.transforms import normalising_gain
from bgm_pipeline.types import Samples

_MIXTURES_A_FIT = 16
_FORGET = 0.95
"""What counts of the earlier mixtures after one fit: memory reaches some hundred mixtures back."""

_SOUNDING = 1e-2
"""Magnitudes of a frame, added; below this it is silence and teaches nothing."""

Spectra = NDArray[np.float32]
"""``(frame, bin)``, magnitudes."""


def train(
    network: registry.Network,
    corpus: Corpus,
    folder: Path,
    settings: TrainingSettings,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Fits one dictionary to the music of ``steps x batch_size`` mixtures, another to the rest of them.

    Generalised Kullback-Leibler divergence, by scikit-learn's online NMF (Lefèvre et al. 2011).

    Args:
        folder: gets ``NAME.safetensors``. There is no checkpoint: one that is stopped begins anew.

    Returns:
        Path of the weights.

    Raises:
        InputError: no number of steps, no music or speech in the corpus, or no such folder.
    """
    if not settings.steps:
        raise InputError(f"{network.name} is not trained for hours; give a number of --steps")
    check_split(corpus, folder)
    objective = SeparationObjective(network.domain)
    count = settings.steps * settings.batch_size
    data = settings.mixtures(corpus, count, objective.mixing)
    fits = [
        MiniBatchNMF(
            ATOMS,
            init="random",
            beta_loss="kullback-leibler",
            forget_factor=_FORGET,
            random_state=settings.seed,
        )
        for _ in range(2)
    ]
    start, progress = time.monotonic(), Progress()
    held: list[tuple[Spectra, Spectra]] = []
    for index in range(count):
        held.append(_spectra(data[index], objective))
        if len(held) == _MIXTURES_A_FIT or index == count - 1:
            for fit, spectra in zip(fits, zip(*held, strict=True), strict=True):
                frames = np.concatenate(spectra)
                sounding = frames[frames.sum(axis=1) > _SOUNDING]
                if len(sounding):
                    fit.partial_fit(sounding)
            held = []
        progress.step = (index + 1) // settings.batch_size
        progress.seconds = time.monotonic() - start
        progress.audio_s = (index + 1) * samples_to_s(settings.crop_samples)
        progress.done = (index + 1) / count
        on_step(progress)
    module = Nmf()
    for name, fit in zip(("music", "residual"), fits, strict=True):
        if not hasattr(fit, "components_"):
            raise InputError(f"{corpus.folder}: {count} mixtures hold no {name}; give more --steps")
        getattr(module, name).data = torch.from_numpy(fit.components_.T.astype(np.float32))
    progress.quality = validation_quality(module, objective, corpus, settings, torch.device("cpu"))
    path = folder / f"{network.name}.safetensors"
    registry.save(module, network, path, progress.metadata())
    return path


def _spectra(mixed: dict[str, Samples], objective: SeparationObjective) -> tuple[Spectra, Spectra]:
    """Of the music and of the rest, at the level of `normalising_gain`."""
    mixture, music = (torch.from_numpy(mixed[name])[None] for name in ("mixture", "music"))
    gain = normalising_gain(mixture)
    spectra = [objective.stft(part * gain).abs()[0, 0].T.numpy() for part in (music, mixture - music)]
    return spectra[0], spectra[1]
