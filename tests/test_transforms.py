"""The transform is the paper's, and its inverse gives back what went in."""

import numpy as np
import pytest
import torch

from bgm_pipeline.transforms import REFERENCE_RMS, Stft, normalising_gain


def test_a_segment_has_513_bins_and_751_frames() -> None:
    assert Stft()(torch.zeros(1, 1, 12 * 16_000)).shape == (1, 1, 513, 751)


@pytest.mark.parametrize("samples", [513, 1000, 16_000, 16_001])
def test_the_inverse_gives_back_what_went_in(samples: int) -> None:
    stft = Stft()
    wave = torch.randn(2, 1, samples)
    assert torch.allclose(stft.inverse(stft(wave), samples), wave, atol=1e-5)


def test_agrees_with_a_transform_by_definition() -> None:
    wave = np.random.default_rng(1).standard_normal(4096)
    spectrum = Stft()(torch.from_numpy(wave)[None, None].float())[0, 0, :, 8].numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    expected = np.fft.rfft(window * wave[8 * 256 - 512 : 8 * 256 + 512])
    assert np.allclose(spectrum, expected, atol=1e-3)


def test_the_gain_brings_any_level_to_the_reference_and_leaves_silence() -> None:
    wave = torch.randn(3, 1, 8000) * torch.tensor([1e-3, 0.3, 0.0])[:, None, None]
    gain = normalising_gain(wave)
    rms = (wave * gain).square().mean(dim=(1, 2)).sqrt()
    assert rms[:2].tolist() == pytest.approx([REFERENCE_RMS] * 2, rel=1e-4)
    assert gain[2].item() == 1
