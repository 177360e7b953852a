"""Any channel layout to mono: first to a stereo pair by ITU-R BS.775 (ffmpeg does it), then to mono (here).

The pair is ``L0 = L + 0.7071 C + 0.7071 Ls`` and ``R0 = R + 0.7071 C + 0.7071 Rs``: no LFE, no
normalisation; a single rear channel goes to both with 0.5. Mono is ``(L0 + R0) / 2``, so of 5.1

    ``0.5 L + 0.5 R + 0.7071 C + 0.3536 Ls + 0.3536 Rs``

which is BS.775-3 Table 2's mono (0.7071, 0.7071, 1, 0.5, 0.5) times 0.7071. A mono stream stays as it is.

Stereo whose one side has its polarity turned (a miswired line) would cancel out in ``L + R``. So ``R`` is
turned back while the two sides are each other's negative: see :class:`MonoMixer`.
"""

import numpy as np

from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.types import Samples

CENTRE_GAIN = 0.5**0.5
SURROUND_GAIN = 0.5**0.5
LFE_GAIN = 0.0

WINDOW_SAMPLES = SAMPLE_RATE // 10
"""Polarity is decided once in 0.1 s."""

_RAMP = np.linspace(0, 1, SAMPLE_RATE // 50, endpoint=False, dtype=np.float32)
_INVERTED_BELOW = -0.8
_NORMAL_ABOVE = 0.0
_LOUDEST = 8.0
"""18 dB over full scale: no mix comes near it, but a decoder fed with damaged data does."""


class MonoMixer:
    """Stereo to mono that does not cancel out.

    In every window of 0.1 s the likeness of the sides, ``2 sum(L R) / (sum(L L) + sum(R R))``, is measured:
    +1 for equal sides, -1 for opposite ones. Below -0.8 (less than a tenth of the power would remain in
    ``L + R``) the mix changes to ``(L - R) / 2``; above 0 it changes back; in between, and in digital
    silence, it stays. A change is a 20 ms ramp of ``R``'s gain, so there is no click. Decisions lie on the
    window grid, so the result does not depend on how the stream is cut into blocks.
    """

    def __init__(self) -> None:
        self._right_gain = 1.0
        self.muted_samples = 0
        """How many samples were no audio (not finite, or 18 dB over full scale) and were muted."""

    def mix(self, stereo: Samples) -> Samples:
        """Mix consecutive samples.

        Args:
            stereo: ``(sample, 2)``; a whole number of windows, but for the stream's last call.

        Returns:
            ``(sample,)``, mono, at the input's level.
        """
        broken = ~(np.abs(stereo) < _LOUDEST)
        if broken.any():
            self.muted_samples += int(broken.any(axis=1).sum())
            stereo = np.where(broken, np.float32(0), stereo)
        mono = np.empty(len(stereo), np.float32)
        for start in range(0, len(stereo), WINDOW_SAMPLES):
            window = stereo[start : start + WINDOW_SAMPLES]
            left, right = window[:, 0], window[:, 1]
            gain_before, gain = self._right_gain, self._decide(left, right)
            mixed = 0.5 * (left + np.float32(gain) * right)
            if gain != gain_before:
                n = min(len(_RAMP), len(mixed))
                gains = gain_before + (gain - gain_before) * _RAMP[:n]
                mixed[:n] = 0.5 * (left[:n] + gains * right[:n])
            mono[start : start + len(window)] = mixed
            self._right_gain = gain
        return mono

    def _decide(self, left: Samples, right: Samples) -> float:
        power = float(left @ left + right @ right)
        if power == 0:
            return self._right_gain
        likeness = 2 * float(left @ right) / power
        if likeness < _INVERTED_BELOW:
            return -1.0
        return 1.0 if likeness > _NORMAL_ABOVE else self._right_gain
