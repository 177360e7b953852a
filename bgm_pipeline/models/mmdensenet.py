"""MDenseNet and MMDenseNet of Takahashi & Mitsufuji 2017, and the dilated family that Heo, Kim & Kwon 2019
make of them: Table 1 of the paper, with its holes filled.

Where the paper is silent: the first kernel's four taps lie along frequency; compression rounds up; a
transposed convolution keeps its number of maps; the mask's last non-linearity is a sigmoid; the
513th bin (8 kHz, the Nyquist frequency) gets the mask of the bin below it.

MMDenseNet is Table 1 without the dilated blocks; its high band then ends with one map less than its low one,
and gets one of zeros. Of MDenseNet the paper gives no table: here it is the low band's cells (the widest of
Table 1) over the whole axis.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from bgm_pipeline.models.blocks import BINS, BandNet, DilatedDenseBlock, SameConv2d, mask_of_all_bins

FRAME_MULTIPLE = 8
"""Three 2x2 poolings: frames are padded to a multiple of this, and cropped back."""

NO_LSTM: Mapping[str, Mapping[int, int]] = {"low": {}, "high": {}, "full": {}}


class MMDenseNet(nn.Module):
    """Multi-band multi-scale DenseNet; gives a mask for a magnitude spectrogram.

    Args:
        dilation: of the dilated block in front of every dense block, along (freq, frame): (2, 1) is
            FDMMDenseNet, (1, 2) TDMMDenseNet, (2, 2) 2DMMDenseNet; None, for none, MMDenseNet.
        lstm: for each band, which of its dense blocks have an LSTM, see `BandNet`.
    """

    def __init__(
        self,
        dilation: tuple[int, int] | None = None,
        lstm: Mapping[str, Mapping[int, int]] = NO_LSTM,
    ) -> None:
        super().__init__()
        half = BINS // 2
        self.low = BandNet((4, 3), 32, 16, 4, 0.13, dilation, half, lstm["low"])
        self.high = BandNet((3, 3), 32, 10, 3, 0.20, dilation, half, lstm["high"])
        self.full = BandNet((4, 3), 32, 6, 2, 0.16, dilation, BINS, lstm["full"])
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
        return mask_of_all_bins(self._mask, magnitude, FRAME_MULTIPLE)

    def _mask(self, x: Tensor) -> Tensor:
        low, high = x.split(BINS // 2, dim=2)  # (batch, 1, 256, frame) each
        below, above = self.low(low), self.high(high)  # (batch, maps, 256, frame) each
        above = functional.pad(above, (0, 0, 0, 0, 0, below.shape[1] - above.shape[1]))
        bands = torch.cat([below, above], dim=2)  # (batch, maps, 512, frame); 17 maps with dilated blocks
        x = torch.cat([bands, self.full(x)], dim=1)  # (batch, joined, 512, frame); 24 with dilated blocks
        return torch.sigmoid(self.mask(self.last(x)))  # (batch, 1, 512, frame)


class MDenseNet(nn.Module):
    """Multi-scale DenseNet over the whole frequency axis; gives a mask for a magnitude spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.full = BandNet((4, 3), 32, growth=16, layers=4, compression=0.13, dilation=None)
        self.last = DilatedDenseBlock(
            self.full.out_channels, growth=4, layers=2, compression=0.25, dilation=None
        )
        self.mask = SameConv2d(self.last.out_channels, 1, (2, 1))

    def forward(self, magnitude: Tensor) -> Tensor:
        """Magnitudes ``(batch, 1, 513, frame)`` to a mask of that shape, each value in 0..1."""
        return mask_of_all_bins(self._mask, magnitude, FRAME_MULTIPLE)

    def _mask(self, x: Tensor) -> Tensor:
        x = self.last(self.full(x))  # (batch, maps, 512, frame)
        return torch.sigmoid(self.mask(x))  # (batch, 1, 512, frame)
