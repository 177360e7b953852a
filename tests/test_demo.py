"""``bgm demo``, as someone who has just cloned the repository sees it; with made-up sounds, a short script
and a detector that learned these sounds in some seconds."""

import csv
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from made_up import made_up_corpus, trained_detector
from scipy.signal import correlate
from typer.testing import CliRunner, Result

from bgm_pipeline import cli_demo
from bgm_pipeline.demo import programme
from bgm_pipeline.demo.programme import Programme, agreement, make_programme
from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation.broadcast import Part, arrange
from bgm_pipeline.evaluation.timeline import Span
from bgm_pipeline.media.extract import open_audio
from bgm_pipeline.media.probe import probe, select_audio
from bgm_pipeline.models import registry
from bgm_pipeline.settings import MediaSettings
from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.training.corpus import load_corpus

WHOLE = (0.0, 1.0)
SCRIPT = (
    Part("music alone", 15, WHOLE),
    Part("speech alone", 9, speech=WHOLE),
    Part("speech over music, 0 dB", 10, WHOLE, WHOLE, music_to_speech_db=0),
    Part("silence", 5),
    Part("music starts and stops inside a segment", 9, (0.2, 0.7)),
    Part("noise", 6, noise=True),
)

app = typer.Typer()
cli_demo.register(app)


@dataclass(frozen=True)
class Demo:
    """A demo that has run."""

    folder: Path
    result: Result

    def run_again(self) -> Result:
        return CliRunner().invoke(app, ["demo", "--folder", str(self.folder)])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    root = tmp_path_factory.mktemp("demo")
    folder = root / "a folder"
    (folder / "corpus").mkdir(parents=True)
    corpus = made_up_corpus(folder / "corpus", "demo")
    trained_detector(corpus, "demo", root / "music_detector.safetensors")
    calibration = {
        "score_weights": {"mixture_logit": 1.0},
        "score_bias": 0,
        "segment_weight": 1,
        "segment_bias": 0,
    }
    (root / "calibration.json").write_text(json.dumps({"passthrough": calibration}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(registry, "WEIGHTS", root)
        patch.setattr(programme, "SCRIPT", SCRIPT)
        patch.setenv("BGM_MODEL", "passthrough")
        patch.setenv("BGM_DATABASE_URL", f"sqlite:///{root}/mine.sqlite")
        patch.setenv("BGM_STEM_STORE", str(root / "mine"))
        result = CliRunner().invoke(app, ["demo", "--folder", str(folder)])
        yield Demo(folder, result)


@pytest.fixture(scope="module")
def made(demo: Demo) -> Programme:
    """The demo broadcast as it is there after the demo has run."""
    return make_programme(load_corpus(demo.folder / "corpus"), demo.folder)


def test_the_demo_works_and_says_how_well(demo: Demo) -> None:
    assert demo.result.exit_code == 0, demo.result.output
    [share] = re.findall(r"([\d.]+)% of the seconds agree with the truth$", demo.result.stdout, re.M)
    assert float(share) >= 90


def test_the_tables_have_all_segments_and_events_with_the_truth_beside_them(demo: Demo) -> None:
    text = demo.result.stdout
    segments = re.findall(r"^ ?(00:0\d:\d\d) +(00:0\d:\d\d) +(yes|-) +([01]\.\d\d) .*$", text, re.M)
    assert [(start, end) for start, end, _, _ in segments] == [
        ("00:00:00", "00:00:12"),
        ("00:00:12", "00:00:24"),
        ("00:00:24", "00:00:36"),
        ("00:00:36", "00:00:48"),
        ("00:00:48", "00:00:54"),
    ]
    assert [music for *_, music, _ in segments] == ["yes", "yes", "yes", "yes", "-"]
    assert re.search(r"00:00:12 +yes .* 12\.0 s +alone", text), "the truth of the first segment"
    assert re.search(r"00:00:36 +yes .* 10\.0 s +[+-]\d\.\d dB", text), "the truth of speech over music"
    assert re.search(r"00:00:\d\d\.\d00 +00:00:\d\d\.\d00 .* 00:00:00\.000 +00:00:15\.000", text)
    for stage in ("read", "extract", "separate", "detect", "store"):
        assert re.search(rf"^ ?{stage} +\d+\.\d", text, re.M)


def test_what_it_names_is_there(demo: Demo) -> None:
    named = dict(
        re.findall(r"^(broadcast|its truth|timeline|database|stems) +(.+)$", demo.result.stdout, re.M)
    )
    paths = {name: Path(path) for name, path in named.items()}
    assert len(paths) == 5
    assert all(path.exists() for path in paths.values())
    assert paths["timeline"].read_bytes().startswith(b"\x89PNG")
    assert len(list(paths["stems"].rglob("*.flac"))) == 4


def test_the_users_own_store_is_not_touched(demo: Demo) -> None:
    assert not (demo.folder.parent / "mine.sqlite").exists()
    assert not (demo.folder.parent / "mine").exists()
    assert (demo.folder / "data" / "bgm.sqlite").is_file()


def test_the_next_commands_work_as_they_are_pasted(demo: Demo) -> None:
    commands = re.findall(r"^  (BGM_DATA_DIR=.*)$", demo.result.stdout, re.M)
    assert len(commands) == 3
    outputs = []
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert re.search(r"^\d+ rows?$", outputs[0], re.M)
    assert (demo.folder / "music.flac").stat().st_size > 1000
    assert "music" in (demo.folder / "music.txt").read_text()


def test_the_broadcast_is_a_transport_stream_with_title_cards_and_its_truth_in_time(made: Programme) -> None:
    info = probe(made.media)
    assert (info.container, info.has_video) == ("mpegts", True)
    [audio] = info.audio_streams
    assert (audio.codec, audio.sample_rate, audio.channels) == ("mp2", 48_000, 2)
    cards = ["-ss", "20", "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    command = ["ffmpeg", "-v", "fatal", "-i", str(made.media), *cards]
    card = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    assert len(card) == 640 * 360
    assert 0.005 < np.mean(np.frombuffer(card, np.uint8) > 150) < 0.2, "bright words on a dark card"
    with open_audio(info, select_audio(info), MediaSettings()) as reader:
        heard = np.concatenate([block.samples for block in reader])
    corpus = load_corpus(made.media.parent / "corpus")
    written = arrange(corpus, "demo", SCRIPT, programme.SEED).mixture
    assert len(heard) == pytest.approx(len(written), abs=SAMPLE_RATE // 10)
    head = 20 * SAMPLE_RATE
    lag = int(np.argmax(correlate(heard[:head], written[:head], "full", "fft"))) - (head - 1)
    assert abs(lag) < 0.002 * SAMPLE_RATE
    assert np.std(heard[:head]) == pytest.approx(np.std(written[:head]), rel=0.05)


def test_the_truth_beside_it_says_when_and_how_loud(made: Programme) -> None:
    held = json.loads(made.truth_json.read_text())
    with made.truth_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    spans = [(span["start_s"], span["end_s"]) for span in held["music"]]
    assert spans == [(0, 15), (24, 34), (40.6, 45.5)]
    assert [(float(row["start_s"]), float(row["end_s"])) for row in rows] == spans
    assert held["music"][1]["music_to_speech_db"] == pytest.approx(0, abs=0.1)
    assert held["music"][0]["music_to_speech_db"] is None
    assert rows[0]["music_to_speech_db"] == ""
    assert [part["text"] for part in held["parts"]] == [part.what for part in SCRIPT]
    assert [segment["music_s"] for segment in held["segments"]] == pytest.approx([12, 3, 10, 4.9, 0])
    assert [(span.start_s, span.end_s) for span in made.truth.events] == spans


def test_a_second_run_rebuilds_nothing_and_gives_the_same_rows(demo: Demo, made: Programme) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made.media, made.truth_json, made.truth_csv)}
    again = demo.run_again()
    assert again.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before

    def tables(text: str) -> str:
        return text.partition("Seconds per stage")[0]

    assert tables(again.stdout) == tables(demo.result.stdout)
    assert len(list((demo.folder / "data" / "stems").rglob("*.flac"))) == 4


def test_a_broadcast_of_another_script_or_with_a_broken_truth_is_made_anew(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = load_corpus(demo.folder / "corpus")
    monkeypatch.setattr(programme, "SCRIPT", SCRIPT[:1])
    first = make_programme(corpus, tmp_path)
    monkeypatch.setattr(programme, "SCRIPT", (*SCRIPT[:1], Part("silence", 2)))
    second = make_programme(corpus, tmp_path)
    assert (first.truth.duration_s, second.truth.duration_s) == (15, 17)
    assert probe(second.media).duration_s == pytest.approx(17, abs=0.1)
    second.truth_json.write_text('{"music": ')
    assert make_programme(corpus, tmp_path).truth == second.truth
    assert not list(tmp_path.glob("*.wav")) + list(tmp_path.glob("*.partial"))


def test_a_detector_that_is_wrong_fails_the_demo_and_it_says_so(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_DETECTION__ONSET", "1.0")
    result = demo.run_again()
    assert result.exit_code == 1
    assert re.search(r"^\d+\.\d% of the seconds agree .*less than the 90% asked for", result.stdout, re.M)
    assert len(re.findall(r"^ ?missed .*00:00:", result.stdout, re.M)) == 3
    assert result.stdout.count("wrong") == 4


def test_without_debian_packages_one_line_says_what_to_do(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path / "new")])
    assert isinstance(result.exception, InputError)
    message = str(result.exception)
    assert re.search(r"apt-get is not here.*use a recording of your own: bgm process FILE", message)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("found", "share"),
    [
        ([(10, 20)], 1.0),
        ([(10.4, 20.4)], 1.0),
        ([(10.6, 20)], 0.99),
        ([(10, 15), (15, 20)], 1.0),
        ([], 0.9),
        ([(0, 100)], 0.1),
        ([(10, 20), (50, 55)], 0.95),
    ],
)
def test_agreement_counts_whole_seconds(found: list[tuple[float, float]], share: float) -> None:
    assert agreement([Span(*span) for span in found], [Span(10, 20)], 100.0) == pytest.approx(share)
