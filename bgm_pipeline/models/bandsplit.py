"""A compact network for machines without a GPU: bands of the spectrum, recurrent over time, mixed per step.

The idea is Luo & Yu 2022 ("Music source separation with band-split RNN"): bins are gathered into bands that
are narrow where music has its partials, each band becomes a vector, and a complex mask is read back from it.
Three things are ours, all for the sake of CPUs: two frames share one step, recurrent layers run over time
alone, and bands are mixed by the two small perceptrons of Tolstikhin et al. 2021 ("MLP-Mixer").
"""

import torch
from torch import Tensor, nn

BANDS = ((8, 4), (12, 8), (8, 16), (8, 32))
"""(bands, bins a band) from 0 Hz up: 63 Hz wide below 0.5 kHz, 125 Hz below 2 kHz, 250 Hz below 4 kHz, 500 Hz
above. The Nyquist bin gets no music."""

STEP_FRAMES = 2
"""Frames that share one step."""

COMPRESSION = 0.3
"""Exponent of the magnitudes that the network hears, so that what is quiet can be heard beside loud."""

_TINY = 1e-8


class BandSplit(nn.Module):
    """Complex spectrogram of a mixture to that of its music.

    Args:
        width: length of the vector that a band is in one step.
        hidden: units of each recurrent layer, in each direction.
        layers: recurrent layers, each followed by a mixing of the bands.
    """

    def __init__(self, width: int = 64, hidden: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(PerBand(n, STEP_FRAMES * bins * 3, width) for n, bins in BANDS)
        self.layers = nn.ModuleList(
            nn.Sequential(OverTime(width, hidden), OverBands(sum(n for n, _ in BANDS), width))
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        decoders = [PerBand(n, width, STEP_FRAMES * bins * 4) for n, bins in BANDS]
        # A mask of about one half to begin with: silence is hard to leave again.
        for decoder in decoders:
            decoder.weight.data *= 0.3
            decoder.bias.data.unflatten(-1, (-1, 4))[..., 0] = 1.0
        self.decoders = nn.ModuleList(decoders)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Estimate of the music.

        Args:
            spectrogram: complex, ``(batch, 1, 513, frame)``, any number of frames; scaled as
                `transforms.normalising_gain` says.

        Returns:
            Complex, of the same shape.
        """
        frames = spectrogram.shape[-1]
        x = torch.view_as_real(spectrogram[:, 0, :-1])  # (batch, 512, frame, 2)
        x = nn.functional.pad(x, (0, 0, 0, -frames % STEP_FRAMES))
        magnitude = x.square().sum(-1, keepdim=True).clamp_min(_TINY).sqrt()
        heard = torch.cat([x * magnitude ** (COMPRESSION - 1), magnitude**COMPRESSION], dim=-1)
        y = torch.cat([encode(b) for encode, b in zip(self.encoders, split(heard), strict=True)], dim=1)
        for layer in self.layers:
            y = layer(y)  # (batch, band, step, width)
        counts = [n for n, _ in BANDS]
        masks = [
            join(decode(b), bins)
            for decode, b, (_, bins) in zip(
                self.decoders, self.norm(y).split(counts, dim=1), BANDS, strict=True
            )
        ]
        value, gate = torch.cat(masks, dim=1).split(2, dim=-1)  # (batch, 512, frame, 2) each
        mask = torch.view_as_complex((value * gate.sigmoid())[:, :, :frames].float().contiguous())
        return nn.functional.pad((spectrogram[:, 0, :-1] * mask)[:, None], (0, 0, 0, 1))


def split(x: Tensor) -> list[Tensor]:
    """``(batch, 512, frame, channel)`` to ``(batch, band, step, feature)`` for each group of `BANDS`."""
    groups, first = [], 0
    for count, bins in BANDS:
        group = x[:, first : first + count * bins]
        group = group.unflatten(1, (count, bins)).unflatten(3, (-1, STEP_FRAMES))
        groups.append(
            group.permute(0, 1, 3, 2, 4, 5).flatten(3)
        )  # (batch, band, step, bins * frames * channel)
        first += count * bins
    return groups


def join(x: Tensor, bins: int) -> Tensor:
    """``(batch, band, step, bins * frames * 4)`` to ``(batch, band * bins, frame, 4)``."""
    x = x.unflatten(3, (bins, STEP_FRAMES, 4)).permute(0, 1, 3, 2, 4, 5)
    return x.flatten(3, 4).flatten(1, 2)


class PerBand(nn.Module):
    """A linear layer of its own for each band: ``(batch, band, step, inputs)`` to ``(..., outputs)``."""

    def __init__(self, bands: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(bands, inputs, outputs).uniform_(-1, 1) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(bands, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class OverTime(nn.Module):
    """Residual layer of a bidirectional LSTM over the steps; all bands share it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.recurrent = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, band, step, width)``, and out again."""
        y, _ = self.recurrent(self.norm(x).flatten(0, 1))  # (batch * band, step, 2 * hidden)
        return x + self.project(y).unflatten(0, x.shape[:2])


class OverBands(nn.Module):
    """Residual mixing of one step's bands: a perceptron across bands, then one across the vector's parts."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.across = nn.Sequential(nn.Linear(bands, 2 * bands), nn.ReLU(), nn.Linear(2 * bands, bands))
        self.within = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, band, step, width)``, and out again."""
        x = x + self.across(self.norms[0](x).transpose(1, 3)).transpose(1, 3)
        return x + self.within(self.norms[1](x))
