"""The dilated MMDenseNets are what the paper's Table 1 says."""

import pytest
import torch
from torch import Tensor, nn

from bgm_pipeline.models import cost, registry
from bgm_pipeline.models.blocks import DilatedBlock, DilatedDenseBlock, SameConv2d

FAMILY = ("fdmmdensenet", "tdmmdensenet", "2dmmdensenet")
DILATIONS = {"fdmmdensenet": (2, 1), "tdmmdensenet": (1, 2), "2dmmdensenet": (2, 2)}


@pytest.fixture(scope="module", params=FAMILY)
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    torch.manual_seed(3)
    return request.param, registry.get(request.param).build().eval()


@pytest.mark.parametrize("frames", [1, 7, 8, 51, 64])
def test_mask_has_the_size_of_the_magnitude_and_lies_in_0_to_1(
    network: tuple[str, nn.Module], frames: int
) -> None:
    magnitude = torch.rand(2, 1, 513, frames)
    with torch.inference_mode():
        mask = network[1](magnitude)
    assert mask.shape == magnitude.shape
    assert mask.min() >= 0 and mask.max() <= 1
    assert mask.std() > 0


def test_parameters_are_587_400(network: tuple[str, nn.Module]) -> None:
    # Biases, batch norms and the compression's batch norm counted in; running statistics are no parameters.
    assert sum(parameter.numel() for parameter in network[1].parameters()) == 587_400


def test_a_12_s_segment_costs_102_6_gflop(network: tuple[str, nn.Module]) -> None:
    kind = registry.get(network[0])
    assert cost.gflop(kind) == pytest.approx(102.6, abs=0.1)


def test_dilation_lies_along_the_axis_that_the_name_says(network: tuple[str, nn.Module]) -> None:
    dilated = [block for block in network[1].modules() if isinstance(block, DilatedBlock)]
    assert len(dilated) == 3 * 7 + 1
    reach_freq, reach_frame = zip(*(reach(block) for block in dilated), strict=True)
    freq, frame = DILATIONS[network[0]]
    assert set(reach_freq) == {1 + 2 * freq}
    assert set(reach_frame) == {1 + 2 * frame}


def reach(block: DilatedBlock) -> tuple[int, int]:
    """Over how many bins and frames the input is seen by one cell of the dilated convolution's maps."""
    x = torch.rand(1, block.dilated.in_channels, 11, 11, requires_grad=True)
    seen: Tensor = block.dilated(x)[0, :, 5, 5].sum()
    (gradient,) = torch.autograd.grad(seen, x)
    bins, frames = gradient[0].abs().sum(0).nonzero().T
    return int(bins.max() - bins.min() + 1), int(frames.max() - frames.min() + 1)


def test_gradients_reach_every_parameter(network: tuple[str, nn.Module]) -> None:
    module = registry.get(network[0]).build().train()
    magnitude = torch.rand(1, 1, 513, 24)
    (module(magnitude) * torch.rand_like(magnitude)).sum().backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().any()]
    # A bias in front of a batch norm has no effect in training: its gradient is 0 but for rounding.
    assert without == []


@pytest.mark.parametrize("dilation", DILATIONS.values())
@pytest.mark.parametrize("frames", [48, 45])
def test_dilated_convolutions_give_and_learn_the_same_in_bfloat16(
    dilation: tuple[int, int], frames: int
) -> None:
    torch.manual_seed(3)
    convolution = SameConv2d(20, 14, (3, 3), dilation).to(memory_format=torch.channels_last)
    x = torch.randn(2, 20, 255, frames, requires_grad=True)
    found = []
    for is_rough in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_rough):
            out = convolution(x)
        by_input, by_weight = torch.autograd.grad(out.float().square().sum(), (x, convolution.weight))
        found.append((out.float(), by_input, by_weight))
    for exact, rough in zip(*found, strict=True):
        assert (rough - exact).norm() < 0.02 * exact.norm()


def test_bands_end_with_equally_many_maps_and_so_can_be_joined() -> None:
    module = registry.get("2dmmdensenet").build()
    assert (module.low.out_channels, module.high.out_channels, module.full.out_channels) == (17, 17, 7)


def test_a_dilated_dense_block_keeps_freq_and_frame() -> None:
    block = DilatedDenseBlock(5, growth=4, layers=3, compression=0.5, dilation=(2, 2))
    assert block(torch.rand(2, 5, 9, 13)).shape == (2, 13, 9, 13)  # ceil(0.5 * (5 + 2 * 4 + 3 * 4))
