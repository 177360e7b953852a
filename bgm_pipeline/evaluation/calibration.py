"""Fits what turns a detector's features into scores, and scores into the probability of a segment."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from bgm_pipeline.calibration import FEATURES, Calibration, best_logit
from bgm_pipeline.detection import Detector
from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation.broadcast import PseudoBroadcast
from bgm_pipeline.segments import cut_chunks
from bgm_pipeline.separation import Separator
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import SCORE_HOP_SAMPLES, s_to_samples, samples_to_s
from bgm_pipeline.types import Block

_RIDGE = 1e-3

Values = NDArray[np.float64]


def fit(
    broadcasts: Iterable[PseudoBroadcast],
    separator: Separator,
    detector: Detector,
    settings: Settings,
    progress: Callable[[float], None] = lambda done_s: None,
) -> Calibration:
    """Two logistic regressions on programmes whose truth is known.

    Args:
        broadcasts: of the validation split, never of the test split.
        separator: the network whose estimates the detector will see.
        detector: its network is used; its own calibration is not.
        progress: told how many seconds of programme are behind.

    Raises:
        InputError: the programmes hold nothing but music, or none.
    """
    features, truths, segments, done_s = [], [], [], 0.0
    for broadcast in broadcasts:
        chunks = cut_chunks([Block(0, broadcast.mixture)], s_to_samples(settings.separation.context_s))
        for chunk, music in separator.separate(chunks):
            found, sounding = detector.segment_features(detector.hear(chunk), music)
            first = chunk.start_samples // SCORE_HOP_SAMPLES
            truth = np.zeros(len(found))
            known = broadcast.playing[first : first + len(found)]
            truth[: len(known)] = known
            features.append(found[sounding])
            truths.append(truth[sounding])
            segments.append((found, sounding, truth))
            done_s += samples_to_s(chunk.end_samples - chunk.start_samples)
            progress(done_s)
    if len(set(np.concatenate(truths))) < 2:
        raise InputError("the programmes to calibrate on need spans with music and spans without")
    weights, bias = fit_logistic(np.concatenate(features), np.concatenate(truths))
    fitted = Calibration(dict(zip(FEATURES, weights.tolist(), strict=True)), bias, 1.0, 0.0)
    best, holds = [], []
    for found, sounding, truth in segments:
        scores = np.where(sounding, fitted.scores(found), np.float32(0))
        best.append(best_logit(scores))
        needed = settings.detection.min_segment_music_s
        holds.append(float(truth.sum() * samples_to_s(SCORE_HOP_SAMPLES) >= needed))
    (weight,), bias_of_segment = fit_logistic(np.array(best)[:, None], np.array(holds))
    return Calibration(fitted.score_weights, bias, float(weight), bias_of_segment)


def fit_logistic(features: Values, truth: Values) -> tuple[Values, float]:
    """Weights ``(feature,)`` and bias of a logistic regression with a light ridge (Bishop 2006, 4.3.2).

    Args:
        features: ``(example, feature)``.
        truth: ``(example,)``, 0 or 1.
    """
    centre, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-2)
    standard = np.column_stack([(features - centre) / spread, np.ones(len(features))]).astype(np.float64)

    def loss(weights: Values) -> tuple[float, Values]:
        logits = standard @ weights
        ridge = _RIDGE * np.append(weights[:-1], 0)
        error = 1 / (1 + np.exp(-logits)) - truth
        value = np.logaddexp(0, logits).mean() - (logits * truth).mean() + ridge @ weights / 2
        return float(value), standard.T @ error / len(truth) + ridge

    found = minimize(loss, np.zeros(standard.shape[1]), jac=True, method="L-BFGS-B").x
    weights = found[:-1] / spread
    return weights, float(found[-1] - weights @ centre)
