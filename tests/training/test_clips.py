"""One recording becomes one clip, or says why it cannot."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import RATE, silence, tone, write

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


def test_a_name_like_an_option_or_an_address_is_only_a_name(tmp_path: Path) -> None:
    for name in ("-i.wav", "http:x y.wav"):
        assert decode(write(tmp_path / name, tone(1))).size == RATE
