"""The convolution of the dense networks, with gradients that are fast on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_TILE_BINS = 1_536
"""Bins of all frames that gradients are computed of at once: so many that they stay in a core's cache."""


class SameConv2d(nn.Conv2d):
    """Convolution that keeps freq and frame; an even kernel gets its odd zero behind.

    On a CPU and in float32 the gradients of a convolution to fewer maps are computed here, by matrix
    products: oneDNN takes longer for them, most for dilated kernels (`benchmarks/training_step.py`).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, dilation=dilation)
        freq, frame = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        self.pad = (frame // 2, frame - frame // 2, freq // 2, freq - freq // 2)

    def forward(self, input: Tensor) -> Tensor:
        """``(batch, in_channels, freq, frame)`` to ``(batch, out_channels, freq, frame)``."""
        if not torch.is_autocast_enabled("cpu"):
            return self._convolve(input)
        if self.dilation == (1, 1):
            return convolved(input, self.weight, self.bias, self.dilation, self.pad)
        # In bfloat16, oneDNN's gradients of kernels that are dilated along frequency are not numbers, or it
        # reads memory that is not there and the process dies.
        with torch.autocast("cpu", enabled=False):
            return self._convolve(input.float()).to(input.dtype)

    def _convolve(self, input: Tensor) -> Tensor:
        is_trained = torch.is_grad_enabled() and self.weight.requires_grad
        if is_trained and input.device.type == "cpu" and self.out_channels < self.in_channels:
            made: Tensor = _Convolution.apply(input, self.weight, self.bias, self.dilation, self.pad)
            return made
        return convolved(input, self.weight, self.bias, self.dilation, self.pad)


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: tuple[int, ...], pad: tuple[int, int, int, int]
) -> Tensor:
    """The convolution of an input padded with zeros, with PyTorch's gradients.

    Args:
        pad: frames before and behind, bins below and above.
    """
    left, right, below, above = pad
    if (left, below) == (right, above):  # without a copy
        return functional.conv2d(x, weight, bias, padding=(below, left), dilation=dilation)
    return functional.conv2d(functional.pad(x, pad), weight, bias, dilation=dilation)


class _Convolution(torch.autograd.Function):
    """Both gradients are matrix products with the output's gradient, laid out once for every tap of the
    kernel; that is small where there are fewer maps behind than in front."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dilation: tuple[int, ...],
        pad: tuple[int, int, int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation, ctx.pad = dilation, pad
        return convolved(x, weight, bias, dilation, pad)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (left, right, below, above), (step_freq, step_frame) = ctx.pad, ctx.dilation
        maps_out, maps_in, taps_freq, taps_frame = weight.shape
        x = x.permute(0, 2, 3, 1).contiguous()  # (batch, freq, frame, maps_in)
        gradient = gradients[0].permute(0, 2, 3, 1)  # (batch, freq, frame, maps_out)
        padded = functional.pad(gradient, (0, 0, right, left, above, below))
        batch, bins, frames, _ = x.shape

        # A tap that looks ahead hands its gradient back: seen from the input, the kernel is turned round.
        columns = taps_freq * taps_frame * maps_out
        kernel = weight.flip(2, 3).permute(2, 3, 0, 1).reshape(columns, maps_in)
        of_x, of_kernel = torch.empty_like(x), torch.zeros_like(kernel)
        rows = max(1, min(bins, _TILE_BINS // frames))
        tile = x.new_empty(rows, frames, taps_freq, taps_frame, maps_out)
        _, stride_freq, stride_frame, stride_map = padded.stride()
        strides = (
            stride_freq,
            stride_frame,
            step_freq * stride_freq,
            step_frame * stride_frame,
            stride_map,
        )
        for number in range(batch):
            for first in range(0, bins, rows):
                part = slice(first, min(first + rows, bins))
                seen = tile[: part.stop - part.start]
                around = padded[number, first:]
                seen.copy_(around.as_strided(seen.shape, strides))
                products = seen.view(-1, columns)
                torch.mm(products, kernel, out=of_x[number, part].view(-1, maps_in))
                of_kernel.addmm_(products.t(), x[number, part].view(-1, maps_in))
        of_kernel = of_kernel.view(taps_freq, taps_frame, maps_out, maps_in)
        return (
            of_x.permute(0, 3, 1, 2),
            of_kernel.permute(2, 3, 0, 1).flip(2, 3),
            gradient.sum((0, 1, 2)) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )
