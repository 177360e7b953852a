"""The compact network: any length in, the same convolutions for every band, and no more than it may cost."""

import pytest
import torch
from torch import Tensor

from bgm_pipeline.models import registry
from bgm_pipeline.models.bandsplit import BAND_BINS, BandSplit
from bgm_pipeline.models.cost import gflop, parameters


def magnitudes(frames: int) -> Tensor:
    return torch.rand(2, 1, 513, frames, generator=torch.manual_seed(1))


@pytest.fixture(scope="module")
def network() -> BandSplit:
    torch.manual_seed(0)
    return BandSplit().eval()


@pytest.mark.parametrize("frames", [1, 2, 95, 96])
def test_the_mask_has_the_shape_of_the_mixture(network: BandSplit, frames: int) -> None:
    with torch.inference_mode():
        mask = network(magnitudes(frames))
    assert mask.shape == (2, 1, 513, frames)
    assert mask.min() >= 0 and mask.max() <= 1


def test_no_band_has_convolutions_of_its_own() -> None:
    """What is one band higher is heard alike, but at the ends of the spectrum."""
    torch.manual_seed(0)
    network = BandSplit(layers=0).eval()
    low = torch.zeros(1, 1, 513, 16)
    low[:, :, 100:130] = torch.rand(30, 16)
    with torch.inference_mode():
        mask, higher = network(low), network(low.roll(BAND_BINS, 2))
    assert torch.allclose(mask[:, :, 64:400], higher[:, :, 64 + BAND_BINS : 400 + BAND_BINS], atol=1e-5)


def test_a_new_network_hears_far_bands_and_steps(network: BandSplit) -> None:
    """Else it takes long to learn more than one mask for everything."""
    quiet = magnitudes(60)
    loud = quiet.clone()
    loud[:, :, :32, :8] += 10
    with torch.inference_mode():
        changed = (network(loud) - network(quiet)).abs()
    assert changed[:, :, :32, 24:].max() > 1e-3  # later, in the same bands, enough to learn from
    assert changed[:, :, -32:, :8].max() > 0  # at the same time, in far bands


def test_it_costs_no_more_than_a_compact_network_may() -> None:
    network = registry.get("bandsplit")
    assert parameters(network.build()) <= 1_000_000
    assert gflop(network) <= 15


def test_gradients_reach_every_parameter() -> None:
    network = BandSplit()
    network(magnitudes(10)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
