"""One recording becomes one clip, or says why it cannot."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import RATE, silence, tone, write

from bgm_pipeline.errors import InputError
from bgm_pipeline.training.clips import UnusableClip, convert_clip, decode, rms_db
from bgm_pipeline.types import Samples


def test_an_utterance_loses_its_silence_and_is_levelled(tmp_path: Path) -> None:
    recording = write(tmp_path / "a.wav", silence(1), tone(2, amplitude=0.01), silence(1))
    clip = convert_clip(recording, tmp_path / "a.flac", "speech")
    assert clip.duration_s == pytest.approx(2.06, abs=0.02)
    samples, rate = soundfile.read(tmp_path / "a.flac", dtype="float32")
    info = soundfile.info(tmp_path / "a.flac")
    assert (rate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
    assert rms_db(samples) == pytest.approx(-23, abs=0.1) == clip.rms_db


def test_a_peaky_utterance_is_turned_down_not_clipped(tmp_path: Path) -> None:
    clicks = silence(1)
    clicks[::1000] = 0.05
    convert_clip(write(tmp_path / "a.wav", clicks), tmp_path / "a.flac", "speech")
    samples, _ = soundfile.read(tmp_path / "a.flac")
    assert 0.9 < np.abs(samples).max() < 1
    assert np.count_nonzero(np.abs(samples) > 0.9) < 30


def test_music_keeps_its_level_and_its_pauses(tmp_path: Path) -> None:
    recording = write(tmp_path / "a.ogg", silence(2), tone(10, amplitude=0.2), silence(2))
    clip = convert_clip(recording, tmp_path / "a.flac", "music")
    samples, _ = soundfile.read(tmp_path / "a.flac")
    assert clip.duration_s == pytest.approx(14, abs=0.01)
    assert np.abs(samples[5 * RATE : 6 * RATE]).max() == pytest.approx(0.2, abs=0.01)


def test_channels_and_rates_come_out_as_16_khz_mono_at_the_same_pitch_and_level(tmp_path: Path) -> None:
    t = np.arange(48_000) / 48_000
    sine = 0.5 * np.sin(2 * np.pi * 1000 * t)
    soundfile.write(tmp_path / "a.wav", np.stack([sine, sine], axis=1), 48_000)
    samples = decode(tmp_path / "a.wav")
    assert samples.size == RATE
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.01)
    assert np.abs(np.fft.rfft(samples)).argmax() == 1000


@pytest.mark.parametrize(
    ("kind", "parts", "reason"),
    [
        ("music", [tone(9)], "shorter than 10 s"),
        ("speech", [silence(3), tone(0.2), silence(3)], "shorter than 0.4 s"),
        ("speech", [silence(3)], "shorter than 0.4 s"),
        ("music", [silence(12)], "silence"),
    ],
)
def test_what_gives_no_clip_says_why(tmp_path: Path, kind: str, parts: list[Samples], reason: str) -> None:
    recording = write(tmp_path / "a.wav", *parts)
    with pytest.raises(UnusableClip, match=reason):
        convert_clip(recording, tmp_path / "a.flac", kind)  # type: ignore[arg-type]
    assert not (tmp_path / "a.flac").exists()


@pytest.mark.parametrize("kind", ["music", "speech"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_sample_that_is_no_number_gives_no_clip(tmp_path: Path, kind: str, value: float) -> None:
    samples = tone(11)
    samples[5000] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(UnusableClip, match="not finite numbers"):
        convert_clip(tmp_path / "a.wav", tmp_path / "a.flac", kind)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("missing_bytes", [100, 100_000])
def test_a_disk_that_fills_up_is_told_and_leaves_nothing_half(tmp_path: Path, missing_bytes: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 11 * RATE).astype(np.float32)
    recording = write(tmp_path / "a.wav", noise)
    convert_clip(recording, tmp_path / "b.flac", "music")
    with (
        _files_up_to((tmp_path / "b.flac").stat().st_size - missing_bytes),
        pytest.raises(InputError, match=r"a\.flac: cannot be written \(File too large\); make room"),
    ):
        convert_clip(recording, tmp_path / "a.flac", "music")
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "b.flac"}


@contextmanager
def _files_up_to(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    recording = write(tmp_path / "a.wav", tone(11))
    with pytest.raises(InputError, match=r"a\.wav/a\.flac: cannot be written"):
        convert_clip(recording, recording / "a.flac", "music")


def test_a_clip_that_was_damaged_since_is_named(tmp_path: Path) -> None:
    recording, clip = write(tmp_path / "a.wav", tone(11)), tmp_path / "a.flac"
    convert_clip(recording, clip, "music")
    clip.write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"a\.flac: damaged; delete it"):
        convert_clip(recording, clip, "music")


def test_a_name_like_an_option_or_an_address_is_only_a_name(tmp_path: Path) -> None:
    for name in ("-i.wav", "http:x y.wav"):
        assert decode(write(tmp_path / name, tone(1))).size == RATE
