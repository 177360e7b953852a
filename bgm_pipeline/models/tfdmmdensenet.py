"""The dilated time-frequency DenseNet of Heo, Kim & Kwon 2020 (Applied Sciences 10(5):1727), the authors'
English follow-up.

Read off its Appendix table, which is public: layers in their order, (k, L), maps behind every layer, 0.2 of
dropout in the decoder, compression to a quarter, rounded down. The maps behind a dilated dense block,
``k0 + 3k + kL``, say that its front has three convolutions side by side; those behind the eighth,
``k0 + kL``, that it has no such front. Ours, since the text was not at hand: the three are dilated (2, 1)
along frequency, (1, 2) along time, and not at all; a multi-band block gives either half of the frequency
axis its own 3x3 convolution; the mask ends in a sigmoid; the same loss and training as for the others.
"""

import torch
from torch import Tensor, nn

from bgm_pipeline.models.blocks import DenseBlock, SameConv2d, mask_of_all_bins
from bgm_pipeline.models.mmdensenet import FRAME_MULTIPLE

_GROWTH, _LAYERS, _DROPOUT, _DEPTH = 12, 4, 0.2, 4


class MultiBand(nn.Module):
    """A 3x3 convolution for the low half of the frequency axis, another one for the high half."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.low = SameConv2d(in_channels, out_channels, (3, 3))
        self.high = SameConv2d(in_channels, out_channels, (3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, freq, frame)`` to ``(batch, out_channels, freq, frame)``."""
        low, high = x.chunk(2, dim=2)
        return torch.cat([self.low(low), self.high(high)], dim=2)


class TimeFrequencyDilated(nn.Module):
    """Batch norm and ReLU, then three 3x3 convolutions side by side, dilated along frequency, along time and
    not at all; all concatenated to the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.convolutions = nn.ModuleList(
            SameConv2d(in_channels, growth, (3, 3), dilation) for dilation in ((2, 1), (1, 2), (1, 1))
        )
        self.out_channels = in_channels + 3 * growth

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, freq, frame)`` to ``(batch, in_channels + 3 * growth, freq, frame)``."""
        a = self.activate(x)
        return torch.cat([x, *(convolution(a) for convolution in self.convolutions)], dim=1)


class Quarter(nn.Sequential):
    """Compression: batch norm, ReLU, 1x1 convolution to a quarter of the maps, rounded down."""

    def __init__(self, in_channels: int) -> None:
        self.out_channels = in_channels // 4
        super().__init__(nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, self.out_channels, 1))


class Cell(nn.Sequential):
    """Dilated dense block and compression."""

    def __init__(self, in_channels: int, dropout: float) -> None:
        dilated = TimeFrequencyDilated(in_channels, _GROWTH)
        dense = DenseBlock(dilated.out_channels, _GROWTH, _LAYERS, dropout)
        squeeze = Quarter(dense.out_channels)
        super().__init__(dilated, dense, squeeze)
        self.out_channels = squeeze.out_channels


class TfdMMDenseNet(nn.Module):
    """Gives a mask for a magnitude spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.first = MultiBand(1, 27)
        maps, skips = 27, []
        self.encoder, self.up, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for _ in range(_DEPTH):
            self.encoder.append(cell := Cell(maps, 0.0))
            maps = cell.out_channels  # 27
            skips.append(maps)
        self.pool = nn.AvgPool2d(2)
        for skip in reversed(skips[:-1]):
            self.up.append(nn.ConvTranspose2d(maps, maps, 2, stride=2))
            self.decoder.append(cell := Cell(maps + skip, _DROPOUT))
            maps = cell.out_channels  # 34, 36, 36
        dense = DenseBlock(maps, 4, 2, _DROPOUT)  # 44
        squeeze = Quarter(dense.out_channels)  # 11
        self.last = nn.Sequential(
            *(dense, squeeze, MultiBand(squeeze.out_channels, 9)),
            *(nn.BatchNorm2d(9), nn.ReLU(), SameConv2d(9, 1, (3, 3))),
        )

    def forward(self, magnitude: Tensor) -> Tensor:
        """Magnitudes ``(batch, 1, 513, frame)`` to a mask of that shape, each value in 0..1."""
        return mask_of_all_bins(self._mask, magnitude, FRAME_MULTIPLE)

    def _mask(self, x: Tensor) -> Tensor:
        x = self.first(x)  # (batch, 27, 512, frame)
        skips: list[Tensor] = []
        for depth, cell in enumerate(self.encoder):
            x = cell(self.pool(x) if depth else x)  # (batch, 27, 512 / 2^depth, frame / 2^depth)
            skips.append(x)
        skips.pop()
        for up, cell in zip(self.up, self.decoder, strict=True):
            x = cell(torch.cat([up(x), skips.pop()], dim=1))  # (batch, 34 or 36, freq, frame)
        return torch.sigmoid(self.last(x))  # (batch, 1, 512, frame)
