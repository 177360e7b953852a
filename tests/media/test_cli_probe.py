"""``bgm probe`` as a user sees it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from bgm_pipeline.cli_probe import probe

from .conftest import VIDEO, read, sines
from .transport import AUDIO_PID, keep, shift_times

app = typer.Typer()
app.command()(probe)


@pytest.fixture(scope="module")
def service(make: Callable[..., Path]) -> Path:
    """Two programmes: news with description and stereo, sport with surround that starts 1.5 s late."""
    inputs = (*VIDEO, *sines("stereo", 200, 200), *sines("stereo", 300, 300))
    late = ("-itsoffset", 1.5, *sines("5.1", *range(300, 900, 100)))
    streams = ("-map", 0, "-map", 1, "-map", 2, "-map", 3, "-c:v", "libx264", "-c:a", "mp2", "-c:a:2", "ac3")
    languages = [
        item
        for number, language in enumerate(("eng", "eng", "fra"))
        for item in (f"-metadata:s:a:{number}", f"language={language}")
    ]
    news = (
        "-program",
        "program_num=7:title=News [one]:st=0:st=1:st=2",
        "-disposition:a:0",
        "visual_impaired",
    )
    sport = ("-program", "program_num=9:title=Sport:st=3")
    return make("service.ts", *inputs, *late, *streams, *languages, *news, *sport)


@pytest.fixture(scope="module")
def holed(service: Path, folder: Path) -> Path:
    """The same, and 1 s of the stereo sound is lost."""
    path = folder / "holed.ts"
    lost = AUDIO_PID + 1
    path.write_bytes(keep(service.read_bytes(), lambda pid, time_s: pid != lost or not 3 < time_s < 4)[:-100])
    return path


def test_programmes_of_a_multiplex_may_have_clocks_of_their_own(service: Path, folder: Path) -> None:
    path = folder / "clocks.ts"
    first_of_sport = AUDIO_PID + 2
    shifted = shift_times(service.read_bytes(), lambda pid, _: 0 if pid >= first_of_sport else 500)
    path.write_bytes(shifted)
    for wanted in ((), (3,)):
        heard = read(path, wanted)
        assert heard.gaps_s == []
        assert len(heard.samples) / 16_000 == pytest.approx(6, abs=0.1)
        assert heard.info.duration_s == pytest.approx(6, abs=0.3)


def _run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def _only_object(*arguments: object) -> dict[str, Any]:
    result = _run("--format", "json", *arguments)
    assert result.exit_code == 0
    (known,) = json.loads(result.stdout)
    return known  # type: ignore[no-any-return]


def test_the_table_tells_what_is_in_the_file(service: Path) -> None:
    result = _run(service)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == str(service)
    assert "mpegts" in lines[1]
    assert "lasts 00:00:07.5" in lines[1]
    assert "with a picture" in lines[1]
    assert "programme 7 News [one]: streams 0, 1, 2" in lines
    assert "programme 9 Sport: streams 3" in lines
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [row[:6] for row in rows] == [
        ["", "1", "mp2", "48000 Hz", "stereo", "eng"],
        ["->", "2", "mp2", "48000 Hz", "stereo", "eng"],
        ["", "3", "ac3", "48000 Hz", "5.1(side)", "fra"],
    ]
    assert "visual_impaired" in rows[0][8]
    assert rows[1][6] == "00:00:00.000"
    assert rows[1][7].startswith("00:00:05.9")
    assert rows[2][6].startswith("00:00:01.49")
    assert "processed: 2 (default: first main audio of 3 streams)" in lines
    assert "gap" not in result.stdout


def test_json_tells_the_same_with_times_in_seconds(service: Path) -> None:
    known = _only_object(service)
    assert known["path"] == str(service)
    assert known["container"] == "mpegts"
    assert known["size_bytes"] == service.stat().st_size
    assert known["duration_s"] == pytest.approx(7.5, abs=0.1)
    assert known["programmes"] == [
        {"number": 7, "name": "News [one]", "streams": [0, 1, 2]},
        {"number": 9, "name": "Sport", "streams": [3]},
    ]
    assert known["selection"] == {"streams": [2], "reason": "default: first main audio of 3 streams"}
    described, main, late = known["audio_streams"]
    assert "visual_impaired" in described["roles"]
    assert (main["index"], main["codec"], main["sample_rate"], main["channels"]) == (2, "mp2", 48000, 2)
    assert (main["layout"], main["language"], main["programme"]) == ("stereo", "eng", 7)
    assert main["start_s"] == 0
    assert main["duration_s"] == pytest.approx(6, abs=0.05)
    assert [stream["is_processed"] for stream in known["audio_streams"]] == [False, True, False]
    assert late["start_s"] == pytest.approx(1.5, abs=0.02)
    assert "gaps" not in known


def test_gaps_and_damage_are_listed_when_asked_for(holed: Path) -> None:
    result = _run("--gaps", holed)
    assert result.exit_code == 0
    assert "gap: 00:00:01.5" in result.stdout
    assert "(no audio in the file)" in result.stdout
    assert "damage: the file ends inside a packet: cut short? (x 1)" in result.stdout
    known = _only_object("--gaps", holed)
    (gap,) = known["gaps"]
    assert (gap["start_s"], gap["end_s"]) == pytest.approx((1.54, 2.54), abs=0.06)
    assert gap["reason"] == "no audio in the file"
    assert known["audio_duration_s"] == pytest.approx(6, abs=0.05)
    assert {"message": "the file ends inside a packet: cut short?", "count": 1} in known["damage"]


def test_a_whole_file_says_so(service: Path) -> None:
    assert "no gap, no damage" in _run("--gaps", service).stdout.splitlines()


def test_the_choice_of_a_stream_is_shown(service: Path) -> None:
    known = _only_object("--audio-stream", 3, service)
    assert known["selection"] == {"streams": [3], "reason": "asked for"}
    result = _run("--audio-stream", 8, service)
    assert result.exit_code == 1
    assert "service.ts: no audio stream 8; its audio streams are 1 (mp2" in result.stderr
    assert "processed" not in result.stdout


def test_mono_tracks_that_would_be_joined_are_marked(make: Callable[..., Path]) -> None:
    tracks = ("-map", 0, "-map", 1, "-map", 2, "-c:a", "pcm_s16le")
    path = make("three.mov", *sines("mono", 300), *sines("mono", 400), *sines("mono", 500), *tracks)
    assert _only_object(path)["selection"]["streams"] == [0, 1]
    assert _only_object("--join", path)["selection"]["streams"] == [0, 1, 2]
    assert "processed: 0 and 1 (default: the first two mono tracks, as a stereo pair)" in _run(path).stdout


def test_a_file_that_fails_stops_no_other(service: Path, tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing.ts", tmp_path / "empty\n[red].ts"
    empty.touch()
    result = _run("--format", "json", missing, empty, service)
    assert result.exit_code == 1
    assert [known["path"] for known in json.loads(result.stdout)] == [str(service)]
    assert result.stderr.splitlines() == [
        f"bgm: {missing}: no such file; check the name and that its disk is mounted",
        f"bgm: {tmp_path}/empty\\n[red].ts: the file is empty (0 bytes); copy or record it again",
    ]


def test_a_file_without_sound_is_described_and_refused(make: Callable[..., Path]) -> None:
    path = make("film [1].mp4", *VIDEO, "-c:v", "libx264")
    result = _run(path)
    assert result.exit_code == 1
    assert "film [1].mp4" in result.stdout
    assert "with a picture" in result.stdout
    assert "film [1].mp4: no audio stream in this file; give a recording that has sound" in result.stderr
    result = _run("--format", "json", path)
    (known,) = json.loads(result.stdout)
    assert known["selection"] is None
    assert known["audio_streams"] == []
