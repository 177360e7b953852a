"""Bidirectional LSTM after Uhlich et al. 2017 (Improving music source separation based on deep neural
networks through data augmentation and network blending), as Open-Unmix has it (Stöter et al. 2019).

From Open-Unmix: inputs shifted and scaled by learnt numbers; a linear layer to 512, batch norm, tanh; three
bidirectional LSTM layers of 2 x 256 cells, with a connection around them; two linear layers back to the
bins, each with batch norm; outputs scaled and shifted by learnt numbers; a ReLU for the mask, which may thus
be above 1.
"""

import torch
from torch import Tensor, nn

from bgm_pipeline.transforms import N_FFT

_BINS = N_FFT // 2 + 1
_CELLS = 512
_LAYERS = 3
_DROPOUT = 0.4


class Blstm(nn.Module):
    """Gives a mask for a magnitude spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.shift_in, self.scale_in = nn.Parameter(torch.zeros(_BINS)), nn.Parameter(torch.ones(_BINS))
        self.narrow = nn.Linear(_BINS, _CELLS, bias=False)
        self.norm_narrow = nn.BatchNorm1d(_CELLS)
        self.lstm = nn.LSTM(
            *(_CELLS, _CELLS // 2, _LAYERS), batch_first=True, bidirectional=True, dropout=_DROPOUT
        )
        self.join = nn.Linear(2 * _CELLS, _CELLS, bias=False)
        self.norm_join = nn.BatchNorm1d(_CELLS)
        self.widen = nn.Linear(_CELLS, _BINS, bias=False)
        self.norm_widen = nn.BatchNorm1d(_BINS)
        self.scale_out, self.shift_out = nn.Parameter(torch.ones(_BINS)), nn.Parameter(torch.ones(_BINS))

    def forward(self, magnitude: Tensor) -> Tensor:
        """Magnitudes ``(batch, 1, 513, frame)`` to a mask of that shape, not below 0."""
        batch, _, _, frames = magnitude.shape
        x = magnitude[:, 0].transpose(1, 2).flatten(0, 1)  # (batch * frame, bin)
        x = (x + self.shift_in) * self.scale_in
        x = torch.tanh(self.norm_narrow(self.narrow(x)))  # (batch * frame, cell)
        along, _ = self.lstm(x.unflatten(0, (batch, frames)))  # (batch, frame, cell)
        x = torch.cat([x, along.flatten(0, 1)], dim=1)  # (batch * frame, 2 cell)
        x = torch.relu(self.norm_join(self.join(x)))  # (batch * frame, cell)
        x = self.norm_widen(self.widen(x)) * self.scale_out + self.shift_out  # (batch * frame, bin)
        return torch.relu(x).unflatten(0, (batch, frames)).transpose(1, 2)[:, None]
