"""Building blocks of the dense networks. Axes are ``(batch, channel, freq, frame)`` throughout."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

BINS = 512
"""Bins that a dense network runs on: all of a 1,024-point transform but the Nyquist bin."""


class SameConv2d(nn.Conv2d):
    """Convolution that keeps freq and frame; an even kernel gets its odd zero behind."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, dilation=dilation)
        freq, frame = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        self.pad = (frame // 2, frame - frame // 2, freq // 2, freq - freq // 2)

    def forward(self, input: Tensor) -> Tensor:
        """``(batch, in_channels, freq, frame)`` to ``(batch, out_channels, freq, frame)``."""
        if self.dilation != (1, 1) and torch.is_autocast_enabled("cpu"):
            return self._convolve_by_phases(input)
        left, right, below, above = self.pad
        if (left, below) != (right, above):
            return super().forward(functional.pad(input, self.pad))
        # A convolution that pads by itself saves a copy: a training step is a twelfth shorter.
        padding = (below, left)
        return functional.conv2d(input, self.weight, self.bias, padding=padding, dilation=self.dilation)

    def _convolve_by_phases(self, input: Tensor) -> Tensor:
        """The same for an odd kernel, by an ordinary convolution: every ``dilation``-th bin and frame are an
        image of their own to it.

        In bfloat16, oneDNN's gradients of kernels that are dilated along frequency are not numbers, or it
        reads memory that is not there and the process dies.
        """
        freq, frame = input.shape[2:]
        by_freq, by_frame = self.dilation
        x = functional.pad(input, (0, -frame % by_frame, 0, -freq % by_freq))
        x = x.unflatten(3, (-1, by_frame)).unflatten(2, (-1, by_freq))
        x = x.permute(0, 3, 5, 1, 2, 4)  # (batch, freq phase, frame phase, channel, freq, frame)
        x = x.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        x = functional.conv2d(x, self.weight, self.bias, padding="same")
        x = x.unflatten(0, (-1, by_freq, by_frame)).permute(0, 3, 4, 1, 5, 2)
        x = x.flatten(4, 5).flatten(2, 3)  # (batch, channel, freq, frame)
        return x[..., :freq, :frame].contiguous(memory_format=torch.channels_last)


class Composite(nn.Sequential):
    """Batch norm, ReLU, 3x3 convolution to ``growth`` maps (Heo et al. 2019), and dropout of whole maps where
    asked for (Huang et al. 2017)."""

    def __init__(self, in_channels: int, growth: int, dropout: float = 0.0) -> None:
        super().__init__(nn.BatchNorm2d(in_channels), nn.ReLU(), SameConv2d(in_channels, growth, (3, 3)))
        if dropout:
            self.append(nn.Dropout2d(dropout))


class DenseBlock(nn.Module):
    """``layers`` composite functions, each fed with the block's input and all earlier outputs."""

    def __init__(self, in_channels: int, growth: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Composite(in_channels + i * growth, growth, dropout) for i in range(layers)
        )
        self.out_channels = in_channels + layers * growth

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, freq, frame)`` to ``(batch, out_channels, freq, frame)``."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class DilatedBlock(nn.Module):
    """What Heo et al. 2019 put in front of every dense block: batch norm and ReLU, then a dilated and
    an ordinary 3x3 convolution side by side, both concatenated to the input.

    Args:
        in_channels: maps of the input.
        growth: maps that each of the two convolutions gives.
        dilation: distance of the kernel's taps along (freq, frame).
    """

    def __init__(self, in_channels: int, growth: int, dilation: tuple[int, int]) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.dilated = SameConv2d(in_channels, growth, (3, 3), dilation)
        self.ordinary = SameConv2d(in_channels, growth, (3, 3))
        self.out_channels = in_channels + 2 * growth

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, freq, frame)`` to ``(batch, in_channels + 2 * growth, freq, frame)``."""
        a = self.activate(x)
        return torch.cat([x, self.dilated(a), self.ordinary(a)], dim=1)


class Compression(nn.Sequential):
    """Batch norm, ReLU, 1x1 convolution to ``ceil(theta * maps)`` maps (the transition of Huang et al. 2017).

    Rounding up is what lets the low and the high band of Table 1 end with the same 17 maps; the batch norm
    is what brings the parameter count to the 587,400 that Table 1 leads to.
    """

    def __init__(self, in_channels: int, theta: float) -> None:
        out_channels = math.ceil(theta * in_channels)
        super().__init__(nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1))
        self.out_channels = out_channels


class LstmBlock(nn.Module):
    """What Takahashi et al. 2018 add to a dense block: its maps made one by a 1x1 convolution, read along
    time by a bidirectional LSTM that sees all bins at once, brought back to the bins by a linear layer, and
    concatenated to the input as one more map.

    Args:
        in_channels: maps of the input.
        bins: bins of the input.
        units: cells of both directions together.
    """

    def __init__(self, in_channels: int, bins: int, units: int) -> None:
        super().__init__()
        self.join = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, 1, 1))
        self.lstm = nn.LSTM(bins, units // 2, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(units, bins)
        self.out_channels = in_channels + 1

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, bins, frame)`` to ``(batch, in_channels + 1, bins, frame)``."""
        frames = self.join(x)[:, 0].transpose(1, 2)  # (batch, frame, bins)
        frames, _ = self.lstm(frames)  # (batch, frame, units)
        return torch.cat([x, self.linear(frames).transpose(1, 2)[:, None]], dim=1)


class DilatedDenseBlock(nn.Sequential):
    """Dilated block, dense block, compression: one cell of the paper's Table 1.

    Args:
        in_channels: maps of the input.
        growth: ``k``, maps of every convolution inside.
        layers: ``L``, composite functions of the dense block.
        compression: ``theta`` of the compression.
        dilation: of the dilated block, along (freq, frame); None leaves it out, as in MMDenseNet.
        lstm: bins of the input and cells of an `LstmBlock` between dense block and compression, as in
            MMDenseLSTM; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        growth: int,
        layers: int,
        compression: float,
        dilation: tuple[int, int] | None,
        lstm: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        maps = in_channels
        if dilation:
            dilated = DilatedBlock(maps, growth, dilation)
            self.append(dilated)
            maps = dilated.out_channels
        dense = DenseBlock(maps, growth, layers)
        self.append(dense)
        maps = dense.out_channels
        if lstm:
            recurrent = LstmBlock(maps, *lstm)
            self.append(recurrent)
            maps = recurrent.out_channels
        squeeze = Compression(maps, compression)
        self.append(squeeze)
        self.out_channels = squeeze.out_channels


class BandNet(nn.Module):
    """One MDenseNet (Takahashi & Mitsufuji 2017) over one frequency band: an encoder of four dilated
    dense blocks with 2x2 average pooling between, a decoder of three with 2x2 transposed convolutions,
    joined by concatenation at equal size.

    ``freq`` and ``frame`` must be multiples of 8.

    Args:
        kernel: of the first convolution, (freq, frame).
        maps: that the first convolution gives.
        growth, layers, compression, dilation: of every `DilatedDenseBlock`.
        bins: ``freq``; needed by LSTM blocks alone.
        lstm: number of a dense block, 1 to 7 as Table 1 counts them, to the cells of its LSTM block.
    """

    DEPTH = 4

    def __init__(
        self,
        kernel: tuple[int, int],
        maps: int,
        growth: int,
        layers: int,
        compression: float,
        dilation: tuple[int, int] | None,
        bins: int = 0,
        lstm: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        super().__init__()

        def cell(in_channels: int, number: int) -> DilatedDenseBlock:
            depth = self.DEPTH - 1 - abs(number - self.DEPTH)
            recurrent = (bins >> depth, lstm[number]) if number in lstm else None
            return DilatedDenseBlock(in_channels, growth, layers, compression, dilation, recurrent)

        self.first = SameConv2d(1, maps, kernel)
        self.encoder, self.up, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        skips: list[int] = []
        for number in range(1, self.DEPTH + 1):
            block = cell(maps, number)
            self.encoder.append(block)
            maps = block.out_channels
            skips.append(maps)
        self.pool = nn.AvgPool2d(2)
        for number, skip in enumerate(reversed(skips[:-1]), self.DEPTH + 1):
            self.up.append(nn.ConvTranspose2d(maps, maps, 2, stride=2))
            block = cell(maps + skip, number)
            self.decoder.append(block)
            maps = block.out_channels
        self.out_channels = maps

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 1, freq, frame)`` to ``(batch, out_channels, freq, frame)``."""
        x = self.first(x)
        skips: list[Tensor] = []
        for depth, block in enumerate(self.encoder):
            x = block(self.pool(x) if depth else x)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([up(x), skips.pop()], dim=1))
        return x


def mask_of_all_bins(network: Callable[[Tensor], Tensor], magnitude: Tensor, frame_multiple: int) -> Tensor:
    """The mask of a network that takes 512 bins and a multiple of some number of frames.

    Frames are padded with silence and cropped back; the 513th bin (8 kHz, the Nyquist frequency) gets the
    mask of the bin below it.

    Args:
        network: ``(batch, 1, 512, frame)`` to a mask of that shape.
        magnitude: ``(batch, 1, 513, frame)``, any number of frames.

    Returns:
        ``(batch, 1, 513, frame)``.
    """
    frames = magnitude.shape[-1]
    x = functional.pad(magnitude[..., :BINS, :], (0, -frames % frame_multiple))  # (batch, 1, 512, padded)
    mask = network(x)[..., :frames]  # (batch, 1, 512, frame)
    return torch.cat([mask, mask[..., -1:, :]], dim=2)
