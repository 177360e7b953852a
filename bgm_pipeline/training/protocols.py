"""How a network is trained, and trainings that have a name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bgm_pipeline.errors import InputError
from bgm_pipeline.models.mmdensenet import FRAME_MULTIPLE
from bgm_pipeline.timebase import s_to_samples
from bgm_pipeline.training.corpus import Corpus
from bgm_pipeline.training.losses import Loss
from bgm_pipeline.training.mixing import MUSIC_TO_SPEECH_DB, MixingSettings, MixtureDataset
from bgm_pipeline.training.optimiser import OptimiserName
from bgm_pipeline.transforms import HOP_LENGTH


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a network is trained. Either `steps` or `hours` says when to stop; the rate follows a cosine
    over whichever it is."""

    steps: int = 0
    hours: float = 0.0
    """Of this machine's time, counted over all resumptions: steps, waits for mixtures, validations and
    checkpoints, but for the last validation."""
    crop_frames: int = 96
    """Length of a crop, STFT frames of 16 ms: 96 is 1.52 s. See `frames_of`."""
    batch_size: int = 2
    music_to_speech_db: tuple[float, float] = MUSIC_TO_SPEECH_DB
    """Range of the music's level to the speech's, dB."""
    loss: Loss = "compressed"
    """Of networks that make a mask, see `SeparationObjective`."""
    teacher: str = ""
    """Weights whose estimates are learnt from in place of the recordings' music: a file, or a name for those
    that ship; empty for none."""
    optimiser: OptimiserName = "muon"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: float = 0.03
    """Share of the training over which the rate rises."""
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    seed: int = 1
    validate_every_s: float = 600.0
    validation_crops: int = 24
    checkpoint_every_s: float = 120.0
    loader_processes: int = 1
    bfloat16: bool = False
    """Matrix products in bfloat16: on CPUs that have AVX-512 BF16 or AMX, recurrent networks train twice as
    fast; weights and losses stay in float32."""

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            InputError: a value is too small, or is no number.
        """
        least = {
            **dict.fromkeys(("steps", "hours", "weight_decay", "warmup", "ema_decay", "seed"), 0),
            **dict.fromkeys(("validate_every_s", "checkpoint_every_s", "loader_processes"), 0),
            **dict.fromkeys(("batch_size", "validation_crops"), 1),
            "crop_frames": FRAME_MULTIPLE,
        }
        for name, minimum in least.items():
            if not getattr(self, name) >= minimum:
                raise InputError(f"{name} is {getattr(self, name)}; give {minimum} or more")
        softest, loudest = self.music_to_speech_db
        if not -math.inf < softest <= loudest < math.inf:
            raise InputError(f"music_to_speech_db is {softest} to {loudest}; give the softest level first")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; give a number above 0")

    @staticmethod
    def frames_of(crop_s: float) -> int:
        """Frames of a crop of so many seconds: the nearest number that the networks need not pad."""
        return round(s_to_samples(crop_s) / HOP_LENGTH / FRAME_MULTIPLE) * FRAME_MULTIPLE

    def mixtures(self, corpus: Corpus, count: int, settings: MixingSettings) -> MixtureDataset:
        """So many mixtures to train on."""
        return MixtureDataset(
            corpus, "train", self.crop_samples, count, self.seed, settings, self.music_to_speech_db
        )

    @property
    def crop_samples(self) -> int:
        """Samples of a crop: so many that centred frames make `crop_frames`."""
        return (self.crop_frames - 1) * HOP_LENGTH


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
        "optimiser": "adamw",
    },
    # As much as two cores can show to every network within hours: 20.3 minutes. Mixtures follow from seed,
    # crop and number alone, so that all networks see the same ones in the same order. docs/training.md tells
    # how the rate was chosen.
    "comparison": {
        "steps": 400,
        "crop_s": 1.5,
        "batch_size": 2,
        "loss": "compressed",
        "seed": 1,
        "optimiser": "adamw",
        "learning_rate": 1e-3,
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
