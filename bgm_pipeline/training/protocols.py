"""Trainings that have a name: what they show a network, and how much of it."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from bgm_pipeline.training.loop import TrainingSettings

Protocol = Literal["paper", "comparison"]

_PAPER_EPOCHS, _PAPER_BATCH, _PAPER_CLIPS = 90, 15, 1823

PROTOCOLS: Mapping[Protocol, Mapping[str, Any]] = {
    # Heo et al. 2019: 90 epochs of 1,823 clips of 12 s (6 h), 15 a step. Ours are drawn anew: an epoch is as
    # many mixtures, 122 steps, and not a round through the same ones.
    "paper": {
        "steps": _PAPER_EPOCHS * math.ceil(_PAPER_CLIPS / _PAPER_BATCH),
        "crop_s": 12.0,
        "batch_size": _PAPER_BATCH,
        "loss": "l1",
    },
    # As much as two cores can show to every network within hours: 20.3 minutes. Mixtures follow from seed,
    # crop and number alone, so that all networks see the same ones in the same order. docs/training.md tells
    # how the rate was chosen, and for which networks it is too high.
    "comparison": {
        "steps": 400,
        "crop_s": 1.5,
        "batch_size": 2,
        "loss": "l1",
        "seed": 1,
        "learning_rate": 8e-3,
        "bfloat16": True,
    },
}


def training_settings(protocol: Protocol | None, **given: Any) -> TrainingSettings:
    """Settings of a protocol, of which those that are given and not None take the place.

    Args:
        protocol: None for the defaults of `TrainingSettings`.
        given: its fields, and `crop_s` (seconds) in place of `crop_frames`; `hours` put the protocol's steps
            out of force.

    Raises:
        InputError: a value makes no sense.
    """
    given = {name: value for name, value in given.items() if value is not None}
    chosen = {**(PROTOCOLS[protocol] if protocol else {}), **given}
    if given.get("hours") and "steps" not in given:
        chosen.pop("steps", None)
    if "crop_s" in chosen:
        chosen["crop_frames"] = TrainingSettings.frames_of(chosen.pop("crop_s"))
    return TrainingSettings(**chosen)
