"""Every container and codec of a broadcast archive: its sound is read at its true time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import CLICKS_S, VIDEO, Heard, read

PICTURE_H264 = ("video", "-c:v", "libx264", "-c:a")
PICTURE_MPEG4 = ("video", "-c:v", "mpeg4", "-c:a")
FORMATS = {
    "mp2.ts": (*PICTURE_H264, "mp2", "-ac", 2),
    "ac3.ts": (*PICTURE_H264, "ac3", "-ac", 2),
    "eac3.ts": (*PICTURE_H264, "eac3", "-ac", 2),
    "aac.ts": (*PICTURE_H264, "aac", "-ac", 2),
    "aac.mp4": (*PICTURE_H264, "aac", "-ac", 2),
    "aac.mov": (*PICTURE_MPEG4, "aac", "-ac", 1),
    "aac.m4a": ("-c:a", "aac", "-ar", 44100, "-ac", 2),
    "opus.mkv": (*PICTURE_MPEG4, "libopus", "-ac", 2),
    "only_opus.mkv": ("-c:a", "libopus"),
    "flac.mkv": (*PICTURE_MPEG4, "flac", "-ac", 2),
    "vorbis.mkv": (*PICTURE_MPEG4, "libvorbis", "-ac", 2),
    "vorbis.ogg": ("-c:a", "libvorbis"),
    "mp2.mpg": ("video", "-c:v", "mpeg2video", "-c:a", "mp2", "-ac", 2),
    "pcm.avi": (*PICTURE_MPEG4, "pcm_s16le", "-ac", 2),
    "pcm.wav": ("-c:a", "pcm_s24le", "-ar", 44100),
    "bwf.wav": ("-c:a", "pcm_s24le", "-write_bext", 1, "-metadata", "time_reference=172800000"),
    "lossless.flac": ("-c:a", "flac", "-ar", 32000),
    "lame.mp3": ("-c:a", "libmp3lame", "-ar", 44100, "-ac", 2),
}
FACTS = {
    "mp2.ts": ("mpegts", "mp2", 48000, "stereo"),
    "ac3.ts": ("mpegts", "ac3", 48000, "stereo"),
    "eac3.ts": ("mpegts", "eac3", 48000, "stereo"),
    "aac.ts": ("mpegts", "aac", 48000, "stereo"),
    "aac.mp4": ("mov,mp4,m4a,3gp,3g2,mj2", "aac", 48000, "stereo"),
    "aac.mov": ("mov,mp4,m4a,3gp,3g2,mj2", "aac", 48000, "mono"),
    "aac.m4a": ("mov,mp4,m4a,3gp,3g2,mj2", "aac", 44100, "stereo"),
    "opus.mkv": ("matroska,webm", "opus", 48000, "stereo"),
    "only_opus.mkv": ("matroska,webm", "opus", 48000, "mono"),
    "flac.mkv": ("matroska,webm", "flac", 48000, "stereo"),
    "vorbis.mkv": ("matroska,webm", "vorbis", 48000, "stereo"),
    "vorbis.ogg": ("ogg", "vorbis", 48000, "mono"),
    "mp2.mpg": ("mpeg", "mp2", 48000, "stereo"),
    "pcm.avi": ("avi", "pcm_s16le", 48000, ""),
    "pcm.wav": ("wav", "pcm_s24le", 44100, "mono"),
    "bwf.wav": ("wav", "pcm_s24le", 48000, "mono"),
    "lossless.flac": ("flac", "flac", 32000, "mono"),
    "lame.mp3": ("mp3", "mp3", 44100, "stereo"),
}
"""Container, codec, rate in Hz and layout (empty where the container has no word for it)."""


@pytest.fixture(scope="module", params=FORMATS)
def heard(request: pytest.FixtureRequest, make: Callable[..., Path], clicks: Path) -> Heard:
    arguments = list(FORMATS[request.param])
    video = VIDEO if arguments[0] == "video" else ()
    coding = arguments[1:] if video else arguments
    return read(make(request.param, *video, "-i", clicks, *coding))


def test_the_probe_tells_what_is_in_it(heard: Heard) -> None:
    info, (stream,) = heard.info, heard.info.audio_streams
    assert (info.container, stream.codec, stream.sample_rate, stream.layout) == FACTS[info.path.name]
    assert info.duration_s == pytest.approx(6, abs=0.06)
    assert stream.start_s == pytest.approx(0, abs=0.01)
    # AVI states none of PCM; in a transport stream it ends at the last time stamp.
    assert stream.duration_s == (None if info.container == "avi" else pytest.approx(6, abs=0.2))
    assert info.has_video is ("video" in FORMATS[info.path.name])
    assert info.size_bytes == info.path.stat().st_size
    assert heard.selection.reason == "the only audio stream"


def test_clicks_are_found_within_5_ms(heard: Heard) -> None:
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)


def test_a_sound_file_shows_no_damage_and_no_gap(heard: Heard) -> None:
    assert heard.report.damage == ()
    assert heard.report.gaps == ()
    assert len(heard.samples) / 16000 == pytest.approx(6, abs=0.05)


def test_mxf_with_eight_mono_tracks(make: Callable[..., Path], clicks: Path, tone: Path) -> None:
    tracks = [item for track in (1, 1, 2, 2, 2, 2, 2, 2) for item in ("-map", track)]
    coding = ("-c:v", "mpeg2video", "-c:a", "pcm_s16le")
    path = make("eight.mxf", *VIDEO, "-i", clicks, "-i", tone, "-map", 0, *tracks, *coding)
    heard = read(path)
    assert [stream.channels for stream in heard.info.audio_streams] == [1] * 8
    assert heard.selection.streams == (1, 2)
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    assert heard.report.damage == ()
    other = read(path, wanted=(3,))
    assert other.rms(1, 5) == pytest.approx(0.5 / 2**0.5, rel=0.01)


def test_mp3_in_avi_is_read(make: Callable[..., Path], tone: Path) -> None:
    heard = read(make("mp3.avi", *VIDEO, "-i", tone, "-c:v", "mpeg4", "-c:a", "libmp3lame"))
    # LAME itself lowers what it encodes at this bit rate to 0.95.
    assert heard.rms(1, 5) == pytest.approx(0.95 * 0.5 / 2**0.5, rel=0.01)
    assert heard.report.damage == ()


def test_audio_only_transport_stream_starts_at_its_first_sample(
    make: Callable[..., Path], clicks: Path
) -> None:
    heard = read(make("only_ac3.ts", "-i", clicks, "-c:a", "ac3"))
    # Nothing in the file tells the encoder's priming (256 samples at 48 kHz) from programme.
    assert heard.clicks_s == pytest.approx([start + 256 / 48000 for start in CLICKS_S], abs=0.001)


def test_block_length_changes_nothing(broadcast: Path) -> None:
    whole, pieces = read(broadcast), read(broadcast, block_s=0.37)
    assert (whole.samples == pieces.samples).all()
    assert whole.report == pieces.report
