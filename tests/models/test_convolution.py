"""The gradients of our convolution are those of PyTorch's."""

import pytest
import torch
from torch.nn import functional

from bgm_pipeline.models.convolution import SameConv2d


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize(("bins", "frames"), ((67, 24), (5, 2_000)), ids=("many bins a tile", "one"))
@pytest.mark.parametrize(
    ("kernel", "dilation"),
    (
        ((3, 3), (1, 1)),
        ((3, 3), (2, 1)),
        ((3, 3), (1, 2)),
        ((3, 3), (2, 2)),
        ((4, 3), (1, 1)),
        ((2, 1), (3, 1)),
    ),
)
def test_gradients_are_those_of_pytorch(
    kernel: tuple[int, int], dilation: tuple[int, int], bins: int, frames: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(3)
    ours = SameConv2d(8, 5, kernel, dilation).double().to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, bins, frames, dtype=torch.double).to(memory_format=layout).requires_grad_()
    theirs = functional.conv2d(functional.pad(x, ours.pad), ours.weight, ours.bias, dilation=dilation)
    made = ours(x)
    assert made.grad_fn is not None and "_Convolution" in made.grad_fn.name()
    torch.testing.assert_close(made, theirs)
    weighted_by = torch.randn_like(theirs)
    wanted = (x, ours.weight, ours.bias)
    for our, their in zip(
        torch.autograd.grad(made, wanted, weighted_by),
        torch.autograd.grad(theirs, wanted, weighted_by),
        strict=True,
    ):
        torch.testing.assert_close(our, their)
