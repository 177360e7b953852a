"""A compact network for machines without a GPU: bands of the spectrum, read along time and along the bands.

The idea is Luo & Yu 2022 ("Music source separation with band-split RNN"), but hardly a weight belongs to one
band: convolutions gather the bins into bands and spread the bands over the bins again, and recurrent layers
run over every band alike, as in the dual-path network of Le et al. 2021 ("DPCRN"). Where all weights belong
to one band, they learn the few speakers of a small corpus by heart; a place in the spectrum is known by one
vector a band. Between these layers others hear all bands at once, as the full-band half of Hao et al. 2021
("FullSubNet") does: since they run once a step and not once a band and step, they hold most of the weights
and cost next to nothing.
"""

import math

import torch
from torch import Tensor, nn

from bgm_pipeline.models.blocks import BINS, mask_of_all_bins

BAND_BINS = 16
"""Bins that make a band: 250 Hz."""

STEP_FRAMES = 2
"""Frames that make a step: 32 ms."""

COMPRESSION = 0.3
"""Exponent of the magnitudes that the network hears, so that what is quiet can be heard beside loud."""

DILATIONS = (3, 9)
"""Distances, in frames, of the taps that `Steady` compares."""

_TINY = 1e-6


class BandSplit(nn.Module):
    """Magnitude spectrogram of a mixture to a mask of its music.

    Args:
        maps: of the convolutions over all bins and frames.
        width: length of the vector that a band is in one step.
        layers: recurrent layers over time, each followed by one over the bands, and but for the last by one
            that hears all bands at once.
    """

    def __init__(self, maps: int = 16, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.listen = nn.Sequential(nn.Conv2d(1, maps, 3, padding=1), nn.ReLU())
        self.gather = nn.ModuleList(
            [
                nn.Conv2d(maps, 2 * maps, (6, 3), stride=(4, 1), padding=(1, 1)),
                nn.Conv2d(2 * maps, width, (6, 4), stride=(4, STEP_FRAMES), padding=(1, 1)),
            ]
        )
        bands = BINS // BAND_BINS
        self.place = nn.Parameter(torch.zeros(bands, 1, width))
        recurrent: list[nn.Module] = []
        for _ in range(layers):
            recurrent += [OverTime(width, width), OverBands(width, width // 2), AllBands(bands, width)]
        self.layers = nn.Sequential(*recurrent[:-1])
        self.norm = nn.LayerNorm(width)
        self.spread = nn.ModuleList(
            [
                nn.ConvTranspose2d(width, 2 * maps, (4, STEP_FRAMES), stride=(4, STEP_FRAMES)),
                nn.ConvTranspose2d(2 * maps, maps, (4, 1), stride=(4, 1)),
            ]
        )
        self.steady = nn.Sequential(*(Steady(maps, frames) for frames in DILATIONS))
        self.mask = nn.Sequential(
            nn.ReLU(), nn.Conv2d(maps, maps, 3, padding=1), nn.ReLU(), nn.Conv2d(maps, 1, 3, padding=1)
        )
        self.apply(start_evenly)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Mask of the target.

        Args:
            magnitude: ``(batch, 1, 513, frame)``, non-negative, any number of frames; scaled as
                `transforms.normalising_gain` says.

        Returns:
            ``(batch, 1, 513, frame)``, each value in 0..1.
        """
        return mask_of_all_bins(self._mask, magnitude, STEP_FRAMES)

    def _mask(self, magnitude: Tensor) -> Tensor:
        heard = (magnitude + _TINY) ** COMPRESSION
        bins = self.listen(heard)  # (batch, maps, 512, frame)
        groups = self.gather[0](bins).relu()  # (batch, 2 * maps, 128, frame)
        bands = self.gather[1](groups).permute(0, 2, 3, 1)  # (batch, band, step, width)
        bands = self.norm(self.layers(bands + self.place)).permute(0, 3, 1, 2)  # (batch, width, band, step)
        groups = (groups + self.spread[0](bands)).relu()
        bins = self.steady(bins + self.spread[1](groups))
        return torch.sigmoid(self.mask(bins))  # (batch, 1, 512, frame)


def start_evenly(layer: nn.Module) -> None:
    """Weights of He et al. 2015 for convolutions, so that gradients reach the bands.

    With torch's own, a few hundred steps teach hardly more than one constant mask.
    """
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        # A transposed convolution whose stride is its kernel adds up one tap of each map.
        taps = 1 if isinstance(layer, nn.ConvTranspose2d) else layer.weight[0, 0].numel()
        nn.init.normal_(layer.weight, 0, math.sqrt(2 / (layer.in_channels * taps)))


class OverTime(nn.Module):
    """Residual layer of a bidirectional LSTM along the steps of each band."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.recurrent = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, band, step, width)``, and out again."""
        y, _ = self.recurrent(self.norm(x).flatten(0, 1))  # (batch * band, step, 2 * hidden)
        return x + self.project(y).unflatten(0, x.shape[:2])


class OverBands(OverTime):
    """The same along the bands of each step."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, band, step, width)``, and out again."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class AllBands(nn.Module):
    """Residual layer that hears all bands of a step at once, along time: a few numbers of each band make one
    vector a step, which a bidirectional LSTM reads; what it gives is spread over the bands alike.

    Args:
        bands: how many.
        width: length of the vector that a band is in one step.
        share: numbers that a band gives and gets.
        hidden: cells of the LSTM, in each direction.
    """

    def __init__(self, bands: int, width: int, share: int = 6, hidden: int = 96) -> None:
        super().__init__()
        self.bands = bands
        self.norm = nn.LayerNorm(width)
        self.squeeze = nn.Linear(width, share)
        self.recurrent = nn.LSTM(bands * share, hidden, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * hidden, bands * share)
        self.expand = nn.Linear(share, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, band, step, width)``, and out again."""
        y = self.squeeze(self.norm(x)).transpose(1, 2).flatten(2)  # (batch, step, band * share)
        y = self.project(self.recurrent(y)[0])
        y = y.unflatten(2, (self.bands, -1)).transpose(1, 2)  # (batch, band, step, share)
        return x + self.expand(y)


class Steady(nn.Module):
    """Residual layer that sees in every bin what is there some frames before and after, as the time-dilated
    blocks of Heo et al. 2019: partials of instruments stay where they are, those of voices glide."""

    def __init__(self, maps: int, dilation: int) -> None:
        super().__init__()
        self.compare = nn.Conv2d(maps, maps, (1, 3), padding=(0, dilation), dilation=(1, dilation))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, maps, freq, frame)``, and out again."""
        return x + self.compare(x.relu())
