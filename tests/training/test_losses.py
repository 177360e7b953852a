"""What the losses call better is better to the ear: nearer to the music, also where it is quiet or absent."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bgm_pipeline.errors import ModelError
from bgm_pipeline.models import registry
from bgm_pipeline.training.losses import Loss, SeparationObjective, objective_for
from bgm_pipeline.training.protocols import training_settings
from bgm_pipeline.transforms import REFERENCE_RMS

LENGTH = 16_384


class Keep(nn.Module):
    """A mask that keeps the same share of every bin."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, magnitude: Tensor) -> Tensor:
        return self.share.expand(magnitude.shape)


def noise(seed: int, level: float = REFERENCE_RMS) -> Tensor:
    return level * torch.randn(1, 1, LENGTH, generator=torch.manual_seed(seed))


def losses(
    objective: SeparationObjective, mixture: Tensor, music: Tensor, shares: list[float]
) -> list[float]:
    batch = {"mixture": mixture, "music": music}
    return [float(objective.loss(Keep(share), batch).detach()) for share in shares]


@pytest.mark.parametrize("loss", get_args(Loss))
def test_the_share_that_is_music_is_the_best_mask_at_any_level(loss: Loss) -> None:
    objective = SeparationObjective(loss=loss)
    mixture = noise(1)
    for share in (1.0, 0.3, 0.03):
        found = losses(objective, mixture, share * mixture, [share / 4, share / 2, share])
        assert found == sorted(found, reverse=True)
        assert found[-1] < 1e-4


@pytest.mark.parametrize("loss", get_args(Loss))
def test_where_there_is_no_music_silence_is_the_best_answer(loss: Loss) -> None:
    found = losses(SeparationObjective(loss=loss), noise(1), 0 * noise(1), [1.0, 0.1, 0.01, 0.0])
    assert found == sorted(found, reverse=True)


def test_compressed_magnitudes_keep_music_that_is_seldom_there() -> None:
    """One example of four is music: silence is the median's answer, and not the mean's."""
    mixture = noise(1).expand(4, -1, -1)
    music = torch.cat([mixture[:1], torch.zeros(3, 1, LENGTH)])
    shares = [0.0, 0.06, 1.0]
    median = losses(SeparationObjective(loss="l1"), mixture, music, shares)
    mean = losses(SeparationObjective(loss="compressed"), mixture, music, shares)
    assert min(median) == median[0]
    assert min(mean) == mean[1]


def test_less_is_kept_where_the_phases_are_not_the_musics() -> None:
    """Of music under as loud a noise, magnitudes alone want what the ear would hear as mostly noise."""
    music = noise(1)
    mixture, shares = music + noise(2), [0.2, 0.4, 0.65]
    magnitudes, phases, _ = (
        losses(SeparationObjective(loss=loss), mixture, music, shares) for loss in get_args(Loss)
    )
    assert min(magnitudes) == magnitudes[2]
    assert min(phases) == phases[1]
    shares = [at / 20 for at in range(1, 20)]
    best = [
        shares[int(np.argmin(losses(SeparationObjective(loss=loss), mixture, music, shares)))]
        for loss in get_args(Loss)
    ]
    assert sorted(set(best), reverse=True) == best


def test_gradients_are_finite_in_silence() -> None:
    mask = Keep(0.0)
    silence = torch.zeros(1, 1, LENGTH)
    SeparationObjective(loss="compressed").loss(mask, {"mixture": silence, "music": silence}).backward()
    assert mask.share.grad is not None and torch.isfinite(mask.share.grad)


@pytest.mark.parametrize("loss", get_args(Loss))
def test_a_pupil_learns_the_teachers_mask_whatever_the_recordings_hold(loss: Loss) -> None:
    teacher = registry.LoadedNetwork(registry.get("bandsplit"), Keep(0.3), "", {})
    objective = SeparationObjective(loss=loss, teacher=teacher)
    found = losses(objective, noise(1), noise(2), [1.0, 0.1, 0.25, 0.3])
    assert found == sorted(found, reverse=True)
    assert found[-1] < 1e-4
    objective.loss(Keep(0.5), {"mixture": noise(1), "music": noise(2)}).backward()
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_a_lesson_is_of_peaks_however_soft() -> None:
    """A pupil that keeps everything but a soft tone's peak is worse than one that is as wrong elsewhere."""
    magnitude = noise(1).abs().reshape(1, 1, 128, 128) + REFERENCE_RMS
    taught = torch.full_like(magnitude, 1e-3)
    taught[..., 64, :] = 0.02
    blunt, leaky = taught.clone(), taught.clone()
    blunt[..., 64, :] = 1e-3
    leaky[..., 20:108, :] *= 1.3
    objective = SeparationObjective()
    losses_of = [float(objective.lesson(mask, taught, magnitude)) for mask in (taught, leaky, blunt)]
    assert losses_of == sorted(losses_of)
    assert losses_of[0] == 0 < losses_of[1] < losses_of[2] / 10


@pytest.mark.parametrize(
    ("pupil", "teacher"),
    [("wave_unet", "bandsplit"), ("2dmmdensenet", "wave_unet"), ("music_detector", "bandsplit")],
)
def test_networks_that_make_no_mask_neither_teach_nor_are_taught(pupil: str, teacher: str) -> None:
    loaded = registry.LoadedNetwork(registry.get(teacher), Keep(0.3), "", {})
    with pytest.raises(ModelError, match=f"{teacher} cannot teach|{pupil} is .* for detection"):
        objective_for(registry.get(pupil), "compressed", loaded)


def test_the_papers_protocol_has_the_papers_loss() -> None:
    assert training_settings("paper").loss == "l1"
    assert training_settings("paper", loss="compressed").loss == "compressed"
    mixture = noise(1)
    network = registry.get("2dmmdensenet")
    found = [losses(objective_for(network, loss), mixture, mixture, [0.25]) for loss in get_args(Loss)]
    assert found[0] != found[1]
