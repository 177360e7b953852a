"""The dilated MMDenseNet family of Heo, Kim & Kwon 2019: Table 1 of the paper, with its holes filled.

Where the paper is silent: the first kernel's four taps lie along frequency; compression rounds up; a
transposed convolution keeps its number of maps; the mask's last non-linearity is a sigmoid; the
513th bin (8 kHz, the Nyquist frequency) gets the mask of the bin below it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from bgm_pipeline.models.blocks import BandNet, DilatedDenseBlock, SameConv2d

BINS = 512
"""Bins the network runs on: all of a 1,024-point transform but the Nyquist bin."""

FRAME_MULTIPLE = 8
"""Three 2x2 poolings: frames are padded to a multiple of this, and cropped back."""


class DilatedMMDenseNet(nn.Module):
    """Multi-band multi-scale DenseNet with dilated blocks; gives a mask for a magnitude spectrogram.

    Args:
        dilation: of every dilated block, along (freq, frame): (2, 1) is FDMMDenseNet, (1, 2)
            TDMMDenseNet, (2, 2) 2DMMDenseNet.
    """

    def __init__(self, dilation: tuple[int, int]) -> None:
        super().__init__()
        self.low = BandNet((4, 3), 32, growth=16, layers=4, compression=0.13, dilation=dilation)
        self.high = BandNet((3, 3), 32, growth=10, layers=3, compression=0.20, dilation=dilation)
        self.full = BandNet((4, 3), 32, growth=6, layers=2, compression=0.16, dilation=dilation)
        joined = self.low.out_channels + self.full.out_channels
        self.last = DilatedDenseBlock(joined, growth=4, layers=2, compression=0.25, dilation=dilation)
        self.mask = SameConv2d(self.last.out_channels, 1, (2, 1))

    def forward(self, magnitude: Tensor) -> Tensor:
        """Mask of the target.

        Args:
            magnitude: ``(batch, 1, 513, frame)``, non-negative, any number of frames; scaled as
                `transforms.normalising_gain` says.

        Returns:
            ``(batch, 1, 513, frame)``, each value in 0..1.
        """
        frames = magnitude.shape[-1]
        x = magnitude[..., :BINS, :]  # (batch, 1, 512, frame)
        x = functional.pad(x, (0, -frames % FRAME_MULTIPLE))  # (batch, 1, 512, padded)
        low, high = x.split(BINS // 2, dim=2)  # (batch, 1, 256, padded) each
        bands = torch.cat([self.low(low), self.high(high)], dim=2)  # (batch, 17, 512, padded)
        x = torch.cat([bands, self.full(x)], dim=1)  # (batch, 24, 512, padded)
        x = torch.sigmoid(self.mask(self.last(x)))[..., :frames]  # (batch, 1, 512, frame)
        return torch.cat([x, x[..., -1:, :]], dim=2)  # (batch, 1, 513, frame)
