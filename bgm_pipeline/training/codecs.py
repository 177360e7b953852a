"""What a broadcast chain's codecs do to audio: encode, decode, and put back in its place in time."""

from dataclasses import dataclass

import numpy as np
from scipy.signal import correlate

from bgm_pipeline.errors import MediaError
from bgm_pipeline.media.ffmpeg import ChildError, run
from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.types import Samples

_TIMEOUT_S = 60
_MAX_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoder of ffmpeg, what wraps and unwraps its stream, and its bit rate."""

    encoder: str
    muxer: str
    demuxer: str
    bit_rate: str


CODECS = (Codec("mp2", "mp2", "mp3", "192k"), Codec("aac", "adts", "aac", "96k"))
"""MPEG-1 layer II as DVB carries it, and AAC as the web does."""


def through_codec(samples: Samples, codec: Codec) -> Samples:
    """Encodes at 48 kHz and decodes again; shape ``(sample,)`` stays, and so does the place in time.

    Raises:
        MediaError: ffmpeg failed, or is not installed.
    """
    pcm = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", "1"]
    coded = _ffmpeg(
        [*pcm, "-i", "pipe:0", "-ar", "48000", "-c:a", codec.encoder, "-b:a", codec.bit_rate]
        + ["-f", codec.muxer, "pipe:1"],
        samples.astype(np.float32).tobytes(),
    )
    decoded = np.frombuffer(_ffmpeg(["-f", codec.demuxer, "-i", "pipe:0", *pcm, "pipe:1"], coded), np.float32)
    return in_place(decoded, samples)


def in_place(decoded: Samples, samples: Samples) -> Samples:
    """What was decoded without its encoder's delay, as long as the original; both ``(sample,)``.

    Not every stream signals that delay, so it is measured; it is taken to be no longer than 0.25 s.
    """
    lag = int(np.argmax(correlate(decoded, samples, "full", "fft"))) - (len(samples) - 1)
    lag = lag if 0 <= lag <= SAMPLE_RATE // 4 else 0
    out = np.zeros_like(samples)
    kept = decoded[lag : lag + len(samples)]
    out[: len(kept)] = kept
    return out


def _ffmpeg(arguments: list[str], data: bytes) -> bytes:
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-threads", "1"]
    command += ["-protocol_whitelist", "pipe", *arguments]
    try:
        done = run(command, _TIMEOUT_S, data, output_limit_bytes=_MAX_BYTES)
    except ChildError as error:
        raise MediaError(f"ffmpeg {error}") from None
    if done.code != 0:
        raise MediaError(f"ffmpeg could not pass audio through a codec: {done.complaints[-300:].strip()}")
    return done.output
