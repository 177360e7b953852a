"""ffmpeg as a child: missing, hanging, killed, talkative, left early; never a hang, never a growing heap."""

import os
import shlex
import shutil
import stat
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from bgm_pipeline.errors import MediaError, MediaInterruptedError
from bgm_pipeline.media import probe as probing
from bgm_pipeline.media.extract import command, open_audio
from bgm_pipeline.media.probe import probe, select_audio, sha256_of
from bgm_pipeline.settings import MediaSettings
from bgm_pipeline.timebase import SAMPLE_RATE

from .conftest import CLICKS_S, ffmpeg, read

LONG_S = 300


@pytest.fixture(scope="module")
def long_file(folder: Path) -> Path:
    """Five minutes of noise."""
    path = folder / "long.wav"
    ffmpeg("-f", "lavfi", "-i", f"anoisesrc=r=16000:d={LONG_S}:seed=1", path)
    return path


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a shell script in the place of ffmpeg or ffprobe; its process id is left in the file returned."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(program: str, script: str) -> Path:
        path, note = folder / program, tmp_path / "pid"
        path.write_text(f"#!/bin/sh\necho $$ > {shlex.quote(str(note))}\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return note

    return make


def _is_gone(note: Path) -> bool:
    return not Path(f"/proc/{note.read_text().strip()}").exists()


def test_a_missing_ffmpeg_is_said_with_the_cure(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = probe(clicks)
    monkeypatch.setenv("PATH", str(tmp_path))
    cure = "is not installed: install the ffmpeg package, or put it on PATH"
    with pytest.raises(MediaError, match=f"^ffprobe {cure}$"):
        probe(clicks)
    with pytest.raises(MediaError, match=f"^ffmpeg {cure}$"):
        open_audio(info, select_audio(info), MediaSettings()).__enter__()


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("exec sleep 60", id="from the start"),
        pytest.param("head -c 1000 /dev/zero; exec sleep 60", id="without times"),
        pytest.param(
            "echo '[Parsed_ashowinfo_3 @ 0x1] [info] n:0 pts:0 pts_time:0 nb_samples:500 checksum:0' >&2\n"
            "head -c 1000 /dev/zero; exec sleep 60",
            id="inside a frame",
        ),
        pytest.param("exec >&- 2>&-; exec sleep 60", id="after closing its outputs"),
    ],
)
def test_an_ffmpeg_that_hangs_is_stopped_by_the_time_out(
    clicks: Path, stand_in: Callable[[str, str], Path], script: str
) -> None:
    info, note = probe(clicks), stand_in("ffmpeg", script)
    started_s = time.monotonic()
    with (
        pytest.raises(MediaError, match=r"clicks.wav: ffmpeg .*; .*run it again"),
        open_audio(info, select_audio(info), MediaSettings(silence_timeout_s=0.5)) as reader,
    ):
        list(reader)
    assert time.monotonic() - started_s < 10
    assert _is_gone(note)


def test_an_ffprobe_that_hangs_is_stopped(
    clicks: Path, stand_in: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = stand_in("ffprobe", "exec sleep 60")
    monkeypatch.setattr(probing, "PROBE_TIMEOUT_S", 0.5)
    with pytest.raises(MediaInterruptedError, match=r"clicks.wav: ffprobe gave no answer for 0.5 s"):
        probe(clicks)
    assert _is_gone(note)


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("kill -9 $$", "killed by signal 9"),
        ("echo '[info] Exiting normally, received signal 15.' >&2; exit 255", "ended by a signal"),
    ],
)
def test_an_ffmpeg_that_somebody_ends_is_an_error_and_not_the_end_of_the_file(
    clicks: Path, stand_in: Callable[[str, str], Path], script: str, how: str
) -> None:
    info = probe(clicks)
    stand_in("ffmpeg", script)
    with (
        pytest.raises(MediaInterruptedError, match=f"clicks.wav: ffmpeg was {how} before the end"),
        open_audio(info, select_audio(info), MediaSettings()) as reader,
    ):
        list(reader)


def test_a_killed_ffprobe_says_nothing_of_the_file(
    clicks: Path, stand_in: Callable[[str, str], Path]
) -> None:
    stand_in("ffprobe", "kill -9 $$")
    cure = "check the machine's memory, then run it again"
    with pytest.raises(
        MediaInterruptedError, match=f"clicks.wav: ffprobe was killed by signal 9 before the end; {cure}"
    ):
        probe(clicks)


COMPLAINT = "echo '[in#0/wav @ 0x1] [error] Error during demuxing: Input/output error' >&2"


def test_a_disk_that_fails_is_not_the_end_of_the_file(
    clicks: Path, stand_in: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """ffmpeg takes it for that, and exits with 0."""
    info, real, seen = probe(clicks), shutil.which("ffmpeg"), shlex.quote(str(tmp_path / "seen"))
    stand_in("ffmpeg", f'[ -e {seen} ] || {COMPLAINT}; touch {seen}; exec {real} "$@"')
    with (
        open_audio(info, select_audio(info), MediaSettings()) as reader,
        pytest.raises(MediaInterruptedError, match=r"clicks.wav: its disk failed .*\(Input/output error\)"),
    ):
        assert list(reader)
        _ = reader.report


def test_broken_content_that_ffmpeg_calls_an_error_of_the_disk_is_damage(
    clicks: Path, stand_in: Callable[[str, str], Path]
) -> None:
    info = probe(clicks)
    stand_in("ffmpeg", f'{COMPLAINT}; exec {shutil.which("ffmpeg")} "$@"')
    with open_audio(info, select_audio(info), MediaSettings()) as reader:
        assert list(reader)
        (damage,) = reader.report.damage
    assert "Input/output error" in damage.message


def test_a_disk_that_fails_for_a_moment_while_ffprobe_looks_is_looked_at_again(
    clicks: Path, stand_in: Callable[[str, str], Path], tmp_path: Path
) -> None:
    real, seen = shutil.which("ffprobe"), shlex.quote(str(tmp_path / "seen"))
    stand_in("ffprobe", f'[ -e {seen} ] || {{ touch {seen}; {COMPLAINT}; exit 1; }}; exec {real} "$@"')
    assert probe(clicks).audio_streams


@pytest.mark.parametrize("container", ["mkv", "flac", "dv"])
def test_a_head_without_a_body_is_a_broken_file_and_no_broken_disk(tmp_path: Path, container: str) -> None:
    """ffprobe calls it an input/output error."""
    path, whole = tmp_path / f"head.{container}", tmp_path / f"whole.{container}"
    tv = ("-f", "lavfi", "-i", "testsrc=s=720x576:r=25:d=1", "-pix_fmt", "yuv420p", "-ar", 48000)
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", *(tv if container == "dv" else ()), "-ac", 2, whole)
    path.write_bytes(whole.read_bytes()[:64])
    with pytest.raises(MediaError, match="not a media file that ffmpeg can read") as refused:
        probe(path)
    assert not isinstance(refused.value, MediaInterruptedError)


def test_a_disk_that_fails_while_bytes_are_counted_says_nothing_of_the_file() -> None:
    with pytest.raises(
        MediaInterruptedError, match=r"its disk failed while it was read \(Input/output error\)"
    ):
        sha256_of(Path("/proc/self/mem"))  # whose first bytes no process has


def test_a_failing_ffmpeg_is_an_error_with_its_reason(
    clicks: Path, stand_in: Callable[[str, str], Path]
) -> None:
    info = probe(clicks)
    stand_in("ffmpeg", "echo '[error] Cannot allocate memory' >&2; exit 1")
    with (
        pytest.raises(MediaError, match=r"clicks.wav: ffmpeg cannot decode it \(Cannot allocate memory\)"),
        open_audio(info, select_audio(info), MediaSettings()) as reader,
    ):
        list(reader)


def test_an_ffmpeg_that_is_too_old_is_said(clicks: Path, stand_in: Callable[[str, str], Path]) -> None:
    info = probe(clicks)
    stand_in(
        "ffmpeg",
        """case "$*" in *-version*) echo 'ffmpeg version 4.4.2-0ubuntu1 Copyright'; exit 0;; esac
        echo "[Parsed_aresample_1 @ 0x1] [error] Option 'ochl' not found" >&2
        echo '[error] Error reinitializing filters!' >&2
        exit 1""",
    )
    with (
        pytest.raises(MediaError, match=r"^ffmpeg 5.1 or newer is needed; this is 4.4.2-0ubuntu1: install"),
        open_audio(info, select_audio(info), MediaSettings()) as reader,
    ):
        list(reader)


def test_an_ffmpeg_that_complains_without_end_does_not_block(
    clicks: Path, stand_in: Callable[[str, str], Path]
) -> None:
    real = shutil.which("ffmpeg")
    # 1.8 MB of complaints of 60 kinds before the first sample; a pipe holds 64 KB.
    flood = 'yes "[error] $1 is wrong" | head -c 30000 >&2; shift'
    kinds = " ".join(f"{chr(97 + number // 26)}{chr(97 + number % 26)}x" for number in range(60))
    stand_in("ffmpeg", f'for kind in {kinds}; do set -- "$kind" "$@"; {flood}; done\nexec {real} "$@"')
    heard = read(clicks)
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    assert len(heard.report.damage) == 51
    assert heard.report.damage[0].message == "aax is wrong"
    assert heard.report.damage[0].count > 1000
    assert heard.report.damage[-1].message == "other complaints"


def test_a_reader_that_is_slower_than_the_time_out_is_not_taken_for_a_hang(long_file: Path) -> None:
    info = probe(long_file)
    length = 0
    with open_audio(info, select_audio(info), MediaSettings(silence_timeout_s=0.5)) as reader:
        for block in reader:
            if block.start_samples in (0, 20 * SAMPLE_RATE):
                time.sleep(0.9)
            length += len(block.samples)
    assert length == LONG_S * SAMPLE_RATE


def test_leaving_early_stops_ffmpeg(long_file: Path, stand_in: Callable[[str, str], Path]) -> None:
    info, note = probe(long_file), stand_in("ffmpeg", f'exec {shutil.which("ffmpeg")} "$@"')
    with open_audio(info, select_audio(info), MediaSettings()) as reader:
        first = next(iter(reader))
        assert len(first.samples) == 2 * SAMPLE_RATE
        assert not _is_gone(note)
        with pytest.raises(RuntimeError, match="known when all blocks have been read"):
            _ = reader.report
    assert _is_gone(note)


def test_memory_does_not_grow_with_the_length(long_file: Path, clicks: Path) -> None:
    peaks_bytes = {}
    for path in (clicks, long_file):
        info, block_s = probe(path), 0.5
        tracemalloc.start()
        with open_audio(info, select_audio(info), MediaSettings(block_s=block_s)) as reader:
            lengths = [len(block.samples) for block in reader]
        _, peaks_bytes[path] = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert max(lengths) == block_s * SAMPLE_RATE
    # The whole would be 19 MB.
    assert peaks_bytes[long_file] < 1.5 * peaks_bytes[clicks] + 200_000
    assert peaks_bytes[long_file] < 2_000_000


def test_the_file_is_opened_as_nothing_but_a_recording(clicks: Path) -> None:
    info = probe(clicks)
    arguments = command(info, select_audio(info))
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe"
    assert arguments[arguments.index("-i") + 1] == f"file:{clicks}"
    assert "concat" not in arguments[arguments.index("-format_whitelist") + 1]
