"""What a network is trained to make small, and what tells how good it has become."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bgm_pipeline.errors import ModelError
from bgm_pipeline.models.estimate import Domain, MusicEstimator
from bgm_pipeline.models.registry import LoadedNetwork, Network
from bgm_pipeline.training.mixing import MixingSettings
from bgm_pipeline.transforms import normalising_gain

Loss = Literal["l1", "compressed", "complex"]
"""L1 norm of magnitudes, as the paper's, or mean square error of spectra compressed by `COMPRESSION`: half of
it without phases, or all of it with them."""

COMPRESSION = 0.5
"""Exponent of magnitudes, so that what is quiet counts beside what is loud."""

PHASE_SHARE: Mapping[Loss, float] = {"compressed": 0.5, "complex": 1.0}
"""Weight of the phases' part of that error. An estimate has the mixture's phases: the further they are from
the music's, the less of a bin helps."""

_MUSIC_ALONE_DB = 20.0

Batch = dict[str, Tensor]
"""``mixture`` and ``music``: ``(batch, 1, sample)``; ``playing``: ``(batch, score)``."""

LESSON_COMPRESSION = 0.3
"""`COMPRESSION` where there is a teacher. Its mask is in no doubt, which a smaller exponent would settle in
another way: it only lets soft music count for more."""

_TINY = 1e-6

_LEAST_SHARE = 1e-4

_SOFT = 0.03
"""Against the teacher's mean magnitude."""

_COMPRESSED_WEIGHT = 30.0
"""That both halves of a lesson are about as large."""

_SURROUNDINGS = (15, 31)
"""Bins and frames: 0.2 kHz and half a second."""


class SeparationObjective(nn.Module):
    """What the estimate of the music misses, at the level that `normalising_gain` sets.

    Its mixtures change recordings so much that a network cannot learn the few speakers of a small corpus by
    heart.

    Args:
        domain: of the network's estimate.
        loss: for a mask. "l1" is the L1 norm of (mask x mixture magnitude - music magnitude), mean over bins
            (Heo et al. 2019). It is least at the median, which is silence wherever music is more often absent
            than present. "compressed" is the mean square error of spectra whose magnitudes are raised to the
            power of `COMPRESSION`, with phases (`PHASE_SHARE`) and without (Braun & Tashev 2021); it is
            least at a mean. "complex" is the same with phases throughout, and makes smaller masks. For a
            waveform it is always the L1 norms of magnitudes and of samples, added.
        teacher: a network whose mask is aimed at in place of the music (Hinton et al. 2015). It leaves out
            what nobody could tell from the mixture, so that few steps teach more. Both must make masks. The
            loss is that of `lesson`, whatever `loss` says.

    Raises:
        ModelError: one of both makes no mask.
    """

    mixing = MixingSettings(
        equalised=0.3,
        coloured=0.6,
        band_limited=0.25,
        far_speed=0.6,
        other_speed=0.0,
        two_voices=0.2,
        two_tracks=0.15,
        reverberant=0.3,
        narrow=0.15,
        synthesised=0.2,
    )

    def __init__(
        self, domain: Domain = "magnitude", loss: Loss = "compressed", teacher: LoadedNetwork | None = None
    ) -> None:
        super().__init__()
        if teacher and {domain, teacher.network.domain} != {"magnitude"}:
            raise ModelError(
                f"{teacher.network.name} cannot teach this network: both must make masks for magnitudes"
            )
        self.teacher = teacher.module.requires_grad_(False) if teacher else None
        self.domain = domain
        self.phase_share = PHASE_SHARE.get(loss)
        self.estimator = MusicEstimator(domain)
        self.stft = self.estimator.stft

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean over all bins."""
        gain = normalising_gain(batch["mixture"])
        mixture, music = batch["mixture"] * gain, batch["music"] * gain
        if self.domain == "magnitude":
            mixed = self.stft(mixture)
            mask = network(mixed.abs())
            if self.teacher:
                return self.lesson(mask, self.teacher(mixed.abs()), mixed.abs())
            return self.distance(mask, mixed, self.stft(music))
        estimate = self.estimator(network, mixture)
        magnitude = self.stft(estimate).abs()
        return functional.l1_loss(magnitude, self.stft(music).abs()) + functional.l1_loss(estimate, music)

    def distance(self, mask: Tensor, mixed: Tensor, target: Tensor) -> Tensor:
        """Mean distance of the masked mixture from the music, both complex spectrograms."""
        magnitude, aim = mixed.abs(), target.abs()
        if self.phase_share is None:
            return functional.l1_loss(mask * magnitude, aim)
        cosine = (mixed * target.conj()).real / (magnitude * aim + _TINY)
        estimate, aim = ((x + _TINY) ** COMPRESSION for x in (mask * magnitude, aim))
        return ((estimate - aim).square() + 2 * self.phase_share * estimate * aim * (1 - cosine)).mean()

    def lesson(self, mask: Tensor, taught: Tensor, magnitude: Tensor) -> Tensor:
        """Mean distance of a mask from the teacher's, for a mixture of that magnitude.

        One half is the square error of compressed magnitudes. The other is that of what stands out of its
        surroundings, in nepers: the peaks that a fingerprinter looks for, however soft.
        """
        masks = mask.float(), taught.float()
        shares = ((share + _LEAST_SHARE) ** LESSON_COMPRESSION for share in masks)
        error = torch.sub(*shares) * (magnitude + _TINY) ** LESSON_COMPRESSION
        kept = [share * magnitude for share in masks]
        # What is softer than this counts as equally soft: its logarithms would count most.
        softest = _SOFT * kept[1].mean((2, 3), keepdim=True)
        softest = softest + _LEAST_SHARE * magnitude.mean((2, 3), keepdim=True) + _TINY
        own, its = (_standing_out((one + softest).log()) for one in kept)
        weight = 1 + its.relu() + own.detach().relu()
        return _COMPRESSED_WEIGHT * error.square().mean() + (weight * (own - its).square()).mean()

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
        return functional.binary_cross_entropy_with_logits(_logits(network, batch), batch["playing"])

    def quality(self, network: nn.Module, batch: Batch) -> Tensor:
        """Share of scores on the right side of 0.5, ``(batch,)``."""
        right = (_logits(network, batch) > 0).float() == batch["playing"]
        return right.float().mean(dim=1)


Objective = SeparationObjective | DetectionObjective


def objective_for(network: Network, loss: Loss, teacher: LoadedNetwork | None = None) -> Objective:
    """The objective of the network's task; for detectors there is one loss alone, and no teacher.

    Raises:
        ModelError: this teacher cannot teach this network.
    """
    if network.task == "separation":
        return SeparationObjective(network.domain, loss, teacher)
    if teacher:
        raise ModelError(f"{network.name} is a network for {network.task}, which have no teacher")
    return DetectionObjective()


def _standing_out(level: Tensor) -> Tensor:
    """Levels above the mean of what surrounds them: ``(batch, 1, freq, frame)``."""
    bins, frames = _SURROUNDINGS
    around = functional.avg_pool2d(level, _SURROUNDINGS, 1, (bins // 2, frames // 2), count_include_pad=False)
    return level - around


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


def _logits(network: nn.Module, batch: Batch) -> Tensor:
    """A detector's, at the level that it gets to see."""
    logits: Tensor = network(batch["mixture"] * normalising_gain(batch["mixture"]))
    return logits
