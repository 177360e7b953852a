"""One recording of any format made into one clip of a corpus: 16 kHz mono FLAC, trimmed and levelled."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import soundfile

from bgm_pipeline.errors import InputError, MediaError
from bgm_pipeline.folders import writing
from bgm_pipeline.media.ffmpeg import DEMUXERS, ChildError, input_url, run, shown
from bgm_pipeline.media.probe import sha256_of
from bgm_pipeline.timebase import SAMPLE_RATE, s_to_samples, samples_to_s
from bgm_pipeline.types import Samples

Kind = Literal["music", "speech", "other"]

SPEECH_RMS_DB = -23.0
"""Every utterance is levelled to this RMS, dB of full scale."""

PEAK_LIMIT = 0.97
"""No clip's peak is above this; one that would be is turned down as a whole, never clipped."""

MIN_DURATION_S: dict[Kind, float] = {"music": 10.0, "speech": 0.4, "other": 0.05}
"""Shorter clips are dropped. Short music is stings and jingles: too little to be a track of its own, and
counted as another sound it would teach that music is none."""

_DECODE_TIMEOUT_S = 600
_DECODE_LIMIT_S = 4 * 3600
_DEMUXERS = f"{DEMUXERS},amr,ape,dsf,g722,gsm,mpc,mpc8,tak,tta,voc,wv"
"""Collections come in formats that broadcasts do not; in playlists they do not come."""
_TRIM_FRAME_S = 0.01
_TRIM_MARGIN_S = 0.03
_TRIM_FLOOR_DB = -60.0
_TRIM_BELOW_LOUDEST_DB = 40.0
_SILENCE = 1e-6

BUILD_AGAIN = "make room or name another folder, and build again: clips that are done are kept"
"""The cure where a file of a corpus cannot be written."""


class UnusableClip(Exception):
    """A recording gives no clip; the message is the reason, for the list of what was dropped."""


@dataclass(frozen=True, slots=True)
class ClipAudio:
    """What is known of a clip's audio file."""

    duration_s: float
    rms_db: float
    fingerprint: int
    """Equal for equal samples: recordings that a collection holds twice."""


def convert_clip(recording: Path, clip: Path, kind: Kind) -> ClipAudio:
    """Decode a recording, trim and level it as its kind asks, and write it as FLAC, 16 bit.

    Music keeps its level and its silences. Speech loses the silence at both ends (10 ms frames more than
    40 dB below the loudest one, or below -60 dBFS; 30 ms are left) and is levelled to -23 dBFS RMS. Other
    sounds are trimmed and keep their level. The file appears whole or not at all; one that is already there
    and was made of these very bytes is kept as it is. Dates would not tell: a recording is mostly older than
    the clip that was made of another one.

    Raises:
        UnusableClip: the recording holds no audio that ffmpeg can read, too little of it, or samples that are
            no numbers.
        InputError: the clip cannot be written, or one that is already there is damaged.
    """
    mark = _mark(recording)
    if not (clip.is_file() and _mark_in(clip) == mark):
        samples = decode(recording)
        if not np.isfinite(samples).all():
            raise UnusableClip("samples that are not finite numbers")
        if kind != "music":
            samples = trim_silence(samples)
        if samples_to_s(samples.size) < MIN_DURATION_S[kind]:
            raise UnusableClip(f"shorter than {MIN_DURATION_S[kind]:g} s")
        if float(np.abs(samples).max()) < _SILENCE:
            raise UnusableClip("silence")
        _write_flac(clip, limit_peak(level(samples, SPEECH_RMS_DB) if kind == "speech" else samples), mark)
    with _opened(clip) as file:
        written = file.read(dtype="int16")
    return ClipAudio(
        duration_s=samples_to_s(written.size),
        rms_db=rms_db(written.astype(np.float32) / 32768),
        fingerprint=hash(written.tobytes()),
    )


def decode(recording: Path) -> Samples:
    """All of a file's first audio stream as 16 kHz mono; channels are averaged.

    Raises:
        UnusableClip: ffmpeg cannot read it.
        MediaError: ffmpeg is not installed.
    """
    command = ["ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe"]
    command += ["-f", "g722"] if recording.suffix == ".g722" else ["-format_whitelist", _DEMUXERS]
    command += ["-i", input_url(recording), "-map", "0:a:0"]
    # Without rematrix_maxval ffmpeg adds the channels of float audio at 0.71 each: 3 dB too loud.
    command += ["-af", f"aresample={SAMPLE_RATE}:rematrix_maxval=1", "-ac", "1", "-f", "f32le", "-"]
    limit_bytes = s_to_samples(_DECODE_LIMIT_S) * np.dtype("<f4").itemsize
    try:
        done = run(command, _DECODE_TIMEOUT_S, output_limit_bytes=limit_bytes)
    except ChildError as error:
        raise UnusableClip(f"ffmpeg {error}") from None
    if done.code != 0:
        lines = done.complaints.strip().splitlines() or ["ffmpeg failed"]
        raise UnusableClip(f"not readable as audio: {shown(lines[-1])}")
    return np.frombuffer(done.output, dtype="<f4").astype(np.float32)


def trim_silence(samples: Samples) -> Samples:
    """Cut the silence off both ends; what is silent throughout comes back empty."""
    frame = s_to_samples(_TRIM_FRAME_S)
    padded = np.pad(samples, (0, -samples.size % frame)).reshape(-1, frame)
    levels = 20 * np.log10(np.sqrt((padded**2).mean(axis=1)) + _SILENCE)
    if not levels.size:
        return samples
    loud = np.flatnonzero(levels > max(_TRIM_FLOOR_DB, levels.max() - _TRIM_BELOW_LOUDEST_DB))
    if not loud.size:
        return samples[:0]
    margin = s_to_samples(_TRIM_MARGIN_S)
    return samples[max(0, loud[0] * frame - margin) : (loud[-1] + 1) * frame + margin]


def level(samples: Samples, target_rms_db: float) -> Samples:
    """Scale to an RMS level, dB of full scale."""
    return cast(Samples, samples * np.float32(10 ** ((target_rms_db - rms_db(samples)) / 20)))


def limit_peak(samples: Samples) -> Samples:
    """Turn the whole clip down where its peak is above the limit."""
    peak = float(np.abs(samples).max())
    return samples if peak <= PEAK_LIMIT else cast(Samples, samples * np.float32(PEAK_LIMIT / peak))


def rms_db(samples: Samples) -> float:
    """RMS level, dB of full scale (floor -120)."""
    return float(20 * np.log10(np.sqrt(np.mean(np.square(samples, dtype=np.float64))) + _SILENCE))


def _mark(recording: Path) -> str:
    """Of a recording's bytes; its clip holds it as a comment."""
    try:
        return sha256_of(recording)
    except MediaError as error:
        raise UnusableClip(str(error)) from None


def _mark_in(clip: Path) -> str:
    with _opened(clip) as file:
        return file.comment


@contextmanager
def _opened(clip: Path) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(clip) as file:
            yield file
    except (soundfile.LibsndfileError, ValueError) as error:
        raise InputError(f"{clip}: damaged; delete it and build the corpus again") from error


def _write_flac(path: Path, samples: Samples, comment: str) -> None:
    # By way of memory: a file that libsndfile closes on a full disk is cut short, and nothing says so.
    encoded = io.BytesIO()
    with soundfile.SoundFile(encoded, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        file.comment = comment
        file.write(samples)
    partial = path.with_suffix(".partial")
    try:
        with writing(path, BUILD_AGAIN):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(encoded.getbuffer())
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()
