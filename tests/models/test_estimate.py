"""Whatever a network works on, music comes out at the mixture's length and level."""

import pytest
import torch
from torch import Tensor, nn

from bgm_pipeline.models.estimate import Domain, MusicEstimator
from bgm_pipeline.transforms import REFERENCE_RMS


class Half(nn.Module):
    """Half of what it gets, or a mask that says so; remembers what it got."""

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domain, self.got = domain, torch.empty(0)

    def forward(self, given: Tensor) -> Tensor:
        self.got = given
        return torch.full_like(given, 0.5) if self.domain == "magnitude" else given / 2


@pytest.mark.parametrize("domain", ["magnitude", "waveform"])
@pytest.mark.parametrize("level", [1e-3, 1.0])
def test_half_of_the_mixture_is_half_of_it_in_every_domain(domain: Domain, level: float) -> None:
    mixture = level * torch.randn(2, 1, 5_000, generator=torch.manual_seed(1))
    estimate = MusicEstimator(domain)(Half(domain), mixture)
    assert estimate.shape == mixture.shape
    assert torch.allclose(estimate, mixture / 2, atol=1e-5 * level)


@pytest.mark.parametrize("domain", ["magnitude", "waveform"])
def test_a_network_gets_its_domain_at_one_level(domain: Domain) -> None:
    network = Half(domain)
    MusicEstimator(domain)(network, torch.full((1, 1, 4_000), 0.003))
    if domain == "waveform":
        assert network.got.shape == (1, 1, 4_000)
        assert network.got.std() + network.got.mean() == pytest.approx(REFERENCE_RMS)
    else:
        assert network.got.shape == (1, 1, 513, 16)


@pytest.mark.parametrize("domain", ["magnitude", "waveform"])
def test_silence_stays_silence(domain: Domain) -> None:
    estimate = MusicEstimator(domain)(Half(domain), torch.zeros(1, 1, 1_000))
    assert torch.equal(estimate, torch.zeros(1, 1, 1_000))


@pytest.mark.parametrize(("exponent", "left"), [(1.0, 0.25), (0.5, 0.5), (2.0, 0.0625)])
def test_an_exponent_below_1_leaves_more_of_the_mixture_in(exponent: float, left: float) -> None:
    mixture = torch.randn(2, 1, 5_000, generator=torch.manual_seed(1))
    softened = MusicEstimator("magnitude").softened(0.25 * mixture, mixture, exponent)
    assert torch.allclose(softened, left * mixture, atol=1e-4)
    silence = torch.zeros(1, 1, 1_000)
    assert torch.equal(MusicEstimator("magnitude").softened(silence, silence, exponent), silence)
