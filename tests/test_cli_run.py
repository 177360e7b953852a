"""Processing and separating from the command line."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from bgm_pipeline.choice import merits
from bgm_pipeline.cli import app
from bgm_pipeline.models import registry

RATE = 16_000


@pytest.fixture
def chord(tmp_path: Path) -> Path:
    """Four seconds of a chord, in a file whose name is not an easy one."""
    at = np.arange(4 * RATE) / RATE
    samples = sum(0.1 * np.sin(2 * np.pi * hz * at) for hz in (262, 330, 392))
    path = tmp_path / "a chord.wav"
    soundfile.write(path, samples, RATE)
    return path


def test_process_then_ask(bgm, chord: Path) -> None:  # type: ignore[no-untyped-def]
    tokyo = {"BGM_INBOX__TIME_ZONE": "Asia/Tokyo"}
    told = ("--channel", "One", "--title", "Chord", "--air-start", "2026-03-31 20:15")
    program = Path(sys.executable).with_name("bgm")
    done = subprocess.run(  # as it is installed; else in this process
        [program, "process", chord, *told],
        env=os.environ | tokyo,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("episode 1: a chord.wav: ")
    assert "in 00:00:04.000" in done.stdout
    asked = bgm("segments", "--channel", "One", "--format", "csv")
    assert asked.returncode == 0, asked.stderr
    assert len(asked.stdout.splitlines()) == 2
    (programme,) = json.loads(bgm("episodes", "--format", "json", **tokyo).stdout)
    assert programme["air_start"] == "2026-03-31T20:15:00+09:00"
    again = bgm("process", chord)
    assert "known already" in again.stdout


def test_what_is_another_airing_now_and_what_was_replaced_is_told(bgm, chord: Path) -> None:  # type: ignore[no-untyped-def]
    paris = {"BGM_INBOX__TIME_ZONE": "Europe/Paris"}

    def process(*told: str) -> str:
        done = bgm("process", chord, "--model", "passthrough", *told, **paris)
        assert done.returncode == 0, done.stderr
        return "".join(line for line in done.stderr.splitlines() if line.startswith("bgm: "))

    first = ("--channel", "One", "--title", "Chord", "--air-start", "2026-03-31 20:15")
    assert process(*first) == ""
    told = (
        "known as One, 2026-03-31 20:15:00+02:00, Chord before, now as Two, 2026-03-31 20:15:00+02:00, Chord"
    )
    assert process("--channel", "Two") == f"bgm: a chord.wav: {told}"
    soundfile.write(chord, 0.1 * np.ones(RATE, np.float32), RATE)
    replaced = "took the place of episode 1, which is reported no more; bgm store drop 1 removes that"
    assert process(*first, "--channel", "Two") == f"bgm: a chord.wav: {replaced}"
    assert "1 recording is left out: replaced by another at the same place and time" in bgm("log").stderr


def test_a_correction_stays_and_is_told(bgm, chord: Path) -> None:  # type: ignore[no-untyped-def]
    paris = {"BGM_INBOX__TIME_ZONE": "Europe/Paris"}
    told = ("--channel", "One", "--title", "Cord", "--air-start", "2026-03-31 20:15")
    assert bgm("process", chord, "--model", "passthrough", *told, **paris).returncode == 0
    done = bgm("correct", "1", "--title", " Chord ", "--air-start", "2026-03-31 21:15", **paris)
    assert done.stdout == (
        "episode 1: One, 2026-03-31 21:15:00+02:00, Chord (was One, 2026-03-31 20:15:00+02:00, Cord)\n"
    )
    again = bgm("process", chord, "--model", "passthrough", *told, **paris)
    assert "a chord.wav: title, air_start corrected before, and left so; bgm correct" in again.stderr
    assert [
        (one["title"], one["corrected"]) for one in json.loads(bgm("episodes", "--format", "json").stdout)
    ] == [("Chord", "air_start, title")]
    assert bgm("correct", "1", "--withdraw").returncode == 0
    assert "corrected" not in bgm("process", chord, "--model", "passthrough", *told, **paris).stderr
    assert json.loads(bgm("episodes", "--format", "json").stdout)[0]["title"] == "Cord"


def test_one_bad_file_is_one_line_and_stops_no_other(bgm, chord: Path) -> None:  # type: ignore[no-untyped-def]
    bad = chord.with_name("bad.ts")
    bad.write_bytes(b"")
    done = bgm("process", bad, chord, "--model", "passthrough")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("bgm: ")] == [
        f"bgm: {bad}: the file is empty (0 bytes); copy or record it again"
    ]
    assert "Traceback" not in done.stderr
    assert "a chord.wav" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["process", "nowhere.ts"], {}, "nowhere.ts: no such file"),
        (["process", "a chord.wav", "--model", "oracle"], {}, "no network is called 'oracle'"),
        (["process", "a chord.wav", "--device", "abacus"], {}, "device 'abacus' cannot be used"),
        (["process", "a chord.wav", "--air-start", "20260331"], {}, "'20260331': not a date and time; write"),
        (["correct", "1"], {}, "give --channel, --title or --air-start, or --withdraw"),
        (["correct", "1", "--channel", " "], {}, "give --channel, --title or --air-start, or --withdraw"),
        (["correct", "1", "--title", "x", "--withdraw"], {}, "give --channel, --title or --air-start, or"),
        (["correct", "1", "--air-start", "noon"], {}, "--air-start 'noon': not a date and time; write"),
        (["process", "1.ts", "2.ts", "--air-start", "2026-03-31 20:15"], {}, "give them one by one"),
        (["process", "a chord.wav"], {"BGM_DETECTION__ONSET": "loud"}, "BGM_DETECTION__ONSET"),
        (["separate", "a chord.wav", "b/a chord.flac", "-o", "."], {}, "separate them into two folders"),
        (["train", "oracle", "--corpus", ".", "-o", "out", "--steps", "1"], {}, "no network is called"),
        (["train", "music_detector", "--corpus", ".", "-o", "out", "--steps", "1"], {}, "bgm corpus build"),
    ],
)
def test_a_mistake_is_one_line_with_a_cure(  # type: ignore[no-untyped-def]
    bgm, chord: Path, arguments: list[str], environment: dict[str, str], says: str
) -> None:
    done = bgm(*arguments, **environment)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("bgm: ")
    assert says in line


def test_an_hour_that_comes_twice_is_told(bgm, chord: Path) -> None:  # type: ignore[no-untyped-def]
    twice = ("--air-start", "2026-10-25 02:30")
    done = bgm("process", "nowhere.ts", *twice, BGM_INBOX__TIME_ZONE="Europe/Paris")
    assert "bgm: 2026-10-25 02:30 came twice as summer time ended; taken for the first" in done.stderr


def test_what_is_wrong_with_a_recording_is_told_by_the_command_and_kept(  # type: ignore[no-untyped-def]
    bgm, chord: Path
) -> None:
    chord.write_bytes(chord.read_bytes()[:-1000])
    done = bgm("process", chord, "--model", "passthrough")
    assert done.returncode == 0
    assert "bgm: a chord.wav: " in done.stderr and "cut short?" in done.stderr
    assert "cut short?" in bgm("episodes").stdout


def test_the_version_is_told(bgm) -> None:  # type: ignore[no-untyped-def]
    assert bgm("--version").stdout == f"bgm {version('bgm-pipeline')}\n"


def test_separate_any_rate_in_16_khz_out(bgm, chord: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    samples, _ = soundfile.read(chord)
    other = tmp_path / "NAME.wav"
    soundfile.write(other, np.column_stack([np.repeat(samples, 3)] * 2), 48_000)
    done = bgm("separate", chord, other, "-o", "out", "--model", "bandsplit", "--format", "wav")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{name}.{part}.wav" for name in ("NAME", "a chord") for part in ("music", "residual")]
    music, residual = (
        soundfile.read(tmp_path / "out" / f"a chord.{part}.wav") for part in ("music", "residual")
    )
    assert music[1] == residual[1] == RATE
    assert np.allclose(music[0] + residual[0], samples, atol=1e-4)


@pytest.mark.parametrize("name", ["bad\udcff.wav", "two\nlines.wav", f"{'n' * 236}.wav"])
def test_odd_names_are_separated_and_shown_in_one_line(bgm, chord: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    chord.rename(chord.with_name(name))
    done = bgm("separate", name, "-o", "out", "--model", "passthrough")
    assert done.returncode == 0, done.stderr
    stem = Path(name).stem
    written = sorted(path.name for path in (chord.parent / "out").iterdir())
    assert written == [f"{stem}.music.wav", f"{stem}.residual.wav"]
    assert len(done.stdout.splitlines()) == 2
    done = bgm("process", name, "--model", "passthrough")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_name_too_long_to_write_is_one_line(bgm, chord: Path) -> None:  # type: ignore[no-untyped-def]
    chord.rename(chord.with_name(f"{'n' * 246}.wav"))
    done = bgm("separate", f"{'n' * 246}.wav", "-o", "out", "--model", "passthrough")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("bgm: out/nnn") and "(File name too long); name another folder, or give" in line
    assert list((chord.parent / "out").iterdir()) == []


def test_models_tells_size_training_and_what_was_measured_of_each_whole_in_a_pipe(bgm) -> None:  # type: ignore[no-untyped-def]
    done = bgm("models", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "…" not in done.stdout
    assert done.stdout.count("(auto)") == 1
    for name in ("fdmmdensenet", "tdmmdensenet", "music_detector"):
        assert name in done.stdout
    assert re.search(
        r"2dmmdensenet .*587,400.* [\d.]+ h .* [+-][\d.]+ dB SI-SDR .*Heo, Kim & Kwon 2019", done.stdout
    )
    told = {line.split()[1]: line for line in done.stdout.splitlines() if "% identified, " in line}
    assert told.keys() == merits().keys()
    for name, merit in merits().items():
        assert f"{merit.identified:.1%} identified, {merit.si_sdr_db:+z.1f} dB SI-SDR" in told[name]


def test_models_are_timed_as_programmes_are_separated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    few = {name: registry.NETWORKS[name] for name in ("bandsplit", "unet", "music_detector")}
    monkeypatch.setattr(registry, "NETWORKS", few)
    monkeypatch.setenv("BGM_DATA_DIR", str(tmp_path / "data"))
    caplog.set_level("INFO", "bgm_pipeline")
    told = CliRunner().invoke(app, ["models", "--time", "--device", "cpu"]).stdout
    assert re.search(r"bandsplit .* 14\.7 +. +\d+\.\d\d +. .* h ", told), told
    assert re.search(r"unet .* 9\.0 +. +\d+\.\d\d +. none yet", told), "random weights cost the same"
    assert "s: CPU seconds on one core" in told
    assert {f"{name} is computed by OpenVINO" for name in ("bandsplit", "unet")} <= set(caplog.messages)
    assert not (tmp_path / "data").exists(), "no graph of random weights is kept"
