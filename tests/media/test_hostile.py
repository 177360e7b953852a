"""Files that would read other files, reach for the network, or never come to an end."""

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bgm_pipeline.errors import MediaError
from bgm_pipeline.media import ffmpeg as children
from bgm_pipeline.media import probe as probing
from bgm_pipeline.media.extract import open_audio
from bgm_pipeline.media.ffmpeg import ChildError, run
from bgm_pipeline.media.probe import probe, select_audio
from bgm_pipeline.settings import MediaSettings
from bgm_pipeline.training.clips import UnusableClip, decode

from .conftest import VIDEO, ffmpeg, read
from .transport import AUDIO_PID, shift_times

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{target}\n#EXT-X-ENDLIST\n"
NAMES_AND_TEXTS = {
    "list.m3u8": HLS,
    "list.ts": HLS,
    "list.wav": HLS,
    "script.ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "script.mxf": "ffconcat version 1.0\nfile '{target}'\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={target}\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=audio 5004 RTP/AVP 0\n",
    "manifest.ts": '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT6S"><Period>'
    '<AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
}


class Server:
    """A server on this machine that gives one file to whoever asks, and remembers who did."""

    def __init__(self, content: bytes) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/secret.ts"

    @contextmanager
    def running(self) -> Iterator["Server"]:
        thread = Thread(target=self._http.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()


@pytest.fixture
def server(broadcast: Path) -> Iterator[Server]:
    with Server(broadcast.read_bytes()).running() as running:
        yield running


def refusal(path: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(MediaError) as refused:
        read(path)
    message = str(refused.value)
    assert message.isprintable()
    return message


def test_ffmpeg_by_itself_would_follow_these(server: Server, tmp_path: Path) -> None:
    """Else the tests below could not fail."""
    path = tmp_path / "list.m3u8"
    path.write_text(HLS.format(target=server.url))
    command = ["ffprobe", "-v", "quiet", "-protocol_whitelist", "file,http,tcp", path]
    subprocess.run(command, check=False, timeout=60)
    assert server.asked


@pytest.mark.parametrize("name", NAMES_AND_TEXTS)
@pytest.mark.parametrize("target", ["/etc/passwd", "server"])
def test_a_playlist_or_script_is_refused_and_nothing_is_asked(
    server: Server, tmp_path: Path, name: str, target: str
) -> None:
    path = tmp_path / name
    path.write_text(NAMES_AND_TEXTS[name].format(target=server.url if target == "server" else target))
    expected = "a playlist or script, or a container that is not read here; give the recording itself"
    assert refusal(path) == f"{path}: {expected}"
    with pytest.raises(UnusableClip, match="not readable as audio"):
        decode(path)
    assert server.asked == []


def test_a_list_on_the_network_is_only_a_name(server: Server) -> None:
    assert "no such file" in refusal(Path(server.url))
    assert server.asked == []


def data_reference(kind: bytes, target: str) -> bytes:
    """An entry of a MOV's list of references: the sound lies in another file."""
    if kind == b"url ":
        content = target.encode() + b"\0"
    else:
        name = target.encode()
        padded = name + b"\0" * (len(name) % 2)
        absolute_path = struct.pack(">HH", 2, len(name)) + padded
        content = bytes(10 + 28 + 12 + 64 + 16 + 4 + 16) + absolute_path + struct.pack(">HH", 0xFFFF, 0)
    return struct.pack(">I4sI", 12 + len(content), kind, 0) + content


def with_reference(boxes: bytes, entry: bytes) -> bytes:
    """A MOV whose one list of data references holds that entry instead of `in this file`."""
    done, at = b"", 0
    while at < len(boxes):
        size, kind = struct.unpack_from(">I4s", boxes, at)
        content = boxes[at + 8 : at + size]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            content = with_reference(content, entry)
        elif kind == b"dref":
            content = struct.pack(">II", 0, 1) + entry
        done += struct.pack(">I4s", 8 + len(content), kind) + content
        at += size
    return done


@pytest.mark.parametrize("kind", [b"alis", b"url "])
def test_a_mov_whose_sound_lies_elsewhere_is_refused(
    make: Callable[..., Path], tone: Path, server: Server, tmp_path: Path, kind: bytes
) -> None:
    whole = make("whole.mov", "-i", tone, "-c:a", "pcm_s16le")
    for target in (str(whole), server.url):
        path = tmp_path / "refers.mov"
        path.write_bytes(with_reference(whole.read_bytes(), data_reference(kind, target)))
        if kind == b"alis":
            assert refusal(path) == (
                f"{path}: its sound lies in another file, which is not read; "
                "give a recording that has its sound in it"
            )
            assert decode(path).size == 0
        else:
            # ffmpeg knows no such reference and takes what lies in this file.
            assert read(path).amplitudes((440,)) == pytest.approx([0.5], abs=0.01)
    assert server.asked == []


def test_the_mov_of_that_test_refers_to_a_real_file(
    make: Callable[..., Path], tone: Path, tmp_path: Path
) -> None:
    whole = make("whole.mov", "-i", tone, "-c:a", "pcm_s16le")
    path = tmp_path / "refers.mov"
    path.write_bytes(with_reference(whole.read_bytes(), data_reference(b"alis", str(whole))))
    ffmpeg("-enable_drefs", 1, "-use_absolute_path", 1, "-i", path, tmp_path / "followed.wav")
    assert read(tmp_path / "followed.wav").amplitudes((440,)) == pytest.approx([0.5], abs=0.01)


def test_memory_is_limited(clicks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = probe(clicks)
    monkeypatch.setattr(children, "MEMORY_LIMIT_BYTES", 1_000_000)
    assert "not a media file" in refusal(clicks)
    with (
        pytest.raises(MediaError, match=r"clicks.wav: ffmpeg "),
        open_audio(info, select_audio(info), MediaSettings()) as reader,
    ):
        list(reader)


def test_a_child_cannot_allocate_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = "import time; time.sleep(0.2); print(len(bytearray(300_000_000)))"
    assert run([sys.executable, "-c", greedy], 60).output == b"300000000\n"
    monkeypatch.setattr(children, "MEMORY_LIMIT_BYTES", 200_000_000)
    finished = run([sys.executable, "-c", greedy], 60)
    assert (finished.code, finished.output) == (1, b"")
    assert "MemoryError" in finished.complaints


def test_a_child_that_talks_without_end_is_stopped(clicks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChildError, match=r"^said more than 16 MB of it"):
        run(["yes"], 60)
    finished = run(["sh", "-c", "yes | head -c 1000000 >&2; echo last >&2"], 60)
    assert finished.complaints.endswith("last\n")
    assert len(finished.complaints) < 70_000
    monkeypatch.setattr(probing, "run", lambda arguments, timeout_s: run(["yes"], timeout_s))
    assert refusal(clicks) == f"{clicks}: ffprobe said more than 16 MB of it; check that it is a recording"


def test_a_child_finds_what_it_is_given() -> None:
    assert run(["wc", "-c"], 60, bytes(3_000_000)).output == b"3000000\n"


def test_a_clip_of_days_is_not_taken_into_memory(tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgm_pipeline.training.clips._DECODE_LIMIT_S", 5)
    with pytest.raises(UnusableClip, match="said more than 0 MB of it"):
        decode(tone)


def test_a_few_packets_that_claim_many_hours_are_refused(broadcast: Path, tmp_path: Path) -> None:
    """Each second of sound claims to be three quarters of an hour after the one before."""
    path = tmp_path / "hours.ts"
    path.write_bytes(
        shift_times(broadcast.read_bytes(), lambda pid, time_s: int(time_s) * 2700 if pid == AUDIO_PID else 0)
    )
    info = probe(path)
    limited = MediaSettings(max_duration_s=2 * 3600)
    with (
        pytest.raises(MediaError) as refused,
        open_audio(info, select_audio(info), limited) as reader,
    ):
        list(reader)
    assert str(refused.value) == (
        f"{path}: lasts longer than 02:00:00.000; cut it into parts, or raise BGM_MEDIA__MAX_DURATION_S"
    )


def test_a_tag_of_megabytes_is_cut(make: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "long tag.mp4"
    ffmpeg(*VIDEO, "-f", "lavfi", "-i", "sine=d=1", "-metadata", f"title={'x' * 100_000}", path)
    assert probe(path).tags["title"] == "x" * 1000
