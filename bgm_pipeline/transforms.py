"""Short-time Fourier transform, its inverse, the level that a network expects, and the power over time."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchaudio.transforms import InverseSpectrogram, Spectrogram

from bgm_pipeline.timebase import SCORE_HOP_SAMPLES
from bgm_pipeline.types import Samples

N_FFT = 1024
WIN_LENGTH = 1024
HOP_LENGTH = 256

REFERENCE_RMS = 0.1
"""Level (RMS, full scale 1) of the mixture that a network gets to see; a magnitude bin is then about 1."""

_SILENCE_RMS = 1e-7

Powers = NDArray[np.float64]


class Stft(nn.Module):
    """Complex spectrogram and back (Hann window of 1,024, hop 256, centred frames, by torchaudio).

    A 12 s segment at 16 kHz gives 513 bins and 751 frames.
    """

    def __init__(self) -> None:
        super().__init__()
        self.analysis = Spectrogram(N_FFT, WIN_LENGTH, HOP_LENGTH, power=None)
        self.synthesis = InverseSpectrogram(N_FFT, WIN_LENGTH, HOP_LENGTH)

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, channel, sample)`` to complex ``(batch, channel, freq, frame)``, at least 513 samples."""
        return self.analysis(samples)

    def inverse(self, spectrogram: Tensor, length_samples: int) -> Tensor:
        """Complex ``(batch, channel, freq, frame)`` to ``(batch, channel, length_samples)``."""
        return self.synthesis(spectrogram, length_samples)


def normalising_gain(mixture: Tensor) -> Tensor:
    """Gain that brings a mixture to `REFERENCE_RMS`.

    Args:
        mixture: ``(batch, channel, sample)``.

    Returns:
        ``(batch, 1, 1)``; 1 where the mixture is silent.
    """
    rms = mixture.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return torch.where(rms > _SILENCE_RMS, REFERENCE_RMS / rms.clamp_min(_SILENCE_RMS), torch.ones_like(rms))


def hop_powers(samples: Samples) -> Powers:
    """Mean square of every begun 100 ms, ``(score,)``."""
    starts = np.arange(0, len(samples), SCORE_HOP_SAMPLES)
    sums = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    return np.asarray(sums / np.diff(np.append(starts, len(samples))))
