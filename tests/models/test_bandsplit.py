"""The compact network: any length in, the same weights for every band, and no more than it may cost."""

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
    assert mask.min() > 0 and mask.max() < 1


def test_a_mask_of_about_one_half_to_begin_with(network: BandSplit) -> None:
    """Silence would be hard to leave again."""
    with torch.inference_mode():
        assert network(magnitudes(40)).mean() == pytest.approx(0.5, abs=0.1)


def test_no_band_has_weights_of_its_own() -> None:
    """What is one band higher is heard alike, but at the ends of the spectrum."""
    torch.manual_seed(0)
    network = BandSplit(layers=0).eval()
    low = torch.zeros(1, 1, 513, 16)
    low[:, :, 100:130] = torch.rand(30, 16)
    with torch.inference_mode():
        mask, higher = network(low), network(low.roll(BAND_BINS, 2))
    assert torch.allclose(mask[:, :, 64:400], higher[:, :, 64 + BAND_BINS : 400 + BAND_BINS], atol=1e-5)


def test_one_corner_of_the_spectrogram_is_heard_in_the_other(network: BandSplit) -> None:
    quiet = magnitudes(60)
    loud = quiet.clone()
    loud[:, :, :16, :2] += 10
    with torch.inference_mode():
        assert (network(loud) - network(quiet))[:, :, -16:, -2:].abs().max() > 0


def test_it_costs_no_more_than_a_compact_network_may() -> None:
    network = BandSplit()
    assert parameters(network) <= 1_000_000
    assert gflop(registry.get("bandsplit"), network) <= 15


def test_gradients_reach_every_parameter() -> None:
    network = BandSplit()
    network(magnitudes(10)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
