"""Matrices are learnt in all directions at once, whatever layer they belong to; all else as AdamW does."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from bgm_pipeline.training.optimiser import MuonAndAdamW

RATE = 0.01
LAYERS = {
    "linear": nn.Linear(12, 8),
    "convolution": nn.Conv2d(4, 8, 3),
    "convolution of one bin": nn.Conv2d(12, 8, 1),
    "convolution over time": nn.Conv1d(4, 8, 3),
    "transposed convolution": nn.ConvTranspose2d(8, 4, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_step_is_equally_large_in_all_directions(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name].to(memory_format=torch.channels_last)
    left, _, right = torch.linalg.svd(torch.randn(layer.weight.flatten(1).shape), full_matrices=False)
    uneven = left @ torch.diag(torch.logspace(0, -2, len(left))) @ right
    layer.weight.grad = uneven.reshape(layer.weight.shape).clone(memory_format=torch.preserve_format)
    before = layer.weight.detach().clone()
    MuonAndAdamW(layer.parameters(), RATE, weight_decay=0).step()
    change = (layer.weight.detach() - before).flatten(1)
    sizes = torch.linalg.svdvals(change)
    assert sizes.min() > 0.5 * sizes.max()
    assert (change * uneven).sum() < 0
    # As large as AdamW's: Liu et al. 2025, section 2.2.
    assert change.square().mean().sqrt() == pytest.approx(0.2 * RATE, rel=0.25)


def test_what_is_no_matrix_is_changed_as_adamw_changes_it() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
    ours = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    theirs = deepcopy(ours)
    optimisers = (
        MuonAndAdamW(ours.parameters(), RATE, 0.1),
        AdamW(theirs.parameters(), RATE, weight_decay=0.1),
    )
    for _ in range(3):
        for weight, same in zip(ours.parameters(), theirs.parameters(), strict=True):
            weight.grad = same.grad = torch.randn_like(weight)
        for optimiser in optimisers:
            optimiser.step()
    changed_alike = [torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters(), strict=True)]
    assert changed_alike == [False, True, True, True, True, True]


def test_weights_that_lie_otherwise_are_refused() -> None:
    """Muon would change a copy, and the network learn nothing."""
    with pytest.raises(RuntimeError, match="view"):
        MuonAndAdamW(nn.Conv2d(3, 4, 3).parameters(), RATE, weight_decay=0)


def test_the_rate_is_that_of_the_groups() -> None:
    layer = nn.Linear(4, 4)
    optimiser = MuonAndAdamW(layer.parameters(), RATE, weight_decay=0)
    optimiser.param_groups[0]["lr"] = 0.0
    before = [weight.detach().clone() for weight in layer.parameters()]
    layer(torch.ones(1, 4)).sum().backward()
    optimiser.step()
    assert all(torch.equal(*pair) for pair in zip(before, layer.parameters(), strict=True))
