"""Damaged, unfinished and hostile files: processed with the damage recorded, or refused in one clear line."""

import os
import random
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgm_pipeline.errors import MediaError
from bgm_pipeline.media.extract import open_audio
from bgm_pipeline.media.ffmpeg import is_of_a_cut
from bgm_pipeline.media.probe import probe, select_audio, sha256_of
from bgm_pipeline.settings import MediaSettings

from .conftest import CLICKS_S, VIDEO, ffmpeg, read
from .transport import AUDIO_PID, PACKET, packets, pid_of

SOURCES = {
    "whole_mp2.ts": ("video", "-c:v", "libx264", "-c:a", "mp2"),
    "whole_aac.ts": ("video", "-c:v", "libx264", "-c:a", "aac"),
    "whole_ac3.ts": ("video", "-c:v", "libx264", "-c:a", "ac3"),
    "whole_aac.mp4": ("video", "-c:v", "libx264", "-c:a", "aac", "-movflags", "faststart"),
    "whole_flac.mkv": ("video", "-c:v", "libx264", "-c:a", "flac"),
    "whole_pcm.mxf": ("video", "-c:v", "mpeg2video", "-c:a", "pcm_s16le"),
    "whole_pcm.avi": ("video", "-c:v", "mpeg4", "-c:a", "pcm_s16le"),
    "whole_pcm.wav": ("-c:a", "pcm_s16le"),
    "whole.flac": ("-c:a", "flac"),
    "whole.mp3": ("-c:a", "libmp3lame"),
}

ODD_NAMES = [
    "-leading dash.wav",
    "two  spaces and 'quotes\".wav",
    "Übertragung 放送 🎵.wav",
    "new\nline.wav",
    "100%d.wav",
    "protocol:colon|pipe.wav",
    b"not utf-8 \xff\xfe.wav",
]


@pytest.fixture(scope="module")
def hiss(make: Callable[..., Path]) -> Path:
    """6 s of noise over a tone: no codec can make it small."""
    tone = "aevalsrc='0.3*sin(2*PI*440*t)+0.1*(random(0)-0.5)':s=48000:d=6"
    return make("hiss.wav", "-f", "lavfi", "-i", tone)


def _source(make: Callable[..., Path], hiss: Path, name: str) -> bytes:
    arguments = list(SOURCES[name])
    video = VIDEO if arguments[0] == "video" else ()
    return make(name, *video, "-i", hiss, *(arguments[1:] if video else arguments)).read_bytes()


def _refusal(path: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(MediaError) as refused:
        read(path)
    message = str(refused.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize("name", SOURCES)
def test_a_truncated_file_is_read_to_its_end_and_the_cut_recorded(
    make: Callable[..., Path], hiss: Path, tmp_path: Path, name: str
) -> None:
    data, path = _source(make, hiss, name), tmp_path / name
    # In the middle, at a whole sample of PCM, so that the decoder itself has nothing to complain of.
    path.write_bytes(data[: len(data) // (2 * PACKET) * PACKET + 100])
    heard = read(path)
    assert 1.5 < len(heard.samples) / 16000 < 4.5
    assert heard.rms(0.5, 1.5) == pytest.approx(0.3 / 2**0.5, rel=0.1)
    assert heard.damage


@pytest.mark.parametrize("name", ["whole_ac3.ts", "whole_flac.mkv", "whole.flac", "whole.mp3"])
def test_corrupt_bytes_cost_only_what_they_hit(
    make: Callable[..., Path], hiss: Path, tmp_path: Path, name: str
) -> None:
    data, path = bytearray(_source(make, hiss, name)), tmp_path / name
    chance = random.Random(1)
    for _ in range(6):
        at = chance.randrange(len(data) // 4, len(data))
        data[at : at + 8] = chance.randbytes(8)
    path.write_bytes(data)
    heard = read(path)
    assert heard.damage
    assert len(heard.samples) / 16000 == pytest.approx(6, abs=0.15)
    assert heard.rms(0.2, 1.2) == pytest.approx(0.3 / 2**0.5, rel=0.1)


def test_damage_is_counted_by_kind(make: Callable[..., Path], hiss: Path, tmp_path: Path) -> None:
    data, path = bytearray(_source(make, hiss, "whole_mp2.ts")), tmp_path / "payloads.ts"
    sound = [at for at, packet in enumerate(packets(data)) if pid_of(packet) == AUDIO_PID]
    for at in sound[10::7]:
        data[at * PACKET + 5 : (at + 1) * PACKET] = bytes(PACKET - 5)
    path.write_bytes(data)
    heard = read(path)
    assert 0 < len(heard.report.damage) < 10
    assert max(damage.count for damage in heard.report.damage) >= 5


def test_a_picture_that_cannot_be_decoded_is_no_damage(broadcast: Path, tmp_path: Path) -> None:
    # A recording that starts in the middle of a programme has no picture before its first key frame.
    data = broadcast.read_bytes()
    packet = next(
        at
        for at, packet in enumerate(packets(data))
        if at * PACKET > len(data) // 3 and pid_of(packet) == AUDIO_PID and packet[1] & 0x40
    )
    path = tmp_path / "middle.ts"
    path.write_bytes(data[: 3 * PACKET] + data[packet * PACKET :])
    heard = read(path)
    assert len(heard.samples) / 16000 == pytest.approx(4, abs=1)
    assert "h264" not in heard.damage


def test_a_file_that_grows_while_it_is_read_is_noticed(broadcast: Path, tmp_path: Path) -> None:
    path = tmp_path / "grows.ts"
    path.write_bytes(broadcast.read_bytes())
    info = probe(path)
    with open_audio(info, select_audio(info), MediaSettings()) as reader:
        for block in reader:
            if block.start_samples == 0:
                with path.open("ab") as file:
                    file.write(bytes(PACKET))
        (damage,) = reader.report.damage
    assert damage.message == (
        f"the file changed from {info.size_bytes} to {info.size_bytes + PACKET} bytes while it was read: "
        "still growing?"
    )


WAV_HEAD = 44
TONE_BYTES = 6 * 48000 * 2


def _wav(data: bytes, stated_bytes: int, after: bytes = b"", form: str = "RIFF") -> bytes:
    """48 kHz mono of 16 bits whose header states so many bytes of sound."""
    pcm = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 48000, 96000, 2, 16)
    ds64, stated = b"", stated_bytes
    if form == "RF64":
        ds64 = struct.pack("<4sIQQQI", b"ds64", 28, 72 + stated_bytes, stated_bytes, 0, 0)
        stated = 0xFFFF_FFFF
    chunks = b"WAVE" + ds64 + pcm + struct.pack("<4sI", b"data", stated) + data + after
    size = len(chunks) - len(data) + stated_bytes if form == "RIFF" else 0xFFFF_FFFF
    return form.encode() + struct.pack("<I", size) + chunks


@pytest.fixture
def pcm(tone: Path) -> bytes:
    """6 s of a 440 Hz tone of amplitude 0.5."""
    data = tone.read_bytes()[-TONE_BYTES:]
    assert len(data) == TONE_BYTES
    return data


@pytest.mark.parametrize("form", ["RIFF", "RF64"])
def test_a_wav_that_goes_on_beyond_its_header_is_read_to_its_end(
    pcm: bytes, tmp_path: Path, form: str
) -> None:
    """A recorder crashed; the sizes are of a while ago."""
    path = tmp_path / "crashed.wav"
    path.write_bytes(_wav(pcm, 96_000, form=form))
    heard, header = read(path), path.stat().st_size - len(pcm)
    assert len(heard.samples) / 16000 == pytest.approx(6, abs=0.01)
    assert heard.rms(4, 5.9) == pytest.approx(0.5 / 2**0.5, rel=0.01)
    assert (
        f"the header states {header + 96_000} of the file's {header + len(pcm)} bytes; the rest was read"
        in (heard.damage)
    )


def test_sound_that_begins_like_the_name_of_a_chunk_is_read_all_the_same(pcm: bytes, tmp_path: Path) -> None:
    path = tmp_path / "crashed.wav"
    path.write_bytes(_wav(pcm[:96_000] + b"abc\x7eabc\x7e" + pcm[96_008:], 96_000))
    assert len(read(path).samples) / 16000 == pytest.approx(6, abs=0.01)


def test_of_joined_wavs_all_is_read(pcm: bytes, tmp_path: Path) -> None:
    path = tmp_path / "joined.wav"
    path.write_bytes(3 * _wav(pcm, len(pcm)))
    heard = read(path)
    assert len(heard.samples) / 16000 == pytest.approx(18, abs=0.01)
    assert heard.rms(16, 17.9) == pytest.approx(0.5 / 2**0.5, rel=0.01)
    assert "the rest was read as sound, too" in heard.damage


def test_of_a_wav_that_another_kind_was_joined_to_the_rest_is_told(
    make: Callable[..., Path], tone: Path, pcm: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "joined.wav"
    other = make("tone24.wav", "-i", tone, "-c:a", "pcm_s24le").read_bytes()
    path.write_bytes(_wav(pcm, len(pcm)) + other)
    heard = read(path)
    assert len(heard.samples) == 6 * 16000
    assert heard.damage == (
        f"the header states {WAV_HEAD + len(pcm)} of the file's {path.stat().st_size} bytes; "
        "the rest was not read: cut it off, and process it by itself"
    )


@pytest.mark.parametrize(
    ("after", "form"),
    [
        pytest.param(struct.pack("<4sI", b"axml", 3_000_000) + b"<" * 3_000_000, "RIFF", id="axml"),
        pytest.param(struct.pack("<4sI", b"axml", 3_000_000) + b"<" * 3_000_000, "RF64", id="axml of RF64"),
        pytest.param(
            struct.pack("<4sI", b"iXML", 9) + b"<" * 9 + struct.pack("<4sI", b"LIST", 90_000) + bytes(90_000),
            "RIFF",
            id="odd and not padded",
        ),
        pytest.param(bytes(2048), "RIFF", id="padding"),
        pytest.param(bytes(100_000), "RIFF", id="room made beforehand"),
        pytest.param(b"ID3\x04" + bytes(range(256)) * 400, "RIFF", id="a tag that is no chunk"),
    ],
)
def test_what_follows_the_sound_of_a_wav_is_neither_damage_nor_sound(
    pcm: bytes, tmp_path: Path, after: bytes, form: str
) -> None:
    path = tmp_path / "tags.wav"
    path.write_bytes(_wav(pcm, len(pcm), after, form))
    heard = read(path)
    assert len(heard.samples) == 6 * 16000
    assert heard.damage == ""


@pytest.mark.parametrize("unknown", [0, 0xFFFF_FFFF])
def test_a_wav_that_states_no_size_is_read_to_its_end(pcm: bytes, tmp_path: Path, unknown: int) -> None:
    path = tmp_path / "stream.wav"
    head = _wav(pcm, len(pcm))[: WAV_HEAD - 4]
    path.write_bytes(head[:4] + struct.pack("<I", unknown) + head[8:] + struct.pack("<I", unknown) + pcm)
    heard = read(path)
    assert len(heard.samples) == 6 * 16000
    assert "the header states" not in heard.damage


def test_an_unfinished_mp4_is_refused_with_the_cure(
    make: Callable[..., Path], clicks: Path, tmp_path: Path
) -> None:
    whole = make("index_last.mp4", *VIDEO, "-i", clicks, "-c:v", "libx264", "-c:a", "aac").read_bytes()
    path = tmp_path / "unfinished.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    assert _refusal(path) == (
        f"{path}: an MP4 or MOV without its index (moov): cut short or not finished, or no MP4 at all; "
        "wait for it or copy it again"
    )


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.ts"
    path.touch()
    assert _refusal(path) == f"{path}: the file is empty (0 bytes); copy or record it again"


def test_a_file_without_audio_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "silent film.mp4"
    ffmpeg(*VIDEO, "-c:v", "libx264", path)
    assert not probe(path).audio_streams
    assert _refusal(path) == f"{path}: no audio stream in this file; give a recording that has sound"


@pytest.mark.parametrize("name", ["text.ts", "text.mkv", "text.mp4", "text.mxf", "text.wav", "text.mp3"])
def test_text_with_the_name_of_a_recording_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("This is not a recording.\n" * 4000)
    assert _refusal(path).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["noise.ts", "noise.mp3", "zeros.ts"])
def test_bytes_without_meaning_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(400_000) if name.startswith("zeros") else random.Random(1).randbytes(400_000))
    assert _refusal(path).startswith(f"{path}: ")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.ts"
    os.mkfifo(pipe)
    assert _refusal(pipe) == f"{pipe}: not a plain file but a pipe or device; record it to a file first"
    assert _refusal(tmp_path) == f"{tmp_path}: this is a folder; give a media file in it"
    missing = tmp_path / "missing.ts"
    assert _refusal(missing) == f"{missing}: no such file; check the name and that its disk is mounted"
    assert "cannot be read (embedded null byte)" in _refusal(Path("nul\0.ts"))
    with pytest.raises(MediaError, match="no such file"):
        sha256_of(missing)


def test_no_permission_is_said(clicks: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "private.wav"
        folder.chmod(0o755)
        path.write_bytes(clicks.read_bytes())
        path.chmod(0o000)
        cure = "no permission to read it; change its owner or mode (chmod a+r)"
        with _without_privileges():
            assert _refusal(path) == f"{path}: {cure}"
            with pytest.raises(MediaError, match="no permission to read it"):
                sha256_of(path)
        path.chmod(0o644)
        with _without_privileges():
            assert probe(path).audio_streams


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_names_are_only_names(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | bytes
) -> None:
    path = Path(os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    path.write_bytes(clicks.read_bytes())
    assert probe(tmp_path / path).audio_streams
    assert read(path).clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    path.write_bytes(b"")
    assert "the file is empty" in _refusal(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{secret}\n#EXT-X-ENDLIST\n"),
        ("list.ts", "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{secret}\n#EXT-X-ENDLIST\n"),
        ("script.txt", "ffconcat version 1.0\nfile '{secret}'\n"),
        ("script.mp4", "ffconcat version 1.0\nfile '{secret}'\n"),
        (
            "session.sdp",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        ),
    ],
)
def test_what_points_to_other_files_is_refused(clicks: Path, tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text.format(secret=clicks))
    assert _refusal(path) == (
        f"{path}: a playlist or script, or a container that is not read here; give the recording itself"
    )


def test_a_damaged_file_gives_the_same_again(make: Callable[..., Path], hiss: Path, tmp_path: Path) -> None:
    data, path = bytearray(_source(make, hiss, "whole_mp2.ts")), tmp_path / "again.ts"
    data[len(data) // 2 :: 5000] = bytes(len(data[len(data) // 2 :: 5000]))
    path.write_bytes(data)
    first, second = read(path), read(path)
    assert (first.samples == second.samples).all()
    assert first.report == second.report


@contextmanager
def _without_privileges() -> Iterator[None]:
    """Root may read everything, so what is inside runs as nobody, where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


LONG_VIDEO = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=16")
ENCODED = ("-c:v", "mpeg2video", "-c:a", "mp2")


def test_a_broadcast_whose_sound_ends_long_before_its_picture_says_so(
    make: Callable[..., Path], hiss: Path
) -> None:
    heard = read(make("silent_end.ts", *LONG_VIDEO, "-i", hiss, *ENCODED))
    assert len(heard.samples) / 16000 == pytest.approx(6, abs=0.1)
    assert re.search(r"the audio ends at 00:00:0[56].*, but the file goes on to 00:00:1[56]", heard.damage)


def test_a_whole_broadcast_that_was_cut_where_a_recorder_cuts_is_not_damaged(
    make: Callable[..., Path], hiss: Path, tmp_path: Path
) -> None:
    """Whatever ffmpeg says of the frame at the cut, which is never whole."""
    whole = list(packets(make("whole_mp2.ts", *VIDEO, "-i", hiss, *SOURCES["whole_mp2.ts"][1:]).read_bytes()))
    of_audio = [at for at, packet in enumerate(whole) if pid_of(packet) == AUDIO_PID]
    said = set()
    for cut in of_audio[-40:-5:3]:
        path = tmp_path / f"{cut}.ts"
        path.write_bytes(b"".join(whole[:cut]))
        damage = read(path).report.damage
        said |= {one.message for one in damage}
        assert [one for one in damage if not is_of_a_cut(one.message, one.count)] == []
    assert said, "a frame was cut, and ffmpeg said so"
