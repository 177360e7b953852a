"""What crosses from one stage to the next. Times are samples at 16 kHz from the start of the
file's presentation timeline; an end is the first sample after."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""Mono PCM at 16 kHz, shape ``(sample,)``, full scale at +-1."""


@dataclass(frozen=True, slots=True)
class AudioStream:
    """One audio stream of a media file, as its container describes it."""

    index: int
    """Index among all streams of the file, as ffprobe counts: what ``--audio-stream`` takes."""
    codec: str
    sample_rate: int
    channels: int
    layout: str
    """ffmpeg's name of the channel layout ("stereo", "5.1(side)"); empty where unknown."""
    language: str
    """ISO 639 code; empty where unknown."""
    title: str
    is_default: bool
    roles: tuple[str, ...]
    """What the container says it is for: "visual_impaired", "hearing_impaired", "comment", "dub" ..."""
    start_s: float
    """Where its first sample lies on the presentation timeline, seconds."""
    zero_s: float
    """Where that timeline begins on the container's clock, or on its programme's own, seconds."""
    duration_s: float | None
    programme_s: float | None
    """How long all lasts that was recorded with it: its programme, or the file; seconds."""
    programme: int | None


@dataclass(frozen=True, slots=True)
class Programme:
    """One programme (service) of a transport stream."""

    number: int
    name: str
    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What is in a media file."""

    path: Path
    container: str
    size_bytes: int
    start_s: float
    """The container's own start time, seconds."""
    duration_s: float | None
    has_video: bool
    programmes: tuple[Programme, ...]
    audio_streams: tuple[AudioStream, ...]
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AudioSelection:
    """Which audio of a file is processed: one stream, or several mono tracks joined to one mono."""

    streams: tuple[int, ...]
    reason: str
    """Why these: the rule that chose them, or "asked for"."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive samples; the blocks of a file follow each other without hole or overlap."""

    start_samples: int
    samples: Samples


@dataclass(frozen=True, slots=True)
class Gap:
    """A span that the file holds no audio for; it was filled with silence."""

    start_samples: int
    end_samples: int
    reason: str


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that the decoder complained of, and how often."""

    message: str
    count: int


@dataclass(frozen=True, slots=True)
class ExtractionReport:
    """What is known of a file's audio after it has been read to its end."""

    duration_samples: int
    gaps: tuple[Gap, ...]
    damage: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class Episode:
    """One broadcast recording to be processed, with what is known of it."""

    path: Path
    channel: str = ""
    title: str = ""
    air_start: datetime | None = None
    """When the file's first moment was on air; with a time zone."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One cell of the 12 s grid, with what was decided about it."""

    index: int
    start_samples: int
    end_samples: int
    has_music: bool
    music_probability: float
    """Calibrated, 0..1: of segments that get p, a share p holds music."""
    music_to_speech_db: float | None
    """Level of the music estimate over the level of the residual; none where either is silent."""
    mixture_db: float
    """RMS level of the mixture, dB of full scale (floor -120)."""
    music_db: float
    """RMS level of the music estimate, dB of full scale (floor -120)."""
    gap_samples: int = 0
    """How many of its samples are gap."""
    is_skipped: bool = False
    """Whether separation was left out, since the mixture alone shows no music."""


@dataclass(frozen=True, slots=True)
class Event:
    """A span of music, any length."""

    start_samples: int
    end_samples: int
    music_probability: float
    """Mean of the scores inside, 0..1."""
    music_to_speech_db: float | None


@dataclass(frozen=True, slots=True)
class Stem:
    """The music estimate of one segment as an audio file in the stem store."""

    segment_index: int
    key: str
    """Path below the stem store's root, with forward slashes."""
    sha256: str
    duration_samples: int
    level_db: float


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What made a run's results: the same identity gives the same rows."""

    source_sha256: str
    model: str
    model_sha256: str
    settings_sha256: str
    code_version: str
    settings: dict[str, Any] = field(default_factory=dict, compare=False)
    """What `settings_sha256` is of, to be read by people."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """All that a finished run leaves behind, written in one transaction."""

    duration_samples: int
    container: str
    selection: AudioSelection
    gaps: tuple[Gap, ...]
    damage: tuple[Damage, ...]
    segments: tuple[Segment, ...]
    events: tuple[Event, ...]
    stems: tuple[Stem, ...]
    stage_s: dict[str, float]
    """Seconds spent in each stage, by its name; stages that ran side by side each have their own."""
