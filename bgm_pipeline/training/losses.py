"""What a network is trained to make small, and what tells how good it has become."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from bgm_pipeline.models.estimate import Domain, MusicEstimator
from bgm_pipeline.models.registry import Network
from bgm_pipeline.training.mixing import MixingSettings
from bgm_pipeline.transforms import normalising_gain

_MUSIC_ALONE_DB = 20.0

Batch = dict[str, Tensor]
"""``mixture`` and ``music``: ``(batch, 1, sample)``; ``playing``: ``(batch, score)``."""

_COMPRESSION = 0.3
_COMPRESSED_WEIGHT = 0.3
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
        if self.domain == "spectrum":
            return spectrum_loss(network(self.stft(mixture)), self.stft(music))
        target = self.stft(music).abs()
        if self.domain == "magnitude":
            magnitude = self.stft(mixture).abs()
            return functional.l1_loss(network(magnitude) * magnitude, target)
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
        music_alone=0.18,
        speech_alone=0.18,
        neither=0.14,
        calm=0.4,
        reverberant=0.4,
        other_sounds=0.4,
        noise=0.45,
        hum=0.1,
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


def spectrum_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """L1 norms of the spectra's errors: of magnitudes, of real and imaginary parts, of compressed magnitudes.

    Magnitudes alone would leave the phase open, parts alone would make an estimate shrink wherever the phase
    cannot be known. Compressed (exponent 0.3, Braun & Tashev 2021), what is quiet counts, too: music 30 dB
    below the speech, and partials between loud ones.

    Args:
        estimate, target: complex, ``(batch, 1, freq, frame)``, at the level of `normalising_gain`.
    """
    parts, target_parts = torch.view_as_real(estimate), torch.view_as_real(target)
    magnitude, target_magnitude = (x.square().sum(-1).clamp_min(_TINY).sqrt() for x in (parts, target_parts))
    compressed = functional.l1_loss(magnitude**_COMPRESSION, target_magnitude**_COMPRESSION)
    return (
        functional.l1_loss(magnitude, target_magnitude)
        + functional.l1_loss(parts, target_parts)
        + _COMPRESSED_WEIGHT * compressed
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
