"""Several audio streams and many channels: what is chosen, and how it becomes mono."""

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bgm_pipeline.errors import InputError, MediaError
from bgm_pipeline.media.probe import probe, select_audio
from bgm_pipeline.types import AudioStream, MediaInfo

from .conftest import CLICKS_S, VIDEO, ffmpeg, read, sines
from .transport import shift_times

TONES_HZ = (200, 300, 400, 60, 500, 600, 700, 800)
LAYOUTS = {
    "5.1": (0.5, 0.5, 0.7071, 0, 0.3536, 0.3536),
    "5.1(side)": (0.5, 0.5, 0.7071, 0, 0.3536, 0.3536),
    "7.1": (0.5, 0.5, 0.7071, 0, 0.3536, 0.3536, 0.3536, 0.3536),
    "4.0": (0.5, 0.5, 0.7071, 0.5),
    "stereo": (0.5, 0.5),
    "mono": (1.0,),
}


@pytest.fixture(scope="module")
def channel(make: Callable[..., Path]) -> Path:
    """A service with audio description first, then the programme in stereo, then in 5.1, then in French."""
    inputs = [
        item
        for layout, tones in (
            ("stereo", (200, 200)),
            ("stereo", (300, 300)),
            ("5.1", (400,) * 6),
            ("mono", (500,)),
        )
        for item in sines(layout, *tones)
    ]
    streams = (
        "-map",
        0,
        "-map",
        1,
        "-map",
        2,
        "-map",
        3,
        "-map",
        4,
        "-c:v",
        "libx264",
        "-c:a",
        "mp2",
        "-c:a:2",
        "ac3",
    )
    languages = [
        item
        for number, language in enumerate(("eng", "eng", "eng", "fra"))
        for item in (f"-metadata:s:a:{number}", f"language={language}")
    ]
    return make("channel.ts", *VIDEO, *inputs, *streams, *languages, "-disposition:a:0", "visual_impaired")


@pytest.fixture(scope="module")
def mxf(make: Callable[..., Path]) -> Path:
    """Eight mono tracks of PCM, a tone of its own on each."""
    inputs = [item for hz in TONES_HZ for item in sines("mono", hz)]
    tracks = [item for number in range(9) for item in ("-map", number)]
    return make("tones.mxf", *VIDEO, *inputs, *tracks, "-c:v", "mpeg2video", "-c:a", "pcm_s16le")


def test_default_is_the_first_main_audio_not_description_and_not_most_channels(channel: Path) -> None:
    heard = read(channel)
    assert heard.selection.streams == (2,)
    assert heard.selection.reason == "default: first main audio of 4 streams"
    assert heard.amplitudes((200, 300, 400, 500)) == pytest.approx([0, 0.1, 0, 0], abs=0.002)


def test_a_stream_can_be_chosen(channel: Path) -> None:
    heard = read(channel, wanted=(4,))
    assert heard.selection.streams == (4,)
    assert heard.selection.reason == "asked for"
    assert heard.amplitudes((200, 300, 400, 500)) == pytest.approx([0, 0, 0, 0.1], abs=0.002)


def test_what_cannot_be_chosen_is_refused_with_the_list_of_streams(channel: Path) -> None:
    info = probe(channel)
    listing = (
        r"its audio streams are 1 \(mp2, stereo, eng\), 2 \(mp2, stereo, eng\), 3 \(ac3, 5.1\(side\), eng\)"
    )
    with pytest.raises(InputError, match=rf"channel.ts: no audio stream 0; {listing}"):
        select_audio(info, [0])
    with pytest.raises(InputError, match=r"channel.ts: only mono tracks can be joined.*" + listing):
        select_audio(info, [2, 4])
    with pytest.raises(InputError, match=r"channel.ts: fewer than two mono tracks to join"):
        select_audio(info, join=True)
    with pytest.raises(InputError, match=r"channel.ts: either choose streams or join"):
        select_audio(info, [2], join=True)


def _stream(index: int, **traits: object) -> AudioStream:
    known = {
        "codec": "mp2",
        "sample_rate": 48000,
        "channels": 2,
        "layout": "stereo",
        "language": "",
        "title": "",
        "is_default": False,
        "roles": (),
        "start_s": 0.0,
        "zero_s": 0.0,
        "duration_s": None,
        "programme_s": None,
        "programme": None,
    }
    return AudioStream(index, **(known | traits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("streams", "chosen"),
    [
        pytest.param([_stream(1), _stream(2)], 1, id="first"),
        pytest.param([_stream(1), _stream(2, is_default=True)], 2, id="marked as default"),
        pytest.param([_stream(1, programme=5), _stream(2, programme=3)], 2, id="lowest programme"),
        pytest.param([_stream(1, language="nar"), _stream(2)], 2, id="narration as a language"),
        pytest.param([_stream(1, language="qad"), _stream(2)], 2, id="audio description as a language"),
        pytest.param([_stream(1, title="Audio Description"), _stream(2)], 2, id="description by its title"),
        pytest.param([_stream(1, roles=("hearing_impaired",)), _stream(2)], 2, id="hard of hearing"),
        pytest.param([_stream(1, roles=("clean_effects",)), _stream(2)], 2, id="clean effects"),
        pytest.param([_stream(1, roles=("comment",), is_default=True), _stream(2)], 2, id="commentary"),
        pytest.param([_stream(1, roles=("visual_impaired",))], 1, id="nothing but description"),
        pytest.param([_stream(1, channels=0), _stream(2)], 2, id="not decodable"),
        pytest.param([_stream(1), _stream(2, channels=6, layout="5.1(side)")], 1, id="not most channels"),
    ],
)
def test_default_rule(streams: list[AudioStream], chosen: int) -> None:
    info = MediaInfo(Path("some.ts"), "mpegts", 1, 0.0, None, True, (), tuple(streams))
    assert select_audio(info).streams == (chosen,)


def test_no_audio_that_could_be_decoded_is_said() -> None:
    info = MediaInfo(Path("some.ts"), "mpegts", 1, 0.0, None, True, (), (_stream(1, channels=0),))
    with pytest.raises(MediaError, match=r"some.ts: no audio that ffmpeg can decode"):
        select_audio(info)


def test_mxf_the_first_two_tracks_are_the_stereo_pair(mxf: Path) -> None:
    heard = read(mxf)
    assert heard.selection.streams == (1, 2)
    assert heard.selection.reason == "default: the first two mono tracks, as a stereo pair"
    assert heard.amplitudes(TONES_HZ) == pytest.approx([0.05, 0.05, 0, 0, 0, 0, 0, 0], abs=0.0005)


def test_mxf_tracks_can_be_joined(mxf: Path) -> None:
    heard = read(mxf, join=True)
    assert heard.selection.reason == "joined: all 8 mono tracks"
    assert heard.amplitudes(TONES_HZ) == pytest.approx([0.1 / 8] * 8, abs=0.0005)
    some = read(mxf, wanted=(3, 5, 8))
    third = 0.1 / 3
    assert some.amplitudes(TONES_HZ) == pytest.approx([0, 0, third, 0, third, 0, 0, third], abs=0.0005)


def test_joined_tracks_keep_their_own_times(make: Callable[..., Path], clicks: Path) -> None:
    tracks = ("-i", clicks, "-itsoffset", 0.25, "-i", clicks, "-map", 0, "-map", 1)
    heard = read(make("two.mov", *tracks, "-c:a", "pcm_s16le"))
    both = sorted([*CLICKS_S, *(start + 0.25 for start in CLICKS_S)])
    assert heard.selection.streams == (0, 1)
    assert heard.clicks_s == pytest.approx(both, abs=0.005)


@pytest.mark.parametrize("short_first", [True, False])
def test_a_pair_lasts_as_long_as_its_longer_track(make: Callable[..., Path], short_first: bool) -> None:
    short, whole = ("-t", 2, *sines("mono", 200)), ("-itsoffset", 0.5, *sines("mono", 300))
    tracks = (*short, *whole) if short_first else (*whole, *short)
    maps = ("-map", 0, "-map", 1, "-c:a", "pcm_s16le")
    heard = read(make(f"uneven_{short_first}.mov", *tracks, *maps))
    assert heard.selection.streams == (0, 1)
    assert len(heard.samples) / 16000 == pytest.approx(6.5, abs=0.03)
    assert heard.amplitudes((200, 300), 1, 2) == pytest.approx([0.05, 0.05], abs=0.0005)
    assert heard.amplitudes((200, 300), 3, 6) == pytest.approx([0, 0.05], abs=0.0005)
    assert heard.damage == (
        f"track {0 if short_first else 1} ends at 00:00:02.000, before those that it is joined with"
    )


def test_a_pair_that_was_cut_short_gets_no_silence(make: Callable[..., Path], tmp_path: Path) -> None:
    tracks = ("-t", 5, *sines("mono", 200), *sines("mono", 300), "-map", 0, "-map", 1, "-c:a", "pcm_s16le")
    whole = make("uneven_whole.mov", *tracks, "-movflags", "faststart")
    path = tmp_path / "cut.mov"
    path.write_bytes(whole.read_bytes()[: 4 * 96_000])
    heard = read(path)
    assert len(heard.samples) / 16000 == pytest.approx(2, abs=0.3)
    assert "the file says at 00:00:06.000: cut short?" in heard.damage


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_channel_has_its_stated_share_of_mono(make: Callable[..., Path], layout: str) -> None:
    shares = LAYOUTS[layout]
    heard = read(make(f"{layout}.flac", *sines(layout, *TONES_HZ[: len(shares)])))
    expected = [0.1 * share for share in shares]
    assert heard.amplitudes(TONES_HZ[: len(shares)]) == pytest.approx(expected, abs=0.0005)


@pytest.mark.parametrize(("codec", "container"), [("ac3", "ts"), ("eac3", "ts"), ("aac", "mp4")])
def test_coded_surround_has_the_same_shares(make: Callable[..., Path], codec: str, container: str) -> None:
    six = sines("5.1", *TONES_HZ[:6])
    heard = read(make(f"surround_{codec}.{container}", *six, "-c:a", codec, "-b:a", "512k"))
    expected = [0.1 * share for share in LAYOUTS["5.1"]]
    assert heard.amplitudes(TONES_HZ[:6]) == pytest.approx(expected, abs=0.001)


def test_of_tracks_without_a_layout_the_first_two_are_the_programme(tmp_path: Path) -> None:
    path = tmp_path / "discrete.wav"
    _write_wave(path, np.stack([_sine(hz) for hz in TONES_HZ], axis=1))
    assert read(path).amplitudes(TONES_HZ) == pytest.approx([0.05, 0.05, 0, 0, 0, 0, 0, 0], abs=0.0005)


def test_dual_mono_keeps_both_sides(tmp_path: Path) -> None:
    alike, different = tmp_path / "alike.wav", tmp_path / "different.wav"
    _write_wave(alike, np.stack([_sine(300), _sine(300)], axis=1))
    _write_wave(different, np.stack([_sine(300), _sine(500)], axis=1))
    assert read(alike).amplitudes((300,)) == pytest.approx([0.1], abs=0.0005)
    assert read(different).amplitudes((300, 500)) == pytest.approx([0.05, 0.05], abs=0.0005)


def test_phase_inverted_stereo_does_not_cancel_out(tmp_path: Path) -> None:
    path = tmp_path / "inverted.wav"
    _write_wave(path, np.stack([_sine(300), -_sine(300)], axis=1))
    heard = read(path)
    assert heard.amplitudes((300,)) == pytest.approx([0.1], abs=0.0005)
    assert heard.rms(0, 0.1) == pytest.approx(0.1 / 2**0.5, rel=0.2)


def test_polarity_that_turns_midway_costs_neither_level_nor_a_click(tmp_path: Path) -> None:
    path = tmp_path / "turns.wav"
    left, turned = _sine(300), np.repeat([1, -1, 1], 2 * 48000)
    _write_wave(path, np.stack([left, left * turned], axis=1))
    heard = read(path)
    for start_s in (0.1, 2.1, 4.1):
        assert heard.rms(start_s, start_s + 1.8) == pytest.approx(0.1 / 2**0.5, rel=0.02)
    # The steepest a 300 Hz tone of this amplitude gets, and little more; the file itself breaks nothing.
    steepest = 0.1 * 2 * np.pi * 300 / 16000
    assert np.abs(np.diff(heard.samples)).max() < 1.1 * steepest


def test_surround_that_turns_to_stereo_midway_is_heard_throughout(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    coding = ("-c:a", "ac3", "-b:a", "448k", "-muxdelay", 0)
    surround = make("part_surround.ts", *sines("5.1", *TONES_HZ[:6]), *coding)
    stereo = make("part_stereo.ts", *sines("stereo", *TONES_HZ[:2]), *coding)
    path = tmp_path / "turns.ts"
    path.write_bytes(surround.read_bytes() + shift_times(stereo.read_bytes(), lambda pid, time_s: 6.016))
    heard = read(path)
    shares = [0.1 * share for share in LAYOUTS["5.1"]]
    assert heard.amplitudes(TONES_HZ[:6], 1, 5) == pytest.approx(shares, abs=0.001)
    assert heard.amplitudes(TONES_HZ[:6], 7, 11) == pytest.approx([0.05, 0.05, 0, 0, 0, 0], abs=0.001)
    assert heard.report.gaps == ()
    assert heard.report.damage == ()


def test_noise_of_a_broken_decoder_is_muted_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "broken.wav"
    samples = np.stack([_sine(300)] * 2, axis=1).astype(np.float32)
    samples[48000:48016] = np.nan
    samples[96000:96016] = 1e30
    raw = tmp_path / "broken.f32"
    samples.tofile(raw)
    ffmpeg("-f", "f32le", "-ar", 48000, "-ac", 2, "-i", raw, "-c:a", "pcm_f32le", path)
    heard = read(path)
    assert np.abs(heard.samples).max() < 8
    assert "samples that were no audio were muted" in heard.damage
    assert heard.amplitudes((300,), 3, 5) == pytest.approx([0.1], abs=0.0005)


def _sine(hz: int) -> np.ndarray:
    return 0.1 * np.sin(2 * np.pi * hz * np.arange(6 * 48000) / 48000)


def _write_wave(path: Path, samples: np.ndarray) -> None:
    """PCM of 16 bits that says nothing of its layout."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(48000)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
