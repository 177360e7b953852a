"""How well music is found in programmes whose truth is known: by frames and by events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mir_eval
import numpy as np
from numpy.typing import NDArray

from bgm_pipeline.timebase import SCORE_HOP_SAMPLES, samples_to_s

Span = tuple[int, int]
"""First sample, and the first one after."""

COLLAR_S = 0.5
"""By so much may an event's start be off; its end also by half of the event's length."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Counts that precision, recall and F1 follow from."""

    matched: float = 0
    """True positives."""
    estimated: float = 0
    reference: float = 0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.matched + other.matched,
            self.estimated + other.estimated,
            self.reference + other.reference,
        )

    @property
    def precision(self) -> float:
        """Share of what was found that is right; nan if nothing was found."""
        return self.matched / self.estimated if self.estimated else float("nan")

    @property
    def recall(self) -> float:
        """Share of what is there that was found; nan if nothing is there."""
        return self.matched / self.reference if self.reference else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; nan if there was nothing to find and nothing found."""
        both = self.estimated + self.reference
        return 2 * self.matched / both if both else float("nan")


def by_frames(reference: Iterable[Span], estimated: Iterable[Span], duration_samples: int) -> Agreement:
    """Agreement over the 100 ms frames of a programme, in seconds."""
    truth, found = frames(reference, duration_samples), frames(estimated, duration_samples)
    frame_s = samples_to_s(SCORE_HOP_SAMPLES)
    return Agreement(*(float(x.sum()) * frame_s for x in (truth & found, found, truth)))


def by_events(reference: Sequence[Span], estimated: Sequence[Span]) -> Agreement:
    """Agreement of events: starts within 500 ms, ends within 500 ms or half of the reference's length.

    These are the event-based metrics of Mesaros et al. 2016 ("Metrics for polyphonic sound event
    detection"), with mir_eval's optimal matching: an event is a note whose pitch is always right.
    """
    if not reference or not estimated:
        return Agreement(0, len(estimated), len(reference))
    intervals = [np.array(spans) * samples_to_s(1) for spans in (reference, estimated)]
    pitches = [np.full(len(spans), 440.0) for spans in intervals]
    matched = mir_eval.transcription.match_notes(
        intervals[0],
        pitches[0],
        intervals[1],
        pitches[1],
        onset_tolerance=COLLAR_S,
        offset_ratio=0.5,
        offset_min_tolerance=COLLAR_S,
    )
    return Agreement(len(matched), len(estimated), len(reference))


def frames(spans: Iterable[Span], duration_samples: int) -> NDArray[np.bool_]:
    """Whether each 100 ms frame of a programme is in a span by half of it or more."""
    count = -(-duration_samples // SCORE_HOP_SAMPLES)
    inside = np.zeros(count, bool)
    for start, end in spans:
        first, last = (round(at / SCORE_HOP_SAMPLES) for at in (start, end))
        inside[first:last] = True
    return inside
