"""What becomes of singing is what happens to the places that are named."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from made_up import made_up_corpus
from typer.testing import CliRunner

from bgm_pipeline.cli import app
from bgm_pipeline.evaluation.mixtures import TestSet
from bgm_pipeline.evaluation.singing import Place, instrumental, measure, write
from bgm_pipeline.pipeline import Networks
from bgm_pipeline.settings import load_settings
from bgm_pipeline.timebase import SAMPLE_RATE


@pytest.fixture
def tests(tmp_path: Path) -> TestSet:
    folder = tmp_path / "corpus"
    folder.mkdir()
    made_up_corpus(folder, "test")
    return TestSet(folder, "test", 1)


def test_the_mixture_as_it_is_keeps_singing_whole_and_leaves_speech_over_it(tests: TestSet) -> None:
    settings = load_settings(model="passthrough", device="cpu", keep="all")
    networks = Networks(settings)
    sung = measure(Place("test", "song3.flac", 12.0, 0.9), 0, tests, networks, settings)
    assert sung.kept_db == pytest.approx(0, abs=0.01)
    assert sung.si_sdr_db == pytest.approx((0, -10), abs=0.3)
    played = measure(Place("test", "song3.flac", 0.0, 0.01), 1, tests, networks, settings)
    findings = [sung, played]
    text = write([sung.place], findings, tests, "a/b", "With it.", "bgm evaluate", tests.folder).read_text()
    assert "| song3, 12 s | 0.90 | 0.0 |" in text
    assert "| song3, 0 s | 0.01 | 0.0 |" in text
    assert "test,song3.flac,12,0.900" in (tests.folder / "singing.csv").read_text()


def test_the_silence_of_a_track_is_no_instrumental_place(tmp_path: Path) -> None:
    music = 0.1 * np.random.default_rng(0).standard_normal(72 * SAMPLE_RATE)
    music[24 * SAMPLE_RATE : 48 * SAMPLE_RATE] = 0
    soundfile.write(tmp_path / "song.flac", music, SAMPLE_RATE)
    unsung = [Place("test", "song.flac", 12.0 * at, 0.0) for at in range(6)]
    assert [place.start_s for place in instrumental(tmp_path, unsung, 2)] == [0, 48]
    assert [place.start_s for place in instrumental(tmp_path, unsung[:4], 4)] == [0, 12]
    assert [place.start_s for place in instrumental(tmp_path, unsung[4:], 1)] == [48]


def test_a_corpus_without_singing_is_said_to_have_none(
    tests: TestSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_MODEL", "passthrough")
    out = tests.folder / "r"
    arguments = ("evaluate", "--corpus", tests.folder, "-o", out, "--only", "singing", "--device", "cpu")
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    text = (out / "passthrough.singing.md").read_text()
    assert "There is none in the test split" in text
    assert "are not separated" not in text
