"""What a network is trained to make small, and what tells how good it has become."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from bgm_pipeline.models.estimate import Domain, MusicEstimator
from bgm_pipeline.models.registry import Network
from bgm_pipeline.training.mixing import MixingSettings
from bgm_pipeline.transforms import REFERENCE_RMS, normalising_gain

_MUSIC_ALONE_DB = 20.0

Batch = dict[str, Tensor]
"""``mixture`` and ``music``: ``(batch, 1, sample)``; ``playing``: ``(batch, score)``."""

_COMPRESSION = 0.3
_FLOOR = 1e-5
_NOISE_WEIGHT = 0.02
_TINY = 1e-8


class SeparationObjective(nn.Module):
    """What the estimate of the music misses, at the level that `normalising_gain` sets.

    For a mask, the L1 norm of (mask x mixture magnitude - music magnitude), mean over bins (Heo et al. 2019);
    for a spectrum, `spectrum_loss`; for a waveform, the L1 norms of magnitudes and of samples, added.
    """

    mixing = MixingSettings()

    def __init__(self, domain: Domain = "magnitude") -> None:
        super().__init__()
        self.domain = domain
        self.estimator = MusicEstimator(domain)
        self.stft = self.estimator.stft

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean absolute error."""
        gain = normalising_gain(batch["mixture"])
        mixture, music = batch["mixture"] * gain, batch["music"] * gain
        target = self.stft(music).abs()
        if self.domain == "magnitude":
            magnitude = self.stft(mixture).abs()
            return functional.l1_loss(network(magnitude) * magnitude, target)
        if self.domain == "spectrum":
            estimate = network(self.stft(mixture))
            return spectrum_loss(
                estimate, self.stft(music), self.stft.inverse(estimate, music.shape[-1]), music
            )
        estimate = self.estimator(network, mixture)
        magnitude = self.stft(estimate).abs()
        return functional.l1_loss(magnitude, target) + functional.l1_loss(estimate, music)

    def quality(self, network: nn.Module, batch: Batch) -> Tensor:
        """By how much the estimate's SI-SDR of the music is above the mixture's, dB, ``(batch,)``.

        nan where there is no music, or hardly anything else.
        """
        mixture, music = batch["mixture"], batch["music"]
        estimate = self.estimator(network, mixture)
        before = si_sdr_db(mixture[:, 0], music[:, 0])
        gain = si_sdr_db(estimate[:, 0], music[:, 0]) - before
        return torch.where(before > _MUSIC_ALONE_DB, torch.nan, gain)


class DetectionObjective(nn.Module):
    """Binary cross-entropy of "music plays", ten times a second.

    Its mixtures are those that a detector gets wrong: bells, birds and horns, which sing like music, and
    quiet music right after loud speech.
    """

    mixing = MixingSettings(
        music_alone=0.16,
        speech_alone=0.16,
        neither=0.16,
        other_sounds=0.4,
        music_starts_or_stops=0.3,
        cuts=0.5,
    )

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean over all scores."""
        logits = network(batch["mixture"] * normalising_gain(batch["mixture"]))
        return functional.binary_cross_entropy_with_logits(logits, batch["playing"])

    def quality(self, network: nn.Module, batch: Batch) -> Tensor:
        """Share of scores on the right side of 0.5, ``(batch,)``."""
        logits = network(batch["mixture"] * normalising_gain(batch["mixture"]))
        return ((logits > 0).float() == batch["playing"]).float().mean(dim=1)


Objective = SeparationObjective | DetectionObjective


def objective_for(network: Network) -> Objective:
    """The objective of the network's task."""
    return DetectionObjective() if network.task == "detection" else SeparationObjective(network.domain)


def spectrum_loss(estimate: Tensor, target: Tensor, samples: Tensor, target_samples: Tensor) -> Tensor:
    """Error of compressed spectra, with and without their phase, and the noise in the samples, dB.

    Compressed magnitudes (exponent 0.3, Braun & Tashev 2021) make what is quiet count: music 30 dB below the
    speech, and the partials between the loud ones. The noise is ``10 log10((|e - m|^2 + f) / (|m|^2 + f))``,
    a signal-to-distortion ratio whose floor ``f``, 50 dB below the mixture, serves crops without music, too
    (after Wisdom et al. 2020, eq. 2).

    Args:
        estimate, target: complex, ``(batch, 1, freq, frame)``.
        samples, target_samples: the same in time, ``(batch, 1, sample)``, at the level where a mixture has an
            RMS of `REFERENCE_RMS`.
    """

    def compressed(spectrum: Tensor) -> tuple[Tensor, Tensor]:
        parts = torch.view_as_real(spectrum)
        magnitude = parts.square().sum(-1, keepdim=True).clamp_min(_TINY).sqrt()
        return magnitude**_COMPRESSION, parts * magnitude ** (_COMPRESSION - 1)

    (magnitude, parts), (target_magnitude, target_parts) = compressed(estimate), compressed(target)
    floor = _FLOOR * REFERENCE_RMS**2
    noise = (samples - target_samples).square().mean((1, 2)) + floor
    ratio_db = 10 * torch.log10(noise / (target_samples.square().mean((1, 2)) + floor))
    return (
        functional.l1_loss(magnitude, target_magnitude)
        + functional.l1_loss(parts, target_parts)
        + _NOISE_WEIGHT * ratio_db.mean()
    )


def si_sdr_db(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), dB.

    Args:
        estimate, reference: ``(batch, sample)``.

    Returns:
        ``(batch,)``; nan where the reference is silent.
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    reference = reference - reference.mean(-1, keepdim=True)
    power = reference.square().sum(-1, keepdim=True)
    target = (estimate * reference).sum(-1, keepdim=True) / power * reference
    ratio = target.square().sum(-1) / (estimate - target).square().sum(-1).clamp_min(1e-12)
    silent = power[..., 0] < 1e-6
    return torch.where(silent, torch.nan, 10 * torch.log10(ratio.clamp_min(1e-6)))
