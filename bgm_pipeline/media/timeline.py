"""From frames with time stamps to samples without hole or overlap on the presentation timeline.

Time stamps are believed, but not blindly. A deviation counts once the frames after it agree with it for
``CONFIRM_S``, or once the clock leaps ahead again, as it does where one loss follows another; a lone false
stamp moves nothing. Then:

===============================  ==================================================================
the clock ...                    what is done
===============================  ==================================================================
is off by < ``TOLERANCE_S``      nothing: rounding of time stamps
jumps ahead, <= ``MAX_GAP_S``    silence fills the gap; recorded, if shorter than ``min_gap_s`` as damage
jumps back, <= ``MAX_OVERLAP_S`` what had been heard is dropped; recorded as damage
jumps further                    the clock was set anew (a splice, an encoder's restart): the audio
                                 goes on where it was; recorded as damage
===============================  ==================================================================
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bgm_pipeline.timebase import s_to_samples, samples_to_s
from bgm_pipeline.types import Damage, Gap

TOLERANCE_S = 0.004
"""Containers round time stamps to a millisecond or finer; smaller deviations mean nothing."""

CONFIRM_S = 0.2
"""So much audio must agree with a new clock before it is believed."""

LOSS_S = 0.015
"""What is lost is at least a frame, and hardly a codec has shorter ones; so small a leap is jitter."""

MAX_LOSS_S = 10.0
MAX_GAP_S = 3600.0
MAX_OVERLAP_S = 1.0

_SILENCE_SAMPLES = s_to_samples(1.0)

Stereo = NDArray[np.float32]
"""Shape ``(sample, channel)``, 16 kHz, two channels."""


class Timeline:
    """Puts decoded frames, one after the other, where their time stamps say.

    Args:
        zero_samples: the container's start on the container's clock, samples at 16 kHz.
        min_gap_s: shorter holes are filled and counted, but are no gaps.
    """

    def __init__(self, zero_samples: int, min_gap_s: float) -> None:
        self.gaps: list[Gap] = []
        self.written_samples = 0
        """How much of the timeline has been given out."""
        self._clock_changes = 0
        self._first_change = 0
        self._offset = zero_samples
        self._position = 0
        self._started = False
        self._doubtful: list[Stereo] = []
        self._doubtful_pts = 0
        self._doubtful_samples = 0
        self._damage: Counter[str] = Counter()
        self._min_gap = s_to_samples(min_gap_s)

    def place(self, pts: int | None, samples: Stereo) -> Iterator[Stereo]:
        """Take the next frame; give what is settled, contiguous, from sample 0 on.

        Args:
            pts: time stamp of the first sample on the container's clock, in samples; none: right after
                the frame before.
            samples: ``(sample, channel)``.
        """
        if not self._started and pts is not None and pts < self._offset:
            # An encoder's priming lies before the container's start: it is cut, and no damage.
            self._position = max(pts - self._offset, -s_to_samples(MAX_OVERLAP_S))
        self._started = True
        if self._doubtful:
            expected_old = self._position + self._doubtful_samples + self._offset
            expected_new = self._doubtful_pts + self._doubtful_samples
            if pts is None or _close(pts, expected_new):
                self._doubt(samples)
                if self._doubtful_samples >= s_to_samples(CONFIRM_S):
                    yield from self._believe()
                return
            leaps = self._doubtful_pts - self._offset - self._position, pts - expected_new
            if all(s_to_samples(LOSS_S) <= leap <= s_to_samples(MAX_LOSS_S) for leap in leaps):
                yield from self._believe()
            else:
                if abs(leaps[0]) >= s_to_samples(LOSS_S):
                    self._damage["frames with a false time stamp"] += len(self._doubtful)
                yield from self._settle()
                if _close(pts, expected_old):
                    yield from self._append(samples)
                    return
        if pts is None or _close(pts, self._position + self._offset):
            yield from self._append(samples)
        else:
            self._doubtful_pts = pts
            self._doubt(samples)

    def finish(self) -> Iterator[Stereo]:
        """Give what is still in doubt at the end of the stream."""
        if len(self._doubtful) > 1:
            yield from self._believe()
        else:
            yield from self._settle()

    @property
    def damage(self) -> list[Damage]:
        """What was wrong with the time stamps, and how often."""
        damage = [Damage(message, count) for message, count in self._damage.items()]
        if self.clock_changed:
            message = (
                f"the clock was changed (at first by {samples_to_s(self._first_change):+.3f} s); "
                "the audio goes on where it was"
            )
            damage.append(Damage(message, self._clock_changes))
        return damage

    @property
    def clock_changed(self) -> bool:
        """Whether the stream's clock was set anew, so that the container's duration means nothing."""
        return self._clock_changes > 0

    def _doubt(self, samples: Stereo) -> None:
        self._doubtful.append(samples)
        self._doubtful_samples += len(samples)

    def _settle(self) -> Iterator[Stereo]:
        doubtful, self._doubtful, self._doubtful_samples = self._doubtful, [], 0
        for samples in doubtful:
            yield from self._append(samples)

    def _believe(self) -> Iterator[Stereo]:
        jump = self._doubtful_pts - self._offset - self._position
        if -s_to_samples(MAX_OVERLAP_S) <= jump <= s_to_samples(MAX_GAP_S):
            self._position += jump
            if jump < 0:
                self._damage["the clock jumps back a little; what had been heard was dropped"] += 1
            yield from self._fill()
        else:
            self._offset += jump
            self._first_change = self._first_change or jump
            self._clock_changes += 1
        yield from self._settle()

    def _fill(self) -> Iterator[Stereo]:
        start = self.written_samples
        if self._position - start >= self._min_gap:
            reason = "no audio in the file" if start else "the audio starts late"
            self.gaps.append(Gap(start, self._position, reason))
        elif start and self._position > start:
            self._damage["short holes, filled with silence"] += 1
        while (missing := self._position - self.written_samples) > 0:
            silence = np.zeros((min(missing, _SILENCE_SAMPLES), 2), np.float32)
            self.written_samples += len(silence)
            yield silence

    def _append(self, samples: Stereo) -> Iterator[Stereo]:
        heard = self.written_samples - self._position
        self._position += len(samples)
        if heard < len(samples):
            self.written_samples = self._position
            yield samples[heard:]


def _close(pts: int, expected: int) -> bool:
    return abs(pts - expected) < s_to_samples(TOLERANCE_S)
