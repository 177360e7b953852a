"""U-Net of Jansson et al. 2017 (Singing voice separation with deep U-Net convolutional networks), section 3.

From the paper: six 5x5 convolutions of stride 2 with batch norm and leaky ReLU (0.2), maps doubling from 16
to 512; six transposed ones back, with batch norm and ReLU, dropout of 0.5 in the first three, each fed with
the encoder's output of its size as well; a sigmoid for the mask. Ours: 512 of 513 bins, any number of frames.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from bgm_pipeline.models.blocks import mask_of_all_bins

_MAPS = (1, 16, 32, 64, 128, 256, 512)
_DROPOUT = 0.5
FRAME_MULTIPLE = 2 ** (len(_MAPS) - 1)


class _Halving(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] >= self.kernel_size[1] or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        # With AMX, oneDNN's results in bfloat16 are not numbers where the kernel is wider than the input.
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(input.dtype)


class UNet(nn.Module):
    """Gives a mask for a magnitude spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            nn.Sequential(
                _Halving(wide, narrow, 5, stride=2, padding=2), nn.BatchNorm2d(narrow), nn.LeakyReLU(0.2)
            )
            for wide, narrow in pairwise(_MAPS)
        )
        self.decoder = nn.ModuleList()
        for depth in range(len(_MAPS) - 1, 0, -1):
            below = _MAPS[depth] * (1 if depth == len(_MAPS) - 1 else 2)
            step = nn.Sequential(
                nn.ConvTranspose2d(below, _MAPS[depth - 1], 5, stride=2, padding=2, output_padding=1)
            )
            if depth > 1:
                step.extend([nn.BatchNorm2d(_MAPS[depth - 1]), nn.ReLU()])
            if depth > 3:
                step.append(nn.Dropout2d(_DROPOUT))
            self.decoder.append(step)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Magnitudes ``(batch, 1, 513, frame)`` to a mask of that shape, each value in 0..1."""
        return mask_of_all_bins(self._mask, magnitude, FRAME_MULTIPLE)

    def _mask(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for step in self.encoder:
            x = step(x)  # (batch, 16 to 512, 256 to 8, frame / 2 to frame / 64)
            skips.append(x)
        x = skips.pop()
        for step in self.decoder:
            x = step(x)  # (batch, 256 to 1, 16 to 512, frame / 32 to frame)
            if skips:
                x = torch.cat([x, skips.pop()], dim=1)
        return torch.sigmoid(x)  # (batch, 1, 512, frame)
