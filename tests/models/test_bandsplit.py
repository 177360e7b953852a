"""The compact network: any length in, bands that cover the spectrum, and no more than it may cost."""

import pytest
import torch
from torch import Tensor

from bgm_pipeline.models import registry
from bgm_pipeline.models.bandsplit import BANDS, BandSplit, join, split
from bgm_pipeline.models.cost import gflop
from bgm_pipeline.models.mmdensenet import BINS


def spectrogram(frames: int) -> Tensor:
    return torch.randn(2, 1, 513, frames, dtype=torch.complex64, generator=torch.manual_seed(1))


@pytest.fixture(scope="module")
def network() -> BandSplit:
    torch.manual_seed(0)
    return BandSplit().eval()


@pytest.mark.parametrize("frames", [1, 2, 95, 96])
def test_the_estimate_has_the_shape_of_the_mixture(network: BandSplit, frames: int) -> None:
    mixture = spectrogram(frames)
    with torch.inference_mode():
        estimate = network(mixture)
    assert estimate.shape == mixture.shape
    assert estimate.is_complex()
    assert estimate[:, :, :-1].abs().min() > 0  # every bin but the Nyquist bin is estimated
    assert estimate[:, :, -1].abs().max() == 0


def test_silence_gives_silence(network: BandSplit) -> None:
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 513, 20, dtype=torch.complex64)).abs().max() == 0


def test_bands_cover_the_bins_once_and_are_put_back_where_they_were() -> None:
    assert sum(count * bins for count, bins in BANDS) == BINS
    x = torch.randn(2, BINS, 6, 4)
    together = torch.cat([join(b, bins) for b, (_, bins) in zip(split(x), BANDS, strict=True)], dim=1)
    assert torch.equal(together, x)


def test_it_costs_no_more_than_a_compact_network_may() -> None:
    network = BandSplit()
    assert sum(parameter.numel() for parameter in network.parameters()) <= 1_000_000
    assert gflop(registry.get("bandsplit")) <= 15


def test_gradients_reach_every_parameter() -> None:
    network = BandSplit()
    network(spectrogram(10)).abs().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
