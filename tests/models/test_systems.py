"""The networks that the paper compares with are what their sources say."""

import pytest
import torch
from torch import Tensor

from bgm_pipeline.models import cost, registry
from bgm_pipeline.models.blocks import DilatedBlock, LstmBlock
from bgm_pipeline.models.nmf import ATOMS, Nmf
from bgm_pipeline.models.tfdmmdensenet import Cell, TfdMMDenseNet
from bgm_pipeline.models.wave_unet import twice

MASKS = ("unet", "blstm", "mdensenet", "mmdensenet", "mmdenselstm", "tfdmmdensenet", "nmf")


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("frames", [1, 9])
def test_a_mask_has_the_size_of_the_magnitude_and_is_not_negative(name: str, frames: int) -> None:
    magnitude = torch.rand(2, 1, 513, frames)
    with torch.inference_mode():
        mask = registry.get(name).build().eval()(magnitude)
    assert mask.shape == magnitude.shape
    assert mask.min() >= 0


@pytest.mark.parametrize("samples", [1, 4095, 4097])
def test_wave_unet_gives_as_many_samples_as_it_gets(samples: int) -> None:
    mixture = torch.randn(2, 1, samples)
    with torch.inference_mode():
        assert registry.get("wave_unet").build().eval()(mixture).shape == mixture.shape


@pytest.mark.parametrize(
    ("name", "parameters", "gflop"),
    [
        ("unet", 9_823_313, 9.0),
        ("wave_unet", 10_263_002, 57.4),
        ("blstm", 5_785_606, 8.7),
        ("mdensenet", 187_219, 61.7),
        ("mmdensenet", 257_857, 47.2),
        ("mmdenselstm", 586_770, 47.4),
        ("tfdmmdensenet", 433_878, 128.9),
        ("2dmmdensenet", 587_400, 102.6),
    ],
)
def test_what_a_segment_costs(name: str, parameters: int, gflop: float) -> None:
    network = registry.get(name)
    assert cost.parameters(network.build()) == parameters
    assert cost.gflop(network) == pytest.approx(gflop, abs=0.1)


def test_a_recurrent_layer_costs_two_operations_a_weight_and_frame() -> None:
    network = registry.get("blstm")
    module = network.build()
    recurrent = sum(p.numel() for name, p in module.lstm.named_parameters() if "weight" in name)
    linear = 513 * 512 + 1024 * 512 + 512 * 513
    assert cost.gflop(network) * 1e9 == pytest.approx(2 * 751 * (linear + recurrent), rel=1e-3)


def test_mmdensenet_is_table_1_without_the_dilated_blocks() -> None:
    assert not [
        block for block in registry.get("mmdensenet").build().modules() if type(block) is DilatedBlock
    ]


def test_mmdenselstm_has_its_lstms_where_the_bins_are_few() -> None:
    network = registry.get("mmdenselstm").build()
    blocks = {name: block for name, block in network.named_modules() if isinstance(block, LstmBlock)}
    assert {name.split(".")[0]: 0 for name in blocks} == {"low": 0, "high": 0, "full": 0}
    assert max(block.lstm.input_size for block in blocks.values()) == 512 // 4
    assert max(2 * block.lstm.hidden_size for block in blocks.values()) == 128


def test_the_follow_up_has_the_maps_of_its_appendix_table() -> None:
    network = TfdMMDenseNet()
    cells = [*network.encoder, *network.decoder]
    assert all(isinstance(cell, Cell) for cell in cells)
    before = [cell[2][0].num_features for cell in cells]
    assert before == [111, 111, 111, 111, 138, 145, 147]
    assert [cell.out_channels for cell in cells] == [27, 27, 27, 27, 34, 36, 36]


def test_upsampling_keeps_the_samples_and_puts_means_between_them() -> None:
    assert twice(torch.tensor([[[0.0, 2.0, 6.0]]])).tolist() == [[[0, 1, 2, 4, 6, 6]]]


def test_nmf_gives_each_sound_to_the_dictionary_that_has_it() -> None:
    def spectra(bins: slice) -> Tensor:
        atoms = torch.full((513, ATOMS), 1e-4)
        atoms[bins] = torch.rand(len(range(*bins.indices(513))), ATOMS)
        return atoms

    network = Nmf()
    network.music.data, network.residual.data = spectra(slice(0, 100)), spectra(slice(100, 513))
    mask = network(torch.rand(1, 1, 513, 5))
    assert mask[0, 0, :100].min() > 0.9
    assert mask[0, 0, 100:].max() < 0.1
