"""A small convolutional recurrent network that says ten times a second whether music plays.

The kind is Cakir et al. 2017 (CRNN for polyphonic sound event detection): convolutions over a log-mel
spectrogram, a recurrent layer over time.
"""

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from bgm_pipeline.timebase import SAMPLE_RATE, SCORE_HOP_SAMPLES

_HOP_LENGTH = SCORE_HOP_SAMPLES // 5
_MELS = 64


class MusicDetector(nn.Module):
    """Audio to logits of "music plays", one for each 100 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(
            SAMPLE_RATE, n_fft=1024, hop_length=_HOP_LENGTH, f_min=40, f_max=7800, n_mels=_MELS
        )
        self.scale = nn.BatchNorm1d(_MELS)

        def stage(maps_in: int, maps_out: int, pool: tuple[int, int]) -> nn.Sequential:
            conv = nn.Conv2d(maps_in, maps_out, 3, padding=1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(maps_out), nn.ReLU(), nn.MaxPool2d(pool))

        self.convolutions = nn.Sequential(stage(1, 24, (2, 1)), stage(24, 48, (4, 5)), stage(48, 96, (4, 1)))
        self.recurrent = nn.LSTM(96 * _MELS // 32, 96, 2, batch_first=True, bidirectional=True)
        self.logit = nn.Linear(192, 1)

    def forward(self, samples: Tensor) -> Tensor:
        """Logits of "music plays".

        Args:
            samples: ``(batch, 1, sample)``, 16 kHz, scaled by `transforms.normalising_gain`.

        Returns:
            ``(batch, score)``, one for each whole 100 ms.
        """
        scores = samples.shape[-1] // SCORE_HOP_SAMPLES
        mel = self.mel(samples[:, 0])[..., : scores * 5]  # (batch, mel, 5 * score)
        x = self.scale(torch.log(mel + 1e-5))  # (batch, mel, 5 * score)
        x = self.convolutions(x[:, None])  # (batch, 96, mel / 32, score)
        x = x.flatten(1, 2).transpose(1, 2)  # (batch, score, 192)
        x, _ = self.recurrent(x)  # (batch, score, 192)
        return self.logit(x)[..., 0]
