"""What the losses call better is better to the ear: nearer to the music, also where it is quiet or absent."""

import torch
from torch import Tensor

from bgm_pipeline.training.losses import spectrum_loss
from bgm_pipeline.transforms import REFERENCE_RMS, Stft

LENGTH = 16_384


def noise(seed: int, level: float = REFERENCE_RMS) -> Tensor:
    return level * torch.randn(1, 1, LENGTH, generator=torch.manual_seed(seed))


def loss(estimate: Tensor, music: Tensor) -> float:
    stft = Stft()
    return float(spectrum_loss(stft(estimate), stft(music)))


def test_the_nearer_estimate_has_the_smaller_loss_at_any_level_of_the_music() -> None:
    speech = noise(1)
    for level in (1.0, 0.1, 0.03):
        music = noise(2, level * REFERENCE_RMS)
        losses = [loss(music + left * speech, music) for left in (1.0, 0.3, 0.1, 0.03, 0.01)]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.3 * losses[0]


def test_where_there_is_no_music_silence_is_the_best_answer() -> None:
    silence = torch.zeros(1, 1, LENGTH)
    losses = [loss(noise(1, level), silence) for level in (0.1, 0.01, 0.001)] + [loss(silence, silence)]
    assert losses == sorted(losses, reverse=True)


def test_the_phase_counts() -> None:
    music = noise(2)
    assert loss(-music, music) > loss(0.5 * music, music) > loss(music, music)


def test_gradients_are_finite_in_silence() -> None:
    estimate = torch.zeros(1, 1, 513, 9, dtype=torch.complex64, requires_grad=True)
    spectrum_loss(estimate, torch.zeros(1, 1, 513, 9, dtype=torch.complex64)).backward()
    assert estimate.grad is not None and torch.isfinite(torch.view_as_real(estimate.grad)).all()
