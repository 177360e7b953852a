"""Non-negative matrix factorisation: the older way, after Schmidt & Olsson 2006 and Smaragdis et al. 2007.

A dictionary of spectra for music and one for all else are learnt beforehand (`training.factorisation`). Of a
mixture only the activations are sought, by the multiplicative update for the generalised Kullback-Leibler
divergence (Lee & Seung 2001, eq. 5); the mask is the music's share of the model (Wiener-like ratio).
"""

import torch
from torch import Tensor, nn

from bgm_pipeline.transforms import N_FFT

ATOMS = 96
"""Spectra in each of the two dictionaries."""

UPDATES = 60
"""Of the activations of a mixture; more changed the mask by less than a hundredth."""

_FLOOR = 1e-6


class Nmf(nn.Module):
    """Gives a mask for a magnitude spectrogram; has dictionaries instead of layers."""

    def __init__(self) -> None:
        super().__init__()
        bins = N_FFT // 2 + 1
        self.music = nn.Parameter(torch.ones(bins, ATOMS), requires_grad=False)
        self.residual = nn.Parameter(torch.ones(bins, ATOMS), requires_grad=False)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Magnitudes ``(batch, 1, 513, frame)`` to a mask of that shape, each value in 0..1."""
        spectra = magnitude[:, 0]  # (batch, bin, frame)
        atoms = torch.cat([self.music, self.residual], dim=1)  # (bin, 2 atom)
        atoms = atoms / atoms.sum(dim=0)
        activations = spectra.sum(dim=1, keepdim=True).expand(-1, 2 * ATOMS, -1) / (2 * ATOMS)
        for _ in range(UPDATES):  # each atom sums to 1, which makes the update's denominator 1
            activations = activations * (atoms.T @ (spectra / (atoms @ activations).clamp_min(_FLOOR)))
        music = atoms[:, :ATOMS] @ activations[:, :ATOMS]  # (batch, bin, frame)
        return (music / (atoms @ activations).clamp_min(_FLOOR))[:, None]
