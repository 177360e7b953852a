"""Wave-U-Net of Stoller, Ewert & Dixon 2018, Table 1 and section 3.

From the paper: twelve levels; on the way down a convolution of 15 samples with 24 more maps a level, then
every second sample dropped; on the way up linear interpolation, concatenation, a convolution of 5; leaky
ReLU; the mixture beside the last maps; one output, the other source being what is left (their difference
output layer). Ours: zeros beyond the ends, as in their baseline, since a chunk brings its own context; no
tanh at the end, since a mixture is levelled by its RMS and may go beyond 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS, _MAPS, _DOWN_TAPS, _UP_TAPS = 12, 24, 15, 5


def _convolution(maps_in: int, maps_out: int, taps: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(maps_in, maps_out, taps, padding=taps // 2), nn.LeakyReLU(0.2))


class WaveUNet(nn.Module):
    """Samples of a mixture to samples of its music."""

    def __init__(self) -> None:
        super().__init__()
        maps = [_MAPS * level for level in range(1, _LEVELS + 2)]  # 24 to 312
        self.down = nn.ModuleList(
            _convolution(maps_in, maps_out, _DOWN_TAPS)
            for maps_in, maps_out in zip([1, *maps], maps[:-1], strict=False)
        )
        self.bottom = _convolution(maps[-2], maps[-1], _DOWN_TAPS)
        self.up = nn.ModuleList(
            _convolution(below + beside, beside, _UP_TAPS)
            for below, beside in zip(maps[:0:-1], maps[-2::-1], strict=True)
        )
        self.music = nn.Conv1d(_MAPS + 1, 1, 1)

    def forward(self, mixture: Tensor) -> Tensor:
        """``(batch, 1, sample)`` at the level of `transforms.normalising_gain`, any number of samples, to the
        music in it, ``(batch, 1, sample)``."""
        samples = mixture.shape[-1]
        padded = functional.pad(mixture, (0, -samples % 2**_LEVELS))  # (batch, 1, padded)
        x, skips = padded, []
        for step in self.down:
            x = step(x)  # (batch, 24 to 288, padded to padded / 2^11)
            skips.append(x)
            x = x[..., ::2]
        x = self.bottom(x)  # (batch, 312, padded / 2^12)
        for step in self.up:
            x = step(torch.cat([twice(x), skips.pop()], dim=1))  # (batch, 288 to 24, padded / 2^11 to padded)
        return self.music(torch.cat([x, padded], dim=1))[..., :samples]


def twice(x: Tensor) -> Tensor:
    """A value between every two, and the last one repeated: ``(batch, map, n)`` to ``(batch, map, 2 n)``."""
    between = (x + torch.cat([x[..., 1:], x[..., -1:]], dim=-1)) / 2
    return torch.stack([x, between], dim=-1).flatten(2)
