"""From the mixture's samples to the samples of its music, whatever a separation network works on."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from bgm_pipeline.transforms import Stft, normalising_gain

_TINY = 1e-9

Domain = Literal["magnitude", "waveform"]
"""What a separation network takes and gives, always at the level that `normalising_gain` sets:

* "magnitude": magnitudes ``(batch, 1, 513, frame)`` to a mask of that shape, for the mixture's spectrum;
* "waveform": the mixture's samples ``(batch, 1, sample)`` to those of the music.
"""


class MusicEstimator(nn.Module):
    """What stands around a network of one domain: level, transform, inverse transform, level again.

    The network is an argument and no part of this module, since a training asks two of them: the one that
    learns and its average.
    """

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domain = domain
        self.stft = Stft()

    def forward(self, network: Callable[[Tensor], Tensor], mixture: Tensor) -> Tensor:
        """Estimate of the music, at the mixture's level.

        Args:
            network: of this domain: a module, or an engine that computes one.
            mixture: ``(batch, 1, sample)``, at least 513 samples.

        Returns:
            ``(batch, 1, sample)``.
        """
        gain = normalising_gain(mixture)
        levelled = mixture * gain
        if self.domain == "waveform":
            estimate: Tensor = network(levelled)
            return estimate / gain
        spectrum = self.stft(levelled)  # (batch, 1, freq, frame)
        return self.stft.inverse(network(spectrum.abs()) * spectrum, mixture.shape[-1]) / gain

    def softened(self, estimate: Tensor, mixture: Tensor, exponent: float) -> Tensor:
        """The mixture times a power of the estimate's share of it in every bin.

        An exponent below 1 lets more of the mixture through where the network is in doubt, which keeps the
        music's spectral peaks; 1 gives the estimate with the mixture's phase.

        Args:
            estimate, mixture: ``(batch, 1, sample)``.
            exponent: of the share, which is held to 0..1.

        Returns:
            ``(batch, 1, sample)``.
        """
        spectrum = self.stft(mixture)  # (batch, 1, freq, frame)
        share = self.stft(estimate).abs() / spectrum.abs().clamp_min(_TINY)
        return self.stft.inverse(spectrum * share.clamp(0, 1) ** exponent, mixture.shape[-1])
