"""Short-time Fourier transform, its inverse, and the level that a network expects."""

import torch
from torch import Tensor, nn
from torchaudio.transforms import InverseSpectrogram, Spectrogram

N_FFT = 1024
WIN_LENGTH = 1024
HOP_LENGTH = 256

REFERENCE_RMS = 0.1
"""Level (RMS, full scale 1) of the mixture that a network gets to see; a magnitude bin is then about 1."""

_SILENCE_RMS = 1e-7


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
