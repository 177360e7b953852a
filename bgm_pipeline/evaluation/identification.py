"""What separation is for: does a fingerprinter find the music, and at the right place?

The fingerprinter is audfprint2 (Wang 2003; Ellis 2014): pairs of spectral peaks, here 40 hashes a second.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.training.corpus import Clip, Corpus
from bgm_pipeline.types import Samples

HASHES_A_SECOND = 40.0
TOLERANCE_S = 1.0
"""An answer is right if it names the track and a place no further off than this."""

OTHERS_A_TRACK = 3
"""So many tracks of other splits are in the catalogue for each one that is asked for, if there are."""

_SHIFTS = 4
_WINDOW_FRAMES = 2
_FRAME_BITS = 16
"""Enough for tracks of 25 minutes. Later places would be counted from 0 again, hence more for longer ones."""


Hashes = NDArray[np.int32]
"""``(hash, 2)``: frame and value."""

Outcome = Literal["right", "wrong", "none"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a catalogue says of a query."""

    track: str
    start_s: float
    """Where in the track the query begins."""
    hashes: int
    """How many hashes agree on that."""


@dataclass(frozen=True, slots=True)
class Identification:
    """How a query fared."""

    outcome: Outcome
    """Of the first answer."""
    hashes: int
    """How many hashes agree on the right place, whether it was the first answer or not."""


class Fingerprinter:
    """Hashes of samples; audfprint2's own defaults but for the density."""

    @cached_property
    def _analyzer(self) -> Any:
        from audfprint2 import Analyzer  # noqa: PLC0415 - sets up logging when it is imported

        return Analyzer(density=HASHES_A_SECOND)

    @property
    def frame_s(self) -> float:
        """Seconds between the frames of `Hashes`."""
        return float(self._analyzer.n_hop / self._analyzer.target_sr)

    def track(self, samples: Samples) -> Hashes:
        """Hashes of a track for the catalogue."""
        return self._hashes(self._resampled(samples))

    def query(self, samples: Samples) -> Hashes:
        """Hashes of what is asked for: of four grids a quarter of a frame apart, as audfprint matches."""
        resampled = self._resampled(samples)
        step = self._analyzer.n_hop // _SHIFTS
        grids = [self._hashes(resampled[step * shift :]) for shift in range(_SHIFTS)]
        return np.unique(np.concatenate(grids), axis=0)

    def _resampled(self, samples: Samples) -> NDArray[np.float64]:
        return resample_poly(samples.astype(np.float64), self._analyzer.target_sr, SAMPLE_RATE)

    def _hashes(self, resampled: NDArray[np.float64]) -> Hashes:
        from audfprint2.core.analyzer import landmarks2hashes  # noqa: PLC0415

        if not resampled.any():
            return np.zeros((0, 2), np.int32)
        peaks = self._analyzer.find_peaks(resampled, self._analyzer.target_sr)
        return landmarks2hashes(self._analyzer.peaks2landmarks(peaks))


class Catalogue:
    """Tracks by their hashes."""

    def __init__(self, fingerprinter: Fingerprinter, tracks: dict[str, Hashes]) -> None:
        from audfprint2 import HashTable, Matcher  # noqa: PLC0415

        self.frame_s = fingerprinter.frame_s
        self.names = list(tracks)
        last_frame = max((int(hashes[:, 0].max()) for hashes in tracks.values() if len(hashes)), default=0)
        self.table = HashTable(maxtime=1 << max(_FRAME_BITS, last_frame.bit_length()))
        # A hash that is full drops some of its places at random: always the same ones.
        state = random.getstate()
        random.seed(0)
        for name, hashes in tracks.items():
            self.table.store(name, hashes.tolist())
        random.setstate(state)
        self.matcher = Matcher()
        self.matcher.window = _WINDOW_FRAMES

    def answers(self, query: Hashes) -> list[Answer]:
        """Tracks and places that more than five hashes agree on, the best first."""
        if not len(query):
            return []
        matches = self.matcher.match_hashes(self.table, query)
        return [
            Answer(self.names[track], float(skew) * self.frame_s, int(hashes))
            for track, hashes, skew, *_ in matches
        ]

    def identify(self, query: Hashes, track: str, start_s: float) -> Identification:
        """How a query fares whose music begins at `start_s` of `track`."""
        answers = self.answers(query)
        right = [a for a in answers if a.track == track and abs(a.start_s - start_s) <= TOLERANCE_S]
        outcome: Outcome = "none" if not answers else "right" if answers[0] in right else "wrong"
        return Identification(outcome, max((answer.hashes for answer in right), default=0))


def tracks_of(corpus: Corpus, split: str) -> Sequence[Clip]:
    """What a catalogue holds: the music of a split, and more of the other splits, evenly spread."""
    own = corpus.select(split, "music")
    others = [clip for clip in corpus.clips if clip.kind == "music" and clip.split != split]
    wanted = min(len(others), OTHERS_A_TRACK * len(own))
    return [*own, *(others[at * len(others) // wanted] for at in range(wanted))]
